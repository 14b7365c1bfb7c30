"""`lengthwise measure MODEL`: up to which length does a model generalize, and why not further?"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lengthwise.cli.common import (
    Flag,
    OptionalInt,
    OptionalMetrics,
    OptionalPath,
    OptionalSize,
    OptionalText,
    default_is,
    default_out,
    output_for,
    parse,
    print_facts,
    print_left_out,
    print_table,
    read_settings,
)
from lengthwise.measure.config import LEAST_SEQUENCES, LENGTH_FACTOR, NUM_SEQUENCES, EngineName, MeasureConfig
from lengthwise.units import human_bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure up to which length MODEL generalizes, and why not further.

    Reads long held-out texts in chunks with the state carried: perplexity by position, two verdicts with intervals,
    Effective Remembrance, the state over time. Sizes may be written as 64k or 1m.
    """

    model: Annotated[
        tyro.conf.Positional[OptionalText], tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(or --config)")
    ] = None
    """A folder or the name of a shipped model (`lengthwise models`), or of a model that transformers can load."""
    engine: Annotated[EngineName | None, default_is(MeasureConfig.engine)] = None
    """Whose code runs the model; auto: ours where it knows the format, else transformers."""
    data: Annotated[OptionalText, default_is(MeasureConfig.data)] = None
    """Corpus: the word python, files, folders, or a folder of tokens; its validation side is read."""
    length: Annotated[OptionalSize, default_is(f"{LENGTH_FACTOR} times the training context")] = None
    """Tokens of each text."""
    num_sequences: Annotated[
        OptionalSize, default_is(f"{NUM_SEQUENCES}, or as many as there are from {LEAST_SEQUENCES} on")
    ] = None
    """Texts, each from a document of its own."""
    windows_per_document: Annotated[OptionalSize, default_is(MeasureConfig.windows_per_document)] = None
    """At most this many texts of one document; they count as one in every interval."""
    metrics: Annotated[
        OptionalMetrics,
        tyro.conf.arg(metavar="METRIC ...", help_behavior_hint="(default: all)"),
    ] = None
    """What to measure: perplexity, restart, remembrance, states."""
    context_length: Annotated[OptionalSize, default_is("what the checkpoint says")] = None
    """Training context of the model."""
    tokenizer: Annotated[OptionalText, default_is("the checkpoint's own")] = None
    """The word bytes, or the path of a tokenizer.json."""
    chunk: Annotated[OptionalSize, default_is(MeasureConfig.chunk)] = None
    """Tokens of a text per forward pass; speed and memory only."""
    batch_size: Annotated[OptionalSize, default_is(MeasureConfig.batch_size)] = None
    """Texts per forward pass; speed and memory only."""
    attention_budget: Annotated[OptionalSize, default_is("all")] = None
    """Tokens that attention layers keep and see; the model is then one with such a window."""
    memory_limit: Annotated[OptionalSize, default_is("half of the memory")] = None
    """Most bytes (4g, 500m) that keys and values of attention layers may take."""
    seed: Annotated[OptionalInt, default_is(MeasureConfig.seed)] = None
    """Root of the choice of documents, of places in them, and of resamples."""
    device: Annotated[OptionalText, default_is(MeasureConfig.device)] = None
    """cpu, cuda, or auto: cuda where there is one."""
    label: Annotated[OptionalText, default_is("the model")] = None
    """Name of this run in reports."""
    config: Annotated[OptionalPath, default_is("none")] = None
    """JSON file with settings (any of MeasureConfig), or the folder of a measure run to repeat. Options win."""
    out: Annotated[OptionalPath, default_is("runs/measure-<name of the model>")] = None
    """Run folder to write."""
    resume: Flag = False
    """Go on with an interrupted run in that folder."""
    dry_run: Flag = False
    """Print the plan, sizes and a memory estimate, and stop."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


SETTINGS = (
    "model",
    "engine",
    "data",
    "length",
    "num_sequences",
    "windows_per_document",
    "metrics",
    "context_length",
    "tokenizer",
    "chunk",
    "batch_size",
    "attention_budget",
    "memory_limit",
    "seed",
    "device",
    "label",
)
"""Options that are fields of MeasureConfig."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="measure")
    with output_for(options.json) as emit:
        config = read_config(options)
        out = options.out or default_out("measure", config.model)
        if options.dry_run:
            from lengthwise.plan import measure_plan

            plan = {"out": str(out), **measure_plan(config)}
            emit(plan) if options.json else print_facts("This run would (dry run: nothing was measured)", plan)
            return 0
        from lengthwise.measure import measure

        summary = measure(config, out, resume=options.resume)
        print_left_out(out)
        emit({"run": str(out), **summary}) if options.json else print_summary(str(out), summary)
    return 0


def read_config(options: Options) -> MeasureConfig:
    """Stored settings, overridden by the options that were given."""
    values = read_settings(options, SETTINGS, kind="measure", purpose="measure")
    return MeasureConfig.from_dict(values)


def warnings(summary: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know about a model that is not ours: how it was read, and what is missing."""
    found, outside = [], summary.get("outside")
    if outside is not None:
        how = (
            "streamed with its cache carried"
            if outside["reading"] == "streamed"
            else "read in one pass per text, without its cache"
        )
        found.append(f"{outside['class']} of transformers, {how}: {outside['why']}.")
        if outside["context_length_from"] is not None:
            found.append(
                f"The training context is {outside['context_length_from']} of its configuration; give --context-length "
                "where it was trained on shorter texts."
            )
    attention = summary.get("attention")
    if attention is not None and attention["budget"] is not None:
        found.append(
            f"Attention layers keep and see {attention['budget']:,} tokens: these are the figures of a model with that "
            "window."
        )
    return found + [f"No {metric}: {reason}." for metric, reason in (summary.get("skipped") or {}).items()]


def print_summary(out: str, summary: dict[str, Any]) -> None:
    """The verdicts in words, perplexity by position, and where the rest is."""
    print(
        f"{summary['label'] or summary['model']}: trained on {summary['context_length']:,} tokens at a time,", end=" "
    )
    print(f"measured on {summary['num_sequences']:,} texts of {summary['length']:,} tokens\n")
    for warning in warnings(summary):
        print(f"! {warning}")
    verdicts = summary.get("verdicts") or {}
    for sentence in verdicts.get("words") or ():
        print(f"* {sentence}")
    perplexity = summary.get("perplexity")
    if perplexity:
        definition = verdicts.get("definition") or {}
        ratios = {r["start"]: r["ratio"] for r in definition.get("ratios", ())}
        ratio = "ratio to best inside" + (", difficulty of text taken out" if definition.get("controlled") else "")
        print_table(
            "Perplexity by position",
            ("tokens read", "perplexity", "low", "high", ratio, "bits per byte"),
            [
                (
                    f"{each['start']:,} to {each['end']:,}",
                    each["perplexity"],
                    each["low"],
                    each["high"],
                    ratios.get(each["start"]),
                    each["bits_per_byte"],
                )
                for each in perplexity["bins"]
            ],
        )
    attention = summary.get("attention")
    if attention is not None:
        kept = "all tokens" if attention["budget"] is None else f"{attention['budget']:,} tokens"
        print(f"attention layers keep {kept}, {human_bytes(attention['bytes_per_text'])} of a text at its end\n")
    print(f"run folder: {out}\npage:       lengthwise report {shlex.quote(str(out))}")
