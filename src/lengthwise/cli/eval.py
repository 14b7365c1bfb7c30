"""`lengthwise eval MODEL`: does it find, track, count and copy what stands far back in a long text?"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lengthwise.cli.common import (
    Flag,
    OptionalFloat,
    OptionalInt,
    OptionalPath,
    OptionalSize,
    OptionalSizes,
    OptionalText,
    OptionalTexts,
    default_is,
    default_out,
    output_for,
    parse,
    print_facts,
    print_table,
    read_settings,
)
from lengthwise.errors import InputError
from lengthwise.evaluate.config import Dtype, EngineName, EvalConfig, ServerApi, Wording


@dataclass(frozen=True, kw_only=True)
class Options:
    """Ask MODEL about long texts: needles, variables, counts, questions, copying.

    Every task at every length, each answer kept as soon as it is there. Lengths are tokens of prompt and answer
    together, may be written as 4k, and nothing is ever cut to fit them.
    """

    model: Annotated[
        tyro.conf.Positional[OptionalText], tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(or --config)")
    ] = None
    """A folder, a shipped model, owner/name on the hub, or the name a server knows its model by."""
    tasks: Annotated[OptionalTexts, default_is(EvalConfig.tasks, metavar="TASK ...")] = None
    """Tasks and groups of tasks; --list-tasks shows them."""
    lengths: Annotated[OptionalSizes, default_is("1k 2k 4k")] = None
    """Lengths in tokens."""
    num_samples: Annotated[OptionalSize, default_is(EvalConfig.num_samples, aliases=["--limit"])] = None
    """Samples of each task at each length."""
    seed: Annotated[OptionalInt, default_is(EvalConfig.seed)] = None
    """Root of every sample."""
    engine: Annotated[EngineName | None, default_is(EvalConfig.engine)] = None
    """Who runs the model; auto: our own code where it knows the format, else transformers."""
    server_url: Annotated[OptionalText, default_is("none", metavar="URL")] = None
    """Address of an OpenAI-compatible server, for --engine server; its key is read from OPENAI_API_KEY."""
    server_api: Annotated[ServerApi | None, default_is(EvalConfig.server_api)] = None
    """Continue the prompt, or send it as a user's message."""
    server_timeout: Annotated[OptionalFloat, default_is(EvalConfig.server_timeout, metavar="SECONDS")] = None
    """Time that a request may take."""
    server_retries: Annotated[OptionalInt, default_is(EvalConfig.server_retries)] = None
    """Times that a request is sent again which failed for a passing reason."""
    context_length: Annotated[OptionalSize, default_is("what the model or the server says")] = None
    """Most tokens that the model takes."""
    tokenizer: Annotated[OptionalText, default_is("the model's own")] = None
    """Tokenizer that lengths are counted with: bytes, a path, or owner/name on the hub."""
    scorer: Annotated[OptionalText, default_is("each task's own")] = None
    """Rule of scoring that counts where a task knows several; all are recorded."""
    wording: Annotated[Wording | None, default_is(EvalConfig.wording)] = None
    """Our own wording, or the benchmark's from a copy of its sources."""
    ruler_source: Annotated[OptionalText, default_is("what `lengthwise data get ruler` fetched", metavar="FOLDER")] = (
        None
    )
    """Copy of RULER, for --wording official."""
    babilong_source: Annotated[
        OptionalText, default_is("what `lengthwise data get babilong` fetched", metavar="FOLDER")
    ] = None
    """Copy of BABILong, for --wording official."""
    model_template: Annotated[OptionalText, default_is(EvalConfig.model_template)] = None
    """Template of RULER's around every prompt, for --wording official."""
    books: Annotated[OptionalTexts, default_is("text of the Python installation", metavar="PATH ...")] = None
    """Files and folders with the text around BABILong's facts."""
    data_dir: Annotated[OptionalText, default_is("the data folder", metavar="FOLDER")] = None
    """Folder with benchmark files."""
    batch_size: Annotated[OptionalSize, default_is(EvalConfig.batch_size)] = None
    """Prompts that are answered side by side; speed and memory only."""
    chunk: Annotated[OptionalSize, default_is(EvalConfig.chunk)] = None
    """Most tokens of a prompt per forward pass; speed and memory only."""
    no_prefix_reuse: Flag = False
    """Read what prompts have in common once for each of them; our own engine reads it once for all."""
    device: Annotated[OptionalText, default_is(EvalConfig.device)] = None
    """cpu, cuda, or auto: cuda where there is one."""
    dtype: Annotated[Dtype | None, default_is(EvalConfig.dtype)] = None
    """Numbers that weights are held in."""
    label: Annotated[OptionalText, default_is("the model")] = None
    """Name of this run in reports."""
    config: Annotated[OptionalPath, default_is("none")] = None
    """JSON file with settings (any of EvalConfig), or the folder of an eval run to repeat. Options win."""
    out: Annotated[OptionalPath, default_is("runs/eval-<name of the model>")] = None
    """Run folder to write."""
    resume: Flag = False
    """Go on with an interrupted run in that folder."""
    list_tasks: Flag = False
    """Print the names of all tasks and groups, and stop."""
    dry_run: Flag = False
    """Print the plan, sizes and a memory estimate, and stop."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


SETTINGS = (
    "model",
    "tasks",
    "lengths",
    "num_samples",
    "seed",
    "engine",
    "server_url",
    "server_api",
    "server_timeout",
    "server_retries",
    "context_length",
    "tokenizer",
    "scorer",
    "wording",
    "ruler_source",
    "babilong_source",
    "model_template",
    "books",
    "data_dir",
    "batch_size",
    "chunk",
    "device",
    "dtype",
    "label",
)
"""Options that are fields of EvalConfig."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="eval")
    with output_for(options.json) as emit:
        if options.list_tasks:
            known = list_tasks()
            emit(known) if options.json else print_tasks(known)
            return 0
        config = read_config(options)
        out = options.out or default_out("eval", config.model)
        from lengthwise.evaluate.subject import open_subject, task_options
        from lengthwise.tasks.registry import make_tasks

        tasks = make_tasks(config.tasks, task_options(config))
        check_scorer(config.scorer, tasks)
        subject = open_subject(config)
        if options.dry_run:
            from lengthwise.plan import eval_plan

            plan = {"out": str(out), **eval_plan(config, tasks, subject)}
            emit(plan) if options.json else print_facts("This run would (dry run: nothing was asked)", plan)
            return 0
        from lengthwise.evaluate.run import evaluate

        with _world(config) as world:
            summary = evaluate(config, tasks, subject, out, resume=options.resume, world=world)
            if world.is_main:
                emit({"run": str(out), **summary}) if options.json else print_summary(str(out), summary)
    return 0


