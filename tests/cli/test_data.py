"""`lengthwise data`: actions, output for people and machines, exit codes."""

import json
from pathlib import Path

import pytest

from lengthwise.cli.main import main


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(40):
        (folder / f"m{index}.py").write_text(f"x = {index}\n")
    (folder / "copy.py").write_text("x = 3\n")
    return folder


def test_tokenize_and_info_for_people(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tokens"
    assert main(["data", "tokenize", str(corpus), "--out", str(out), "--val-frac", "0.3"]) == 0
    made = capsys.readouterr().out
    assert "train" in made
    assert "tokenizer bytes, 256 ids" in made
    assert "1 documents left out: the same text occurs before" in made
    assert main(["data", "info", str(out), "--verify"]) == 0
    assert capsys.readouterr().out == made


def test_tokenize_and_info_for_machines(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tokens"
    arguments = ["--out", str(out), "--val-frac", "0.3", "--tokenizer", "bytes", "--json"]
    assert main(["data", "tokenize", str(corpus), *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["train"]["num_documents"] + made["validation"]["num_documents"] == 40
    assert made["train"]["source"]["val_frac"] == 0.3
    assert main(["data", "info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made
    assert main(["data", "info", str(out / "train"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"train": made["train"]}


def test_own_validation_and_endings(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "page.xyz").write_text("page")
    held = tmp_path / "held.txt"
    held.write_text("held out")
    arguments = ["--out", str(tmp_path / "t"), "--validation", str(held), "--extensions", ".xyz", ".md", "--json"]
    assert main(["data", "tokenize", str(corpus), *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["train"]["num_documents"], made["validation"]["num_bytes"]) == (1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenise"], "did you mean 'tokenize'?"),
        (["tokenize", "--out", "x"], "at least one file or folder, or the word python"),
        (["tokenize", "python", "--out", "x", "--tokenizer", "byts"], "did you mean 'bytes'?"),
        (["tokenize", "nowhere", "--out", "x"], "'nowhere', which is neither"),
        (["tokenize", "python", "--out", "x", "--val-frak", "1"], "--val-frac"),
        (["info", "nowhere"], "a token store (a folder with header.json)"),
    ],
)
def test_wrong_input_is_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert all(part in error for part in ("expected", "got", "in  ", "try"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "tokenize", str(corpus), "--out", str(tmp_path)]) == 2
    assert "a folder that does not exist yet, or an empty one" in capsys.readouterr().err


def test_usage_lists_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    assert "tokenize" in capsys.readouterr().out
    assert main(["data"]) == 2
