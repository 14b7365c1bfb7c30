"""Haystack prose: sentences of the Python installation, and of files."""

import gzip
import json
import re
from pathlib import Path

import pytest

from lengthwise.errors import InputError
from lengthwise.tasks.library import Library
from lengthwise.tasks.passages import Passage
from lengthwise.tasks.prose import file_sentences, python_prose, sentences


def test_python_prose_is_plain_english_and_enough_of_it(library: Library) -> None:
    prose = python_prose()
    assert len(prose) == len(set(prose))
    assert all(re.fullmatch(r"[A-Z][ -~]*[.!?]", sentence) for sentence in prose)
    assert not any("  " in sentence or ">>>" in sentence or "()" in sentence for sentence in prose)
    assert sum(map(len, prose)) > 100_000
    assert prose == library.prose().units


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