def _world(config: EvalConfig) -> Any:
    """The processes that torchrun started; one waits for the others as long as a share may take."""
    from datetime import timedelta

    from lengthwise.devices import choose_device
    from lengthwise.distributed import world_from_environment

    return world_from_environment(choose_device(config.device), patience=timedelta(days=7))


def read_config(options: Options) -> EvalConfig:
    """Stored settings, overridden by the options that were given."""
    values = read_settings(options, SETTINGS, kind="eval", purpose="evaluate")
    if options.no_prefix_reuse:
        values["reuse_prefixes"] = False
    return EvalConfig.from_dict(values)


def check_scorer(scorer: str | None, tasks: Sequence[Any]) -> None:
    """Refuse a rule of scoring that none of the tasks knows."""
    from lengthwise.errors import near_matches

    known = {rule for task in tasks for rule in task.scorers()}
    if scorer is not None and scorer not in known:
        raise InputError(
            expected="a rule of scoring that one of the tasks knows",
            got=repr(scorer),
            where="--scorer",
            fix=near_matches(scorer, known),
        )


def list_tasks() -> dict[str, Any]:
    """Groups and tasks with what they are about."""
    from lengthwise.tasks.registry import FAMILIES, GROUPS, expand

    return {
        "groups": {name: {"about": group.about, "tasks": len(expand(name))} for name, group in GROUPS.items()},
        "tasks": {
            name: {"about": family.about, "parameters": list(family.parameters)} for name, family in FAMILIES.items()
        },
    }


