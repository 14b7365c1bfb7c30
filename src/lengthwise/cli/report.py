"""`lengthwise report RUN...`: one page with tables and charts from run folders; scores made again; SQL over runs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lengthwise.cli.common import (
    Flag,
    OptionalInt,
    OptionalPath,
    OptionalText,
    default_is,
    output_for,
    parse,
    print_table,
)
from lengthwise.errors import InputError
from lengthwise.units import human_bytes

if TYPE_CHECKING:
    from lengthwise.evaluate.rescore import Rescored
    from lengthwise.report import AnyGroup


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make one self-contained HTML page from the folders of measure, extend, demo, train and eval runs.

    Measure runs given together are drawn on the same axes, and so are eval runs; an extend run brings its own before,
    control and after. No model is loaded, and the page loads nothing from the network.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]
    """Run folders."""
    out: Annotated[OptionalPath, default_is("the run folder, or report.html for several runs")] = None
    """Folder for report.html, or a file ending in .html."""
    figures: Flag = False
    """Also write the charts as PNG, SVG and PDF, and the tables as CSV, Markdown and LaTeX."""
    samples: Annotated[OptionalInt, default_is("as many as fit a page of a few MB")] = None
    """Samples of each task at each length of an eval run that the page shows one by one; 0 for none."""
    rescore: Flag = False
    """First score the outputs of the eval runs again, without the model, and rewrite their scores and summary."""
    sql: Annotated[OptionalText, default_is("no query; a page")] = None
    """Instead of a page, answer a query in DuckDB's SQL over the tables runs, cells, samples and positions."""
    json: Flag = False
    """Print JSON for machines, and nothing else on stdout."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parse(Options, arguments, verb="report")
    if not options.runs:
        raise InputError(
            expected="at least one run folder",
            got="none",
            where="the command line, after `lengthwise report`",
            fix="give the folder that a measure, extend, train, demo or eval run wrote",
        )
    _check(options)
    with output_for(options.json) as emit:
        rescored = _rescore(options.runs) if options.rescore else []
        if not options.json:
            for found in rescored:
                print_rescored(found)
        if options.sql is not None:
            from lengthwise.report.sql import query

            answer = query(options.runs, options.sql)
            if options.json:
                emit({"columns": answer.columns, "rows": [[_plain(cell) for cell in row] for row in answer.rows]})
            else:
                print_table(f"{len(answer.rows):,} rows", answer.columns, answer.rows)
            return 0
        from lengthwise.report import write_report

        written = write_report(options.runs, options.out, figures=options.figures, samples=options.samples)
        if options.json:
            emit(
                {
                    **({"rescored": rescored} if options.rescore else {}),
                    "page": str(written.page),
                    "bytes": written.num_bytes,
                    "figures": [str(path) for path in written.figures],
                    "tables": [str(path) for path in written.tables],
                    "groups": [_described(group) for group in written.groups],
                }
            )
        else:
            for group in written.groups:
                print_group(group)
            print(f"page: {written.page} ({human_bytes(written.num_bytes)}, opens without a network)")
            if written.figures:
                print(f"figures: {len(written.figures)} files in {written.figures[0].parent}")
                print(f"tables: {len(written.tables)} files in {written.tables[0].parent}")
    return 0


def _check(options: Options) -> None:
    """Refuse what would be without effect or without sense."""
    if options.samples is not None and options.samples < 0:
        raise InputError(
            expected="a whole number from 0", got=str(options.samples), where="--samples", fix="give, for example, 20"
        )
    idle = [f"--{name}" for name in ("out", "figures", "samples") if getattr(options, name) not in (None, False)]
    if options.sql is not None and idle:
        raise InputError(
            expected="--sql, or a page",
            got=f"--sql together with {', '.join(idle)}",
            where="the command line",
            fix="give two commands; a query can write a file itself: COPY (SELECT ...) TO 'scores.csv'",
        )


def _rescore(runs: Sequence[Path]) -> "list[Rescored]":
    """Score every evaluation among the runs again."""
    from lengthwise.evaluate.rescore import rescore
    from lengthwise.runs import RunFolder

    kinds = {path: RunFolder.open(path).manifest.get("kind") for path in runs}
    evals = [path for path, kind in kinds.items() if kind == "eval"]
    if not evals:
        raise InputError(
            expected="at least one run of kind eval to score again",
            got=f"runs of kind {', '.join(sorted({str(kind) for kind in kinds.values()}))}",
            where="--rescore",
            fix="give the folder of an evaluation, or leave --rescore out",
        )
    return [rescore(path) for path in evals]


def print_rescored(found: "Rescored") -> None:
    """For people: what scoring again changed."""
    failed = f"; {found.failures:,} failed and stay so" if found.failures else ""
    print(f"{found.path}: scored {found.count:,} outputs again, {found.changed:,} scores changed{failed}")
    for name, (old, new) in found.versions.items():
        print(f"  {name} was version {old}, is {new} now")
    if found.cells:
        rows = [
            (cell.task, cell.length, 100 * cell.before, 100 * cell.after, f"{cell.changed:,} of {cell.count:,}")
            for cell in found.cells
        ]
        print_table("changed means, in percent", ("task", "length", "before", "after", "scores changed"), rows)


def _plain(cell: Any) -> Any:
    """A value of a query as JSON has it."""
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if cell is None or isinstance(cell, str | int | bool):
        return cell
    if isinstance(cell, list | tuple):
        return [_plain(item) for item in cell]
    if isinstance(cell, dict):
        return {str(key): _plain(item) for key, item in cell.items()}
    return str(cell)


def _described(group: "AnyGroup") -> dict[str, Any]:
    """A group for machines: its result in words, and the verdicts or scores by model."""
    from lengthwise.report.evals.records import EvalGroup
    from lengthwise.report.faces import headline

    return {
        "title": group.title,
        "kind": group.kind,
        "headline": headline(group),
        "notes": list(group.notes),
        "models": [
            {
                "name": model.name,
                "run": model.path,
                "complete": model.complete,
                "failures": model.failures,
                "mean": {str(length): asdict(mean) for length, mean in model.mean.items()},
                "effective_length": {"by_own_share": model.by_own_share, "by_ruler_threshold": model.by_threshold},
            }
            for model in group.models
        ]
        if isinstance(group, EvalGroup)
        else [
            {
                "name": model.name,
                "role": model.role,
                "run": model.path,
                "verdict": model.verdict,
                "definition": model.definition.verdict if model.definition else None,
                "worst_ratio": model.definition.worst_ratio if model.definition else None,
                "restart": model.restart.verdict if model.restart else None,
                "difference": model.restart.difference if model.restart else None,
            }
            for model in group.models
        ],
    }


def print_group(group: "AnyGroup") -> None:
    """A group for people: headline, notes, and the scoreboard of the page."""
    from lengthwise.report.faces import board, headline

    for note in group.notes:
        print(f"note: {note}")
    columns = ("", *(model.name for model in group.models))
    rows = [
        (row.question, *(" ".join([cell.text, *cell.small.splitlines()]) for cell in row.cells)) for row in board(group)
    ]
    if rows:
        print_table(f"{group.title}: {headline(group)}", columns, rows)
    else:
        print(f"{group.title}: {headline(group)}")
