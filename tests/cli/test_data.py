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


def test_get_lists_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad/dev-v2.0.json.gz").write_bytes(b"")
    assert main(["data", "get", "--data-dir", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["squad"]["there"] is True
    assert listed["hotpotqa"] == {
        "about": "HotpotQA development set, distractor setting: documents and questions of qa_2",
        "there": False,
        "folder": f"{tmp_path}/hotpotqa",
    }
    assert main(["data", "get", "--data-dir", str(tmp_path)]) == 0
    assert "hotpotqa" in capsys.readouterr().out


def test_get_fetches_and_shows_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lengthwise.data import benchmarks
    from lengthwise.data.fetch import Mirror

    (tmp_path / "served.txt").write_text("text")
    file = benchmarks.RemoteFile(name="a.txt", mirrors=(Mirror((tmp_path / "served.txt").as_uri()),))
    row = benchmarks.DataSet(about="a toy", licence="none", files=(file,), results=("a.txt",), by_hand="write it")
    monkeypatch.setattr(benchmarks, "DATA_SETS", {"toy": row})
    monkeypatch.setenv("LENGTHWISE_DATA", str(tmp_path / "data"))
    assert main(["data", "get", "toy"]) == 0
    shown = capsys.readouterr().out
    assert "982d9e3eb996f559" in shown
    assert "not known before, recorded" in shown
    assert (tmp_path / "data/toy/a.txt").read_text() == "text"
    assert main(["data", "get", "toy", "ty"]) == 2
    assert "did you mean 'toy'?" in capsys.readouterr().err
