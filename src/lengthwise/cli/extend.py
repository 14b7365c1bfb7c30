"""`lengthwise extend MODEL`: make a model generalize, beside a control, measured before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lengthwise.cli.common import (
    Flag,
    OptionalFloat,
    OptionalInt,
    OptionalMetrics,
    OptionalPath,
    OptionalSize,
    OptionalText,
    default_is,
    default_out,
    given,
    output_for,
    parse,
    print_facts,
    print_left_out,
    read_settings,
)
from lengthwise.extend import ExtendConfig
from lengthwise.interventions.config import InterventionKind
from lengthwise.measure.config import LEAST_SEQUENCES, LENGTH_FACTOR, NUM_SEQUENCES, MeasureConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Post-train MODEL with an intervention so that it generalizes, and show that it does.

    A control is trained for as many steps on the same text from zero states; MODEL, control and result are measured on
    the same held-out text. Sizes may be written as 64k or 1m.
    """

    model: Annotated[
        tyro.conf.Positional[OptionalText], tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(or --config)")
    ] = None
    """Checkpoint folder, or the name of a shipped model (`lengthwise models`)."""
    intervention: Annotated[InterventionKind | None, default_is("state-passing")] = None
    """What sequences start from while training; zero is the control and always there."""
    steps: Annotated[OptionalSize, default_is(ExtendConfig.steps)] = None
    """Optimizer steps, of the intervention and of the control."""
    batch_size: Annotated[OptionalSize, default_is("as in pre-training, else 32")] = None
    """Sequences per step."""
    peak_lr: Annotated[OptionalFloat, default_is("a tenth of the pre-training peak, else 1e-4")] = None
    """Largest learning rate."""
    zero_prob: Annotated[OptionalFloat, default_is("0.1 for state-passing, else 0")] = None
    """Share of sequences that start from zero all the same."""
    carry_short: Annotated[Literal["yes", "no"] | None, default_is("yes for tbtt, no for state-passing")] = None
    """Whether the buffer of the short convolution is carried as well."""
    sigma: Annotated[OptionalFloat, default_is("none")] = None
    """random-noise: standard deviation in the state's own unit."""
    sigma_relative: Annotated[OptionalFloat, default_is("1")] = None
    """random-noise: standard deviation as a multiple of that of the final states."""
    beta: Annotated[OptionalFloat, default_is("0.1")] = None
    """fitted-noise: weight of the old value in the moving average."""
    data: Annotated[OptionalText, default_is(ExtendConfig.data)] = None
    """Corpus: the word python, files, folders, or a folder of tokens. Trained on one side, measured on the other."""
    context_length: Annotated[OptionalSize, default_is("what the checkpoint says")] = None
    """Tokens of a training window, and the training context in the measurements."""
    tokenizer: Annotated[OptionalText, default_is("the checkpoint's own")] = None
    """The word bytes, or the path of a tokenizer.json."""
    length: Annotated[OptionalSize, default_is(f"{LENGTH_FACTOR} times the training context")] = None
    """Tokens of each measured text."""
    num_sequences: Annotated[
        OptionalSize, default_is(f"{NUM_SEQUENCES}, or as many as there are from {LEAST_SEQUENCES} on")
    ] = None
    """Measured texts, each from a document of its own."""
    windows_per_document: Annotated[OptionalSize, default_is(MeasureConfig.windows_per_document)] = None
    """At most this many texts of one document; they count as one in every interval."""
    metrics: Annotated[OptionalMetrics, tyro.conf.arg(metavar="METRIC ...", help_behavior_hint="(default: all)")] = None
    """What to measure: perplexity, restart, remembrance, states."""
    seed: Annotated[OptionalInt, default_is(ExtendConfig.seed)] = None
    """Root of every random draw."""
    device: Annotated[OptionalText, default_is(ExtendConfig.device)] = None
    """cpu, cuda, or auto: cuda where there is one."""
    config: Annotated[OptionalPath, default_is("none")] = None
    """JSON file with settings (any of ExtendConfig), or the folder of an extend run to repeat. Options win."""
    out: Annotated[OptionalPath, default_is("runs/extend-<name of the model>")] = None
    """Run folder to write."""
    resume: Flag = False
    """Go on with an interrupted run in that folder."""
    dry_run: Flag = False
    """Print the plan, sizes and a memory estimate, and stop."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


SETTINGS = ("model", "steps", "batch_size", "peak_lr", "data", "context_length", "tokenizer", "seed", "device")
"""Options that are fields of ExtendConfig."""
INTERVENTION_SETTINGS = ("zero_prob", "sigma", "sigma_relative", "beta")
"""Options that are fields of InterventionConfig, beside carry_short."""
MEASURE_SETTINGS = ("length", "num_sequences", "windows_per_document", "metrics")
"""Options that are fields of MeasureConfig."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="extend")
    with output_for(options.json) as emit:
        config = read_config(options)
        out = options.out or default_out("extend", config.model)
        if options.dry_run:
            from lengthwise.plan import extend_plan

            plan = {"out": str(out), **extend_plan(config)}
            emit(plan) if options.json else print_facts("This run would (dry run: nothing was trained)", plan)
            return 0
        from lengthwise.extend import extend

        comparison = extend(config, out, resume=options.resume)
        print_left_out(out)
        emit({"run": str(out), **comparison}) if options.json else print_comparison(out)
    return 0


def read_config(options: Options) -> ExtendConfig:
    """Stored settings, overridden by the options that were given."""
    values = read_settings(options, SETTINGS, kind="extend", purpose="extend")
    intervention = dict(values.get("intervention") or {"kind": "state-passing"})
    if options.intervention is not None and options.intervention != intervention.get("kind"):
        intervention = {"kind": options.intervention}  # options of another kind have no meaning here
    intervention.update(given(options, INTERVENTION_SETTINGS))
    if options.carry_short is not None:
        intervention["carry_short"] = options.carry_short == "yes"
    values["intervention"] = intervention
    values["measure"] = {**(values.get("measure") or {}), **given(options, MEASURE_SETTINGS)}
    return ExtendConfig.from_dict(values)


def print_comparison(out: Path) -> None:
    """Before, control and after side by side, as the report has it, and where the new model is."""
    from lengthwise.cli.report import print_group
    from lengthwise.report import load_groups

    for group in load_groups([out]):
        print_group(group)
    print(f"new model:  {out / 'checkpoint'}\nrun folder: {out}")
