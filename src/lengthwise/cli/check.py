"""`lengthwise check MODEL`: does a model carry its state rightly?"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lengthwise.check.config import CheckConfig, Dtype, Engine
from lengthwise.cli.common import (
    Flag,
    OptionalInt,
    OptionalPath,
    OptionalSize,
    OptionalText,
    default_is,
    output_for,
    parse,
    print_table,
    read_settings,
)
from lengthwise.errors import InputError

if TYPE_CHECKING:
    from lengthwise.check.run import Progress


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check whether MODEL carries its state rightly from call to call.

    A text read at once must give what it gives in pieces, token by token, padded, and beside other rows; so must its
    gradients. Works on our models and on any causal language model of transformers. Exit code 1 where a property
    fails.
    """

    model: Annotated[
        tyro.conf.Positional[OptionalText], tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(or --config)")
    ] = None
    """A folder, a shipped model or preset, owner/name on the hub, or a model type of transformers such as jamba."""
    config_only: Flag = False
    """Check a small random model of the same class: needs no weights, and takes seconds for any size."""
    engine: Annotated[Engine | None, default_is(CheckConfig.engine)] = None
    """Whose code runs the model; auto: ours where it knows the format."""
    length: Annotated[OptionalSize, default_is(CheckConfig.length)] = None
    """Tokens of the probe; more than a sliding window to have it slide."""
    dtype: Annotated[Dtype | None, default_is(CheckConfig.dtype)] = None
    """Precision of weights and computation."""
    device: Annotated[OptionalText, default_is(CheckConfig.device)] = None
    """cpu, cuda, or auto: cuda where there is one."""
    seed: Annotated[OptionalInt, default_is(CheckConfig.seed)] = None
    """Root of the random tokens, and of the weights of a small random model."""
    trust_remote_code: Flag = False
    """Allow code that comes with the model to run."""
    config: Annotated[OptionalPath, default_is("none")] = None
    """JSON file with settings (any of CheckConfig), or the folder of a check run to repeat. Options win."""
    out: Annotated[OptionalPath, default_is("none")] = None
    """Run folder to write: manifest, results.json and, where something fails, fault.py and bug_report.md."""
    script: Annotated[OptionalText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Write a Python script that shows the worst fault; - prints it."""
    bug_report: Annotated[OptionalText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Write Markdown for the maintainers of the model, script included; - prints it."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


SETTINGS = ("model", "engine", "length", "dtype", "device", "seed")
"""Options that are fields of CheckConfig, beside the two flags."""
MODEL = "give a folder or a name, or a model type of transformers with --config-only"
MARKS = {"pass": "pass", "fail": "FAIL", "not supported": "not supported", "error": "ERROR"}


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="check")
    with output_for(options.json) as emit:
        config = read_config(options)
        _check_files(options)
        from lengthwise.check.run import check

        with _progress() as progress:
            result = check(config, options.out, progress=progress)
        written = _write(options, result)
        if options.json:
            emit({**result.record, "run": None if options.out is None else str(options.out), **written})
        else:
            print_findings(result.record)
            _print_rest(options, result, written)
    return 0 if result.passed else 1


def read_config(options: Options) -> CheckConfig:
    """Stored settings, overridden by the options that were given."""
    values = read_settings(options, SETTINGS, kind="check", purpose="check", model=MODEL)
    for flag in ("config_only", "trust_remote_code"):
        if getattr(options, flag):
            values[flag] = True
    return CheckConfig.from_dict(values)


def _check_files(options: Options) -> None:
    """Refuse files that cannot be written, and two results on one stdout, before any work."""
    for name, value in (("--script", options.script), ("--bug-report", options.bug_report)):
        if value is None or value == "-":
            continue
        path = Path(value)
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise InputError(
                expected="a file in a folder that exists",
                got=f"'{value}'" + (", a folder" if path.is_dir() else ""),
                where=name,
                fix="make the folder first, or give another path",
            )
    if options.json and "-" in (options.script, options.bug_report):
        raise InputError(
            expected="one document on stdout",
            got="--json together with - for a file",
            where="the command line",
            fix="leave - out: the JSON holds the script and the report as well",
        )


def _write(options: Options, result: Any) -> dict[str, str | None]:
    """Write what was asked for, and give back the texts for --json."""
    for target, text in ((options.script, result.script), (options.bug_report, result.report)):
        if target not in (None, "-") and text is not None:
            Path(str(target)).write_text(text, encoding="utf-8")
    return {"script": result.script, "bug_report": result.report}


def print_findings(record: dict[str, Any]) -> None:
    """The table of properties, what the faults mean, and what can be trusted."""
    print(
        f"{record['model']}: {record['class']} run by {record['engine']}, {record['parameters']:,} parameters, weights "
        f"{record['weights']}\n{record['length']} random tokens in {record['dtype']}; rounding alone moves logits by "
        f"{record['rounding']:.1e} of their spread of {record['spread']:.2g} ({record['rounding_from']})"
    )
    print_table(
        "",
        ("property", "result", "error / spread", "allowed", "from position"),
        [
            (
                each["title"],
                MARKS[each["status"]],
                _short(each["error"]),
                _short(each["tolerance"]),
                "" if each["first"] is None else str(each["first"]),
            )
            for each in record["findings"]
        ],
    )
    for each in record["findings"]:
        if each["severity"] in ("silent", "loud"):
            print(f"* {each['title']}: {MARKS[each['status']]}. {each['meaning']}")
            if each["note"]:
                print(f"  Found by trying: {each['note']}.")
        elif each["severity"] == "limit" and each["note"]:
            print(f"- {each['title']}: {each['note']}.")
    print("\nFor measuring:")
    for sentence in record["trust"] + record["limits"]:
        print(f"* {sentence}")


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _print_rest(options: Options, result: Any, written: dict[str, str | None]) -> None:
    """The texts that were asked for with -, and where the others are."""
    if result.passed:
        print("\nAll properties that the model offers hold.")
        return
    for target, text, name in (
        (options.script, written["script"], "script"),
        (options.bug_report, written["bug_report"], "bug report"),
    ):
        if text is None:
            if target is not None:
                print(f"\nno {name}: the fault could not be shown outside of this check")
        elif target == "-":
            print(f"\n{text}")
        elif target is not None:
            print(f"{name}: {target}")
    if options.out is not None:
        print(f"run folder: {options.out}")
    if options.script is None and options.bug_report is None and options.out is None and result.script is not None:
        print("\n--script FILE writes a script that shows the worst fault, --bug-report FILE a report with it.")


@contextmanager
def _progress() -> "Iterator[Progress | None]":
    """The property at work, on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("loading") as status:
        yield lambda name: status.update(f"checked: {name}")
