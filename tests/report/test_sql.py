"""Run folders as tables for DuckDB."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.report.fabricate import write_measure
from tests.report.fabricate_evals import write_eval

from lengthwise.errors import InputError
from lengthwise.report.sql import TABLES, query
from lengthwise.runs import RunFolder

duckdb = pytest.importorskip("duckdb", reason="the extra sql is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `first` (with failures) and `second` (eval), `going` (not finished), and `measured`."""
    folder = tmp_path_factory.mktemp("queried")
    write_eval(folder / "first", tasks=("vt", "qa_1"), failing=3)
    write_eval(folder / "second", tasks=("vt", "qa_1"), seed=1, model="some/model", label="it's ours")
    write_eval(folder / "going", tasks=("vt",), keep=7)
    write_measure(folder / "measured", metrics=("perplexity",))
    return folder


def test_every_table_has_the_columns_it_promises(folder: Path) -> None:
    runs = [folder / name for name in ("first", "second", "going", "measured")]
    for table, columns in TABLES.items():
        found = query(runs, f"SELECT * FROM {table}")
        assert found.columns == tuple(columns)
        assert found.rows
        assert query([folder / "measured"], f"SELECT * FROM {table}").columns == tuple(columns)


def test_runs(folder: Path) -> None:
    found = query([folder / "first", folder / "going", folder / "measured"], "SELECT run, kind, status FROM runs")
    assert found.rows == (
        ("first", "eval", "complete"),
        ("going", "eval", "running"),
        ("measured", "measure", "complete"),
    )
    years = query([folder / "first"], "SELECT year(started), config->>'$.num_samples' FROM runs")
    started = RunFolder.open(folder / "first").manifest["started"]
    assert years.rows == ((int(started[:4]), "12"),)


def test_samples_are_those_of_the_file_and_failures_count_as_zero(folder: Path) -> None:
    lines = RunFolder.open(folder / "first").read_samples()
    found = query([folder / "first"], "SELECT id, score, failed, output, answers, meta->>'$.depths[0]' FROM samples")
    assert found.rows == tuple(
        (
            line["id"],
            line["score"] or 0.0,
            line["score"] is None,
            line["output"],
            line["answers"],
            str(line["meta"]["depths"][0]) if line["meta"] else None,
        )
        for line in lines
    )
    mean = query([folder / "first"], "SELECT avg(score), count(*) FROM samples WHERE task = 'vt' AND length = 1024")
    cell = RunFolder.open(folder / "first").read_json("summary.json")["tasks"]["vt"]["1024"]
    assert mean.rows == ((pytest.approx(cell["value"]), 12),)


def test_cells_stand_beside_published_figures(folder: Path) -> None:
    sql = "SELECT run, name, score, failures, published FROM cells WHERE task = 'vt' AND length = 1024 ORDER BY run"
    first, second = query([folder / "first", folder / "second"], sql).rows
    summary = RunFolder.open(folder / "first").read_json("summary.json")
    assert first == ("first", "mamba2-2.7b", summary["tasks"]["vt"]["1024"]["value"], 3, 0.6912)
    assert second[1] == "it's ours"
    assert second[4] is None


def test_positions_of_measurements(folder: Path) -> None:
    bins = RunFolder.open(folder / "measured").read_json("summary.json")["perplexity"]["bins"]
    found = query([folder / "measured"], 'SELECT start, "end", perplexity FROM positions ORDER BY start')
    assert found.rows == tuple((item["start"], item["end"], item["perplexity"]) for item in bins)


def test_a_torn_line_and_parts_of_processes(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "going", tmp_path / "going")
    file = tmp_path / "going" / "samples.jsonl"
    lines = file.read_text().splitlines()
    (tmp_path / "going" / "samples.rank-0001.jsonl").write_text("\n".join(lines[:4]) + "\n")
    file.write_text("\n".join(lines)[:-40])
    found = query([tmp_path / "going"], "SELECT count(*), count(DISTINCT id) FROM samples")
    assert found.rows == ((6, 6),)


def test_folders_of_the_same_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "first", tmp_path / "first")
    found = query([folder / "first", tmp_path / "first"], "SELECT DISTINCT run FROM samples")
    assert {row[0] for row in found.rows} == {str(folder / "first"), str(tmp_path / "first")}


@pytest.mark.parametrize(
    ("sql", "got"),
    [
        ("SELECT taks FROM samples", '"taks" not found'),
        ("SELECT * FROM sample", "Table with name sample does not exist"),
        ("SELEKT 1", 'syntax error at or near "SELEKT"'),
    ],
)
def test_a_wrong_statement(folder: Path, sql: str, got: str) -> None:
    with pytest.raises(InputError) as caught:
        query([folder / "first"], sql)
    error = caught.value
    assert error.expected == "a statement in DuckDB's SQL over the tables runs, cells, samples and positions"
    assert got in error.got
    assert "\n" not in error.got
    assert error.where == f"--sql {sql!r}"
    assert "cells(run, name, model, task, length, score" in error.fix


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a run folder with a readable manifest\.json"):
        query([tmp_path], "SELECT 1")


def test_without_duckdb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "duckdb":
            raise ImportError("No module named 'duckdb'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"DuckDB, which answers --sql; got No module.*lengthwise\[sql\]"):
        query([folder / "first"], "SELECT 1")


def test_the_recipe_of_the_documentation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement in docs/report.md that needs DuckDB alone."""
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    (recipe,) = [part.split("```")[0] for part in page.split("```sql\n")[1:]]
    monkeypatch.chdir(folder)
    (folder / "runs").mkdir()
    for name in ("first", "second"):
        (folder / "runs" / name).symlink_to(folder / name)
    rows = duckdb.sql(recipe).fetchall()
    summary = json.loads((folder / "first" / "summary.json").read_text())
    assert ("first", "vt", 1024, pytest.approx(100 * summary["tasks"]["vt"]["1024"]["value"]), 12, 3) in [
        (Path(path).parent.name, *rest) for path, *rest in rows
    ]
