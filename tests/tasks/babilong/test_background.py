"""Books, the background that is drawn from them, and where facts go."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.sources import books_text, tokenizer_of_kind

from lengthwise.errors import InputError
from lengthwise.tasks.babilong.background import MIN_SENTENCE_TOKENS, measure_background
from lengthwise.tasks.babilong.books import Books, read_books
from lengthwise.tasks.babilong.plan import trimmed, weave
from lengthwise.tasks.counting import PieceCounts
from lengthwise.tasks.sentences import split_sentences

TEXT = books_text(12)


def books(*texts: str) -> Books:
    return Books([f"book {i}" for i in range(len(texts))], texts, "0")


def test_rounds_are_sentences_of_a_book_without_the_first_and_the_last() -> None:
    shelf = books(TEXT, TEXT.replace("harbour", "forest"))
    seed = 3
    stream = shelf.sentences(np.random.default_rng(seed), num_tokens=300)
    draws = np.random.default_rng(seed)
    for _ in range(20):
        text = shelf.texts[draws.integers(2)]
        start = int(draws.integers(len(text)))
        expected = list(split_sentences(text[start : start + 3000]))[1:-1]
        assert list(itertools.takewhile(bool, stream)) == expected


@pytest.mark.parametrize("kind", ["bytes", "bpe", "metaspace"])
@pytest.mark.parametrize("budget", [1, 9, 10, 11, 500, 501, 502, 6000])
def test_background_reaches_its_budget(kind: str, budget: int) -> None:
    tokenizer = tokenizer_of_kind(kind)
    shelf = books(TEXT)
    background = measure_background(
        shelf, lambda: np.random.default_rng(1), PieceCounts(tokenizer), budget, reach=budget
    )
    pieces = list(background.before_last())
    assert background.num_pieces == len(pieces) + 1
    # The same by hand, sentence by sentence.
    kept, total = [], 0
    for sentence in shelf.sentences(np.random.default_rng(1), budget):
        count = len(tokenizer.encode(" " + sentence)) if sentence else 0
        if count >= MIN_SENTENCE_TOKENS:
            if total + count >= budget:
                break
            kept.append((" " + sentence, count))
            total += count
    assert pieces == kept
    assert background.last == " " + sentence
    assert background.last_tokens == count
    assert background.room == budget - total
    assert list(background.starts()) == [0, *np.cumsum([count for _, count in kept]).tolist()]


def test_nothing_is_drawn_for_nothing() -> None:
    background = measure_background(
        books(TEXT), lambda: np.random.default_rng(1), PieceCounts(tokenizer_of_kind("bytes")), 0, 1
    )
    assert background.num_pieces == 0
    assert list(background.before_last()) == list(background.starts()) == []


@pytest.mark.parametrize("text", ["One. Two. Three. Four. Five.", "no end of a sentence at all", "A. B."])
def test_books_without_a_usable_sentence(text: str) -> None:
    with pytest.raises(InputError) as caught:
        measure_background(
            books(text), lambda: np.random.default_rng(1), PieceCounts(tokenizer_of_kind("bpe")), 300, 300
        )
    assert caught.value.expected == "books with sentences of 10 tokens or more, for a background of 300 tokens"
    assert caught.value.got == f"1 books of {len(text)} characters without one that can be used"
    assert caught.value.where == "book 0"
    assert caught.value.fix.startswith("give longer books")


def test_weave_against_lists() -> None:
    draw = random.Random(0)
    for _ in range(200):
        facts = [f"f{i}" for i in range(draw.randrange(6))]
        pieces = [f"p{i}" for i in range(draw.randrange(6))]
        positions = sorted(draw.randrange(len(pieces) + 1) for _ in facts)
        expected: list[str] = []
        for number in range(len(pieces) + 1):
            expected += [fact for fact, place in zip(facts, positions, strict=True) if place == number]
            expected += pieces[number : number + 1]
        assert list(weave(facts, positions, pieces)) == expected


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [""],
        ["  "],
        ["  a", " b  "],
        ["  ", " a", "", "  b", "   ", " \n"],
        ["a"],
        ["a ", " ", "b"],
        ["\n a \n"],
    ],
)
def test_trimmed_against_strip(pieces: list[str]) -> None:
    assert "".join(text for text, _ in trimmed([(piece, None) for piece in pieces])) == "".join(pieces).strip()


def test_trimmed_keeps_counts_of_what_it_does_not_change() -> None:
    pieces = [(" one", 1), (" two", 2), (" three", 3)]
    assert list(trimmed(pieces)) == [("one", None), (" two", 2), (" three", 3)]
    assert list(trimmed([*pieces, (" ", 1)])) == [("one", None), (" two", 2), (" three", None)]


def test_books_of_files(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("First book.")
    (tmp_path / "two.jsonl").write_text('{"text": "Second book.", "id": "second"}\n{"text": ""}\n')
    found = read_books(str(tmp_path))
    assert found.names == ("one.txt", "second")
    assert found.texts == ("First book.", "Second book.")
    assert read_books((str(tmp_path / "one.txt"), str(tmp_path / "two.jsonl"))).texts == found.texts
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError) as caught:
        read_books(str(tmp_path / "none"))
    assert (caught.value.got, caught.value.where) == ("no text", str(tmp_path / "none"))
    with pytest.raises(InputError, match="nothing at that path"):
        read_books(str(tmp_path / "missing"))


def test_every_python_has_a_book() -> None:
    found = read_books()
    assert found.names == ("python",)
    assert len(found.texts[0]) > 100_000
    assert found is read_books()
    sentences = list(split_sentences(found.texts[0]))
    assert sum(len(sentence.split()) >= 5 for sentence in sentences) > 0.8 * len(sentences)
    assert ">>>" not in found.texts[0][:100_000]
