"""`lengthwise report`."""

import errno
import os
from pathlib import Path

import pytest
from tests.report.fabricate import write_extend, write_measure
from tests.report.fabricate_evals import write_eval

from lengthwise.runs import RunFolder


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "extend"
    write_extend(folder, metrics=("perplexity",))
    return folder


def test_prints_the_verdicts_and_the_page(lengthwise, extended: Path, tmp_path: Path) -> None:
    done = lengthwise("report", str(extended), "--out", str(tmp_path / "out"))
    assert done.code == 0
    assert "Breaks past 256 tokens. Mended by 100 steps of State Passing" in done.out
    assert "Does perplexity hold past" in done.out
    assert str(tmp_path / "out" / "report.html") in done.out
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space, then give the same command again"),
        (errno.EACCES, "check the folder and its permissions, then give the same command again"),
    ],
)
def test_a_page_that_cannot_be_written_is_not_told_to_resume(
    lengthwise, extended: Path, tmp_path: Path, monkeypatch, number: int, fix: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    done = lengthwise("report", str(extended), "--out", str(tmp_path / "out"))
    assert done.code == 1
    assert done.part("in") == str(tmp_path / "out" / "report.html")
    assert done.part("try") == fix  # report has no --resume


def test_json_names_files_and_verdicts(lengthwise, tmp_path: Path) -> None:
    write_measure(tmp_path / "run", metrics=("perplexity",))
    done = lengthwise("report", str(tmp_path / "run"), "--figures", "--json")
    assert done.code == 0
    found = done.json
    assert Path(found["page"]) == tmp_path / "run" / "report.html"
    assert found["bytes"] == Path(found["page"]).stat().st_size
    assert len(found["figures"]) == 3
    assert all(Path(path).is_file() for path in found["figures"] + found["tables"])
    (model,) = found["groups"][0]["models"]
    assert (model["verdict"], model["definition"], model["restart"]) == ("fail", "fail", None)


def test_without_a_run(lengthwise) -> None:
    done = lengthwise("report")
    assert done.code == 2
    assert done.part("expected") == "at least one run folder"


def test_folder_that_is_no_run(lengthwise, tmp_path: Path) -> None:
    done = lengthwise("report", str(tmp_path))
    assert done.code == 2
    assert done.part("expected") == "a run folder with a readable manifest.json"
    assert done.part("try") == "give the folder that a measure, extend, train, demo or eval run wrote"


def test_misspelled_option(lengthwise, extended: Path) -> None:
    done = lengthwise("report", str(extended), "--figure")
    assert done.code == 2
    assert "--figures" in done.part("try")


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    write_eval(tmp_path / "eval", tasks=("vt", "qa_1"), num_samples=4, failing=1)
    return tmp_path / "eval"


def test_an_evaluation(lengthwise, evaluated: Path) -> None:
    done = lengthwise("report", str(evaluated))
    assert done.code == 0
    assert "Samples that failed" in done.out
    assert "1 of 24 samples failed; they count as 0" in done.out
    found = lengthwise("report", str(evaluated), "--json", "--samples", "1").json
    (group,) = found["groups"]
    (model,) = group["models"]
    assert (group["kind"], model["complete"], model["failures"]) == ("eval", True, 1)
    assert model["mean"]["1024"]["count"] == 8
    assert "rescored" not in found
    assert "The first 1 of each task at each length: 6 of 24." in (evaluated / "report.html").read_text("utf-8")


def test_rescore_says_what_changed(lengthwise, evaluated: Path) -> None:
    assert (
        "scored 24 outputs again, 0 scores changed; 1 failed and stay so"
        in lengthwise("report", str(evaluated), "--rescore").out
    )
    run = RunFolder.open(evaluated)
    run.replace_samples([{**line, "score": 0.0} if line["score"] else line for line in run.read_samples()])
    done = lengthwise("report", str(evaluated), "--rescore")
    assert done.code == 0
    assert "changed means, in percent" in done.out
    found = lengthwise("report", str(evaluated), "--rescore", "--json").json
    assert [(entry["count"], entry["changed"]) for entry in found["rescored"]] == [(24, 0)]


def test_rescore_wants_an_evaluation(lengthwise, extended: Path) -> None:
    done = lengthwise("report", str(extended), "--rescore")
    assert done.code == 2
    assert done.part("expected") == "at least one run of kind eval to score again"
    assert done.part("got") == "runs of kind extend"
    assert done.part("in") == "--rescore"


def test_sql(lengthwise, evaluated: Path) -> None:
    pytest.importorskip("duckdb", reason="the extra sql is not installed")
    done = lengthwise("report", str(evaluated), "--sql", "SELECT task, '[/b]' AS \"[b]\", 1 AS n FROM cells LIMIT 1")
    assert done.code == 0
    assert [word in done.out for word in ("vt", "[/b]", "[b]")] == [True] * 3
    assert not (evaluated / "report.html").exists()
    sql = (
        "SELECT answers, scores, meta, started, 'NaN'::DOUBLE AS x FROM samples, runs WHERE task = 'vt' AND NOT failed"
    )
    found = lengthwise("report", str(evaluated), "--sql", sql + " ORDER BY id LIMIT 1", "--json").json
    line = RunFolder.open(evaluated).read_samples()[1]
    assert found["columns"] == ["answers", "scores", "meta", "started", "x"]
    assert found["rows"][0][:2] == [line["answers"], line["scores"]]
    assert found["rows"][0][4] is None


def test_wrong_sql(lengthwise, evaluated: Path) -> None:
    pytest.importorskip("duckdb", reason="the extra sql is not installed")
    done = lengthwise("report", str(evaluated), "--sql", "SELECT taks FROM cells")
    assert done.code == 2
    assert "taks" in done.part("got")
    assert done.part("in") == "--sql 'SELECT taks FROM cells'"
    assert "cells(run, name, model, task" in done.part("try")


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (("--sql", "SELECT 1", "--figures", "--samples", "3"), "--sql together with --figures, --samples"),
        (("--samples", "-1"), "-1"),
    ],
)
def test_options_without_sense(lengthwise, evaluated: Path, words: tuple[str, ...], got: str) -> None:
    done = lengthwise("report", str(evaluated), *words)
    assert done.code == 2
    assert done.part("got") == got
