"""Texts that a tokenizer does not read as what they say are refused, by every family of tasks alike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tasks.sources import books_text, tokenizer_of_kind, write_babi

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.babilong import BabilongConfig, BabilongTask, Books
from lengthwise.tasks.base import Task
from lengthwise.tasks.library import TaskOptions
from lengthwise.tasks.passkey import PasskeyConfig, PasskeyTask
from lengthwise.tasks.registry import make_tasks
from lengthwise.tasks.texts import check_round_trip, check_special

SPECIAL = "<|end|>"  # of every tokenizer of conftest.py but bytes
PLAIN = "All is well here. "


def test_special_tokens_in_a_text_are_refused(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InputError) as caught:
        check_special(["fine", "so far <|end|> so good"], tokenizers["gpt2"], "notes.txt")
    assert str(caught.value).startswith(
        "expected text without special tokens; got '<|end|>' in 'so far <|end|> so good'; in notes.txt; take it out"
    )
    check_special(["so far <|end|>"], tokenizers["bytes"], "notes.txt")


def test_texts_that_do_not_survive_are_refused(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InputError) as caught:
        check_round_trip(["fine", "cafe\u0301 noir"], tokenizers["gpt2"], "notes.txt")
    assert "gpt2.json, which turns" in caught.value.got
    assert "NFC" in caught.value.fix
    check_round_trip(["cafe\u0301"], tokenizers["llama3"], "notes.txt")
    check_round_trip(["cafe\u0301"], tokenizers["bytes"], "notes.txt")
    with pytest.raises(InputError, match="which turns 'one' into ' one'"):
        check_round_trip(["one"], tokenizers["prefix"], "notes.txt")


def test_a_tokenizer_that_forgets_is_refused() -> None:
    check_round_trip(["Where is Mary?"], tokenizer_of_kind("metaspace"), "wording")
    with pytest.raises(InputError) as caught:
        check_round_trip(["Where is Mary?"], tokenizer_of_kind("lower"), "wording of a task")
    assert caught.value.expected == "a tokenizer that gives the text back as it was"
    assert caught.value.got == "tokenizer.json, which turns 'Where is Mary?' into 'where is mary?'"
    assert caught.value.where == "wording of a task"
    assert "byte-level" in caught.value.fix


def haystack(folder: Path, text: str) -> Task:
    path = folder / "hay.txt"
    path.write_text((PLAIN * 40 + text + " came by. ") * 12)
    return make_tasks([f"niah_grid:haystack_file={path}"], TaskOptions())[0]


def needle(folder: Path, text: str) -> Task:
    path = folder / "needles.json"
    values = {"needle": f"The word {text} is red.", "question": "Which?", "answer_prefix": "It is", "answers": ["red"]}
    path.write_text(json.dumps([values]))
    return make_tasks([f"niah_grid:needle_file={path}"], TaskOptions())[0]


def answer_prefix(folder: Path, text: str) -> Task:
    path = folder / "needles.json"
    values = {"needle": "The word is red.", "question": "Which?", "answer_prefix": f" It{text}", "answers": ["red"]}
    path.write_text(json.dumps([values]))
    return make_tasks([f"niah_grid:needle_file={path}"], TaskOptions())[0]


def squad(folder: Path, context: str, question: str) -> Task:
    path = folder / "squad.json"
    asked = {"question": question, "answers": [{"text": "all"}], "is_impossible": False}
    articles = [{"title": "A", "paragraphs": [{"context": context, "qas": [asked]}]}]
    path.write_text(json.dumps({"data": articles}))
    return make_tasks([f"qa_1:file={path}"], TaskOptions())[0]


def document(folder: Path, text: str) -> Task:
    return squad(folder, f"{PLAIN}Then {text} came.", "Who is well?")


def question(folder: Path, text: str) -> Task:
    return squad(folder, PLAIN, f"Who is {text}?")


def passkey_wording(folder: Path, text: str) -> PasskeyTask:
    path = folder / "words.json"
    values = {"instruction": "Look.", "filler": PLAIN, "key_line": f"{text} The key is {{key}}.", "question": "Key:"}
    path.write_text(json.dumps(values))
    return PasskeyTask(PasskeyConfig(wording=str(path)))


def book(folder: Path, text: str) -> BabilongTask:
    books = Books(["sea", "land"], [books_text(20), books_text(20) + f"It ended with {text} here."], text)
    return BabilongTask(BabilongConfig(task="qa1", babi=str(write_babi(folder / "babi"))), books=books)


def facts(folder: Path, text: str) -> BabilongTask:
    babi = write_babi(folder / "babi")
    for path in babi.rglob("*qa1*test.txt"):
        path.write_text(path.read_text().replace("Sandra moved", f"Sandra {text} moved"))
    return BabilongTask(BabilongConfig(task="qa1", babi=str(babi)), books=Books(["sea"], [books_text(20)], "sea"))


FAMILIES = {
    "haystack": (haystack, "hay.txt"),
    "needle": (needle, "needle_file"),
    "answer prefix": (answer_prefix, "needle_file"),
    "document": (document, "a document of qa_1"),
    "question": (question, "a question of qa_1"),
    "passkey wording": (passkey_wording, "wording of passkey"),
    "book": (book, "the book 'land'"),
    "facts": (facts, "the questions of babilong_qa1"),
}


@pytest.mark.parametrize(("make", "where"), FAMILIES.values(), ids=FAMILIES)
def test_no_family_puts_a_special_token_in_a_prompt(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], make: Callable[[Path, str], Task], where: str
) -> None:
    task = make(tmp_path, SPECIAL)
    with pytest.raises(InputError) as caught:
        task.samples([0], 6000, tokenizers["gpt2"], 0)
    assert caught.value.expected == "text without special tokens"
    assert caught.value.got.startswith(f"'{SPECIAL}' in '")
    assert where in caught.value.where
    assert "take it out of the text, or use a tokenizer to which it is plain text" in caught.value.fix
    # Where it is plain text, it is nothing special.
    (sample,) = task.samples([0], 6000, tokenizers["bytes"], 0)
    assert sample.num_tokens == len(tokenizers["bytes"].encode(sample.prompt))


@pytest.mark.parametrize("make", [passkey_wording, book, facts])
def test_no_row_for_training_holds_a_special_token(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], make: Callable[[Path, str], PasskeyTask | BabilongTask]
) -> None:
    with pytest.raises(InputError, match="expected text without special tokens"):
        make(tmp_path, SPECIAL).rows(1, 3000, tokenizers["gpt2"], 0)


def test_a_tokenizer_is_checked_though_another_counts(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    babi = str(write_babi(tmp_path))
    config = BabilongConfig(task="qa1", babi=babi, counter="bytes")
    task = BabilongTask(config, books=Books(["sea"], [books_text(20)], "sea"))
    assert task.samples([0], 3000, tokenizers["gpt2"], 0)
    with pytest.raises(InputError, match="a tokenizer that gives the text back as it was"):
        task.samples([0], 3000, tokenizer_of_kind("lower"), 0)
