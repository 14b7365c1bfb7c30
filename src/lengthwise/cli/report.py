"""`lengthwise report RUN...`: one page with tables and charts from run folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lengthwise.cli.common import Flag, OptionalPath, default_is, human_bytes, output_for, parse, print_table
from lengthwise.errors import InputError

if TYPE_CHECKING:
    from lengthwise.report import Group


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make one self-contained HTML page from the folders of measure, extend, demo and train runs.

    Measure runs given together are drawn on the same axes; an extend run brings its own before, control and after. No
    model is loaded, and the page loads nothing from the network.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]
    """Run folders."""
    out: Annotated[OptionalPath, default_is("the run folder, or report.html for several runs")] = None
    """Folder for report.html, or a file ending in .html."""
    figures: Flag = False
    """Also write the charts as PNG, SVG and PDF, and the tables as CSV and Markdown."""
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
            fix="give the folder that a measure, extend, train or demo run wrote",
        )
    with output_for(options.json) as emit:
        from lengthwise.report import write_report

        written = write_report(options.runs, options.out, figures=options.figures)
        if options.json:
            emit(
                {
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


def _described(group: "Group") -> dict[str, Any]:
    """A group for machines: its result in words, and the verdicts by model."""
    from lengthwise.report.words import headline

    return {
        "title": group.title,
        "kind": group.kind,
        "headline": headline(group),
        "notes": list(group.notes),
        "models": [
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


def print_group(group: "Group") -> None:
    """A group for people: headline, notes, and the scoreboard of the page."""
    from lengthwise.report.tables import board
    from lengthwise.report.words import headline

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
