"""Haystack prose: sentences of the Python installation, and of files."""

import gzip
import json
import re
from pathlib import Path

import pytest

from lengthwise.errors import InputError
from lengthwise.tasks import prose
from lengthwise.tasks.library import Library
from lengthwise.tasks.passages import Passage
from lengthwise.tasks.prose import file_sentences, python_prose, sentences


def test_python_prose_is_plain_english_and_enough_of_it(library: Library) -> None:
    found = python_prose()
    assert len(found) == len(set(found))
    assert all(re.fullmatch(r"[A-Z][ -~]*[.!?]", sentence) for sentence in found)
    assert not any("  " in sentence or ">>>" in sentence or "()" in sentence for sentence in found)
    assert sum(map(len, found)) > 100_000
    assert found == library.prose().units


def test_prose_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(prose, "python_prose", lambda: made.append(1) or ("One.", "Two."))
    assert prose.kept_python_prose() == prose.kept_python_prose() == ("One.", "Two.")
    assert len(made) == 1
    (file,) = tmp_path.rglob("*.txt")
    file.write_text("One.\nTw")
    assert prose.kept_python_prose() == ("One.", "Two.")
    assert len(made) == 2
    monkeypatch.setattr(prose, "_RULES", 99)
    prose.kept_python_prose()
    assert len(made) == 3


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LENGTHWISE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(prose, "python_prose", lambda: ("One.",))
    assert prose.kept_python_prose() == ("One.",)


def test_sentences_joined_give_the_text_back() -> None:
    text = 'One, e.g. this. "Two!" she said.\n\n  Three? (Four.) 5 is five, i.e. V. And "six." Seven'
    found = sentences(text)
    assert " ".join(found) == " ".join(text.split())
    assert found == [
        "One, e.g. this.",
        '"Two!" she said.',
        "Three?",
        "(Four.)",
        "5 is five, i.e. V.",
        'And "six."',
        "Seven",
    ]


def test_what_never_ends_is_cut() -> None:
    text = " ".join(f"word{i}" for i in range(250))
    found = sentences(text)
    assert " ".join(found) == text
    assert [sentence.count(" ") + 1 for sentence in found] == [40] * 6 + [10]


@pytest.mark.parametrize("form", ["txt", "jsonl", "json", "json.gz", "folder"])
def test_files_of_every_form(tmp_path: Path, form: str) -> None:
    text = "First things first. Then the rest."
    path = tmp_path / f"notes.{form}"
    if form == "jsonl":
        path.write_text(
            "".join(json.dumps({"text": part}) + "\n" for part in ("First things first.", "Then the rest."))
        )
    elif form == "json.gz":
        path.write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    elif form == "folder":
        path.mkdir()
        (path / "a.txt").write_text("First things first.")
        (path / "b.txt").write_text("Then the rest.")
    else:
        path.write_text(json.dumps({"text": text}) if form == "json" else text)
    assert file_sentences(path) == ("First things first.", "Then the rest.")


def test_files_that_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match=r'a JSON object with a text, \{"text": "..."\}'):
        file_sentences(tmp_path / "list.json")
    (tmp_path / "blank.txt").write_text(" \n ")
    with pytest.raises(InputError, match="expected a haystack with text; got none"):
        file_sentences(tmp_path / "blank.txt")
    with pytest.raises(InputError, match="an existing file or folder"):
        file_sentences(tmp_path / "nowhere.txt")


def test_runs_of_a_passage() -> None:
    passage = Passage(["One.", "Two.", "Three."], " ")
    assert passage.text == "One. Two. Three."
    assert passage.run(0, 3).text == passage.text
    assert passage.run(1, 2).text == "Two."
    assert passage.run(1, 3).text == "Two. Three."
    assert len(passage) == 3
