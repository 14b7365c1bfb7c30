"""Tables show the numbers of the run; "not measured" is a dash for people and an empty cell for machines."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from lengthwise.report import charts, tables
from lengthwise.report.load import load_groups
from lengthwise.report.records import Group
from lengthwise.report.tables import Table


@pytest.fixture(scope="module")
def group(runs: Path) -> Group:
    return load_groups([runs / "extend"])[0]


def test_all_tables_of_a_full_run(group: Group) -> None:
    found = tables.all_tables(group)
    assert [table.key for table in found] == [
        "verdicts",
        "perplexity",
        "restart",
        "remembrance",
        "states",
        "heads",
        "training",
    ]
    for table in found:
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_only_what_was_measured(runs: Path) -> None:
    (group,) = load_groups([runs / "partial"])
    assert [table.key for table in tables.all_tables(group)] == ["verdicts", "perplexity"]


def test_csv_keeps_full_precision(group: Group) -> None:
    table = next(table for table in tables.all_tables(group) if table.key == "perplexity")
    lines = list(csv.reader(io.StringIO(table.csv())))
    assert tuple(lines[0]) == table.columns
    before = group.models[0].perplexity
    assert before is not None
    assert [float(line[1]) for line in lines[1:]] == [b.value for b in before]


def test_missing_values(runs: Path) -> None:
    (group,) = load_groups([runs / "broken", runs / "partial"])
    verdicts = next(table for table in tables.all_tables(group) if table.key == "verdicts")
    restart = verdicts.columns.index("restart")
    assert verdicts.rows[1][restart] is None
    assert verdicts.shown()[1][restart] == "–"
    assert list(csv.reader(io.StringIO(verdicts.csv())))[2][restart] == ""


def test_markdown_keeps_its_columns_whatever_the_names() -> None:
    table = Table("k", "Title", "Caption.", ("model", "a|b"), (("one\ntwo | three", 1234.5),))
    assert table.markdown().splitlines() == [
        "### Title",
        "",
        "Caption.",
        "",
        "| model | a\\|b |",
        "| --- | ---: |",
        "| one two \\| three | 1234 |",
    ]


def test_board_compares_the_models(group: Group) -> None:
    rows = tables.board(group)
    assert [[cell.text for cell in row.cells] for row in rows] == [
        ["breaks", "breaks", "holds"],
        ["hurts", "hurts", "helps"],
        ["×2.19", "×2.02", "×1.04"],
        ["0.31", "0.28", "0.10"],
    ]
    assert rows[0].cells[0].small.splitlines() == ["at worst ×1.18 its best", "(1.17 to 1.20)", "fails from 1,448 on"]
    assert rows[1].cells[2].small.splitlines() == ["−0.0120 nats per token", "(−0.0160 to −0.0080)"]


def test_controlled_ratios_are_named_so(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "partial", tmp_path / "run")
    file = tmp_path / "run" / "summary.json"
    summary = json.loads(file.read_text())
    summary["verdicts"]["definition"]["controlled"] = True
    file.write_text(json.dumps(summary))
    (plain,), (group,) = load_groups([runs / "partial"]), load_groups([tmp_path / "run"])
    assert tables.board(plain)[0].question == "Does perplexity hold past 256 tokens?"
    assert tables.board(group)[0].question == (
        "Does perplexity hold past 256 tokens, the difficulty of the text taken out?"
    )
    captions = [tables.all_tables(each)[0].caption for each in (plain, group)]
    assert captions[1].removeprefix(captions[0]) == (
        " Ratios are those of perplexities, the difficulty of the text taken out; strict goes by the perplexities as "
        "they are, which the chart and the table by position show."
    )


def test_bounds_of_the_verdicts_are_not_called_intervals(group: Group) -> None:
    found = {table.key: table.caption for table in tables.all_tables(group)}
    bounds = "97.5 % bounds over documents, the upper one for its own bin, the lower ones for all bins together"
    assert found["restart"] == f"Negative: the full history helps. Low and high: {bounds}."
    assert f"Low and high of the worst ratio: {bounds}; those of full − restart" in found["verdicts"]
    assert "95 % bootstrap intervals" in found["perplexity"]
    chart = next(each for each in charts.drawn(group) if each.key == "restart")
    assert chart.caption.endswith(f"; the bands are {bounds}.")
    assert "bounds, 97.5 % each" in json.dumps(chart.spec)
    assert "interval" not in json.dumps(chart.spec)


def test_board_says_not_measured(runs: Path) -> None:
    (group,) = load_groups([runs / "partial"])
    assert [row.cells[0].text for row in tables.board(group)] == ["holds", *["not measured"] * 3]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (12345, "12,345"), (0.0, "0"), (-0.01234, "−0.01234"), (1e-9, "1.000e−09"), ("text", "text")],
)
def test_values_as_people_read_them(value: tables.Value, shown: str) -> None:
    assert tables.show(value) == shown