def print_tasks(known: Mapping[str, Any]) -> None:
    """Both tables, and how parameters are written."""
    groups = [(name, row["tasks"], row["about"]) for name, row in known["groups"].items()]
    print_table("Groups", ("group", "tasks", "about"), groups)
    print_table(
        "Tasks",
        ("task", "parameters", "about"),
        [(name, ", ".join(row["parameters"]), row["about"]) for name, row in known["tasks"].items()],
    )
    print(
        "parameters: niah_grid:haystack=prose,value=uuid,depth=0+50+100 is three tasks; several values are joined by +"
    )


def print_summary(out: str, summary: Mapping[str, Any]) -> None:
    """Scores with their intervals, what they have to be compared with, and where the rest is."""
    lengths = [str(length) for length in summary["lengths"]]
    label = summary["label"] or summary["model"]
    print(f"{label}: {summary['num_samples']:,} samples of each task at each length; per cent, with 95 % intervals\n")
    for each in summary["left_out"]:
        print(f"! left out: {each['task']} at {each['length']:,}; it needs at least {each['least']:,} tokens.")
    if summary["failures"]:
        print(f"! {summary['failures']:,} of {summary['num_records']:,} samples failed and count as 0; f: how many.")
    rows = [
        (name, *(_cell(cells.get(length)) for length in lengths), _floor(summary["floors"][name]))
        for name, cells in summary["tasks"].items()
    ]
    if len(summary["tasks"]) > 1 and summary["mean_tasks"]:
        title = f"mean of {len(summary['mean_tasks'])}"
        rows.append((title, *(_cell(summary["mean"][length]) for length in lengths), ""))
    if summary["ruler_mean"] is not None:
        rows.append(("RULER's mean of 13", *(_cell(summary["ruler_mean"].get(length)) for length in lengths), ""))
    print_table("", ("task", *(f"{int(length):,}" for length in lengths), "by guessing"), rows)
    for sentence in effective_lengths(summary):
        print(f"* {sentence}")
    print(f"run folder: {out}\npage:       lengthwise report {shlex.quote(str(out))}")


def effective_lengths(summary: Mapping[str, Any]) -> list[str]:
    """Up to which length the model is good, by both rules, in words."""
    found, sentences = summary["effective_length"], []
    if summary["ruler_mean"] is not None:
        length = found["by_ruler_threshold"]
        share = f"{100 * found['ruler_threshold']:.1f} % over RULER's 13 tasks"
        sentences.append(
            f"Effective length: {length:,} tokens, the longest up to which it scores {share}."
            if length
            else f"Effective length: none; it does not reach {share} at {summary['lengths'][0]:,} tokens."
        )
    if len(summary["lengths"]) > 1 and summary["mean_tasks"]:
        length = found["by_own_share"]
        first = f"{summary['lengths'][0]:,} tokens"
        sentences.append(
            f"It keeps {100 * found['own_share']:.0f} % of its own mean at {first} up to {length:,} tokens."
            if length
            else f"Its mean at {first} is 0, so there is nothing to keep at longer ones."
        )
    return sentences


def _cell(mean: Mapping[str, Any] | None) -> str:
    """A mean with its interval and the number of failures, in per cent; a dash where there is none."""
    if mean is None or mean["value"] is None:
        return "-"
    text = f"{100 * mean['value']:.1f}"
    if mean["low"] is not None:
        text += f" ({100 * mean['low']:.1f} to {100 * mean['high']:.1f})"
    return text + (f" f {mean['failures']}" if mean["failures"] else "")


def _floor(floor: float | None) -> str:
    return "0 or unknown" if floor is None else f"{100 * floor:.1f}"
