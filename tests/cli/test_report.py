"""`lengthwise report`."""

from pathlib import Path

import pytest
from tests.report.fabricate import write_extend, write_measure


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
