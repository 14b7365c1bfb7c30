"""Counts of long texts equal those of the whole, for tokenizers of every kind; cuts reach the count asked for."""

import random

import numpy as np
import pytest
from tests.tasks.sources import PROSE, books_text, shared_tokenizer, tokenizer_of_kind

from lengthwise.data import ByteTokenizer, Tokenizer
from lengthwise.tasks import counting
from lengthwise.tasks.counting import (
    Counter,
    PieceCounts,
    count_tokens,
    filling_prefix,
    longest_prefix,
)

KINDS = ("bytes", "bpe", "metaspace")


def pieces_of(text: str, seed: int) -> list[str]:
    """The text cut at random places, in the middle of words as well."""
    places = sorted(random.Random(seed).sample(range(1, len(text)), min(len(text) - 1, len(text) // 40 + 1)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 95, 192, 193, 400, 1000, 20_000])
def test_count_of_pieces_is_that_of_the_whole(kind: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BLOCK", 500)
    monkeypatch.setattr(counting, "_BLOCKS", 3)
    tokenizer = tokenizer_of_kind(kind)
    text = books_text()[7 : 7 + size]
    assert count_tokens(tokenizer, pieces_of(text, size)) == len(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["x" * 3000, " " * 3000, "\n\n  a  \n" * 400, "汉字日本語" * 500, "a b " * 900])
def test_text_without_places_to_part(kind: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BLOCK", 300)
    monkeypatch.setattr(counting, "_BLOCKS", 2)
    tokenizer = tokenizer_of_kind(kind)
    assert count_tokens(tokenizer, pieces_of(text, 1)) == len(tokenizer.encode(text))


@pytest.mark.parametrize("name", ["neox", "gpt2"])
def test_count_with_tokenizers_in_use(name: str) -> None:
    tokenizer = shared_tokenizer(name)
    text = books_text(200)
    assert len(text) > 8 * counting.BLOCK
    assert count_tokens(tokenizer, pieces_of(text, 2)) == len(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_known_counts_change_nothing(kind: str) -> None:
    tokenizer = tokenizer_of_kind(kind)
    sentences = [" " + part for part in books_text(20).replace("\n", "\n ").split(" ") if part]
    counter, plain = Counter(tokenizer), Counter(tokenizer)
    text = "A beginning."
    for each in (counter, plain):
        each.add(text)
    for number, sentence in enumerate(sentences):
        counter.add(sentence, len(tokenizer.encode(sentence)))
        plain.add(sentence)
        text += sentence
        if number % 97 == 0:
            whole = len(tokenizer.encode(text + "\n\nThe end"))
            assert counter.total("\n\nThe end") == plain.total("\n\nThe end") == whole


def test_wrong_known_counts_show() -> None:
    # Otherwise the test above could not fail.
    counter = Counter(ByteTokenizer())
    counter.add("A beginning.")
    counter.add(" And more.", 3)
    assert counter.total() == len("A beginning.") + 3


def test_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BLOCK", 500)
    monkeypatch.setattr(counting, "_BLOCKS", 2)
    counter = Counter(tokenizer_of_kind("bpe"))
    for _ in range(50):
        counter.add(PROSE)
        held = len(counter._open) + len(counter._before) + counter._waiting_len
        assert held < 2 * 500 + 500 + 2 * len(PROSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", [0, 1, 2, 5, 11, 40, 41, 42, 43])
def test_prefix_is_the_longest_that_fits(kind: str, wanted: int) -> None:
    tokenizer = tokenizer_of_kind(kind)

    def totals(cuts: list[str]) -> list[int]:
        return [len(tokenizer.encode(cut)) for cut in cuts]

    cut = longest_prefix(PROSE, totals, wanted)
    assert PROSE.startswith(cut)
    assert totals([cut])[0] <= wanted
    # No whole number of words more would fit.
    rest = PROSE[len(cut) :]
    if totals([cut])[0] < wanted:
        word_end = len(cut) + len(rest) - len(rest.lstrip()) + len(rest.split()[0])
        assert totals([PROSE[:word_end]])[0] > wanted


def test_whole_words_are_preferred() -> None:
    tokenizer = tokenizer_of_kind("bpe")
    text = "the harbour the harbour the harbour"

    def totals(cuts: list[str]) -> list[int]:
        return [len(tokenizer.encode(cut)) for cut in cuts]

    wanted = totals(["the harbour the"])[0]
    assert longest_prefix(text, totals, wanted) == "the harbour the"


def test_full_stops_fill_what_a_cut_before_a_space_leaves() -> None:
    def totals(cuts: list[str]) -> list[int]:
        return [len(cut.rstrip()) for cut in cuts]

    assert filling_prefix("one two", totals, 4) == ("one.", 0)
    assert filling_prefix("one two", totals, 5) == ("one t", 0)
    assert filling_prefix("one two", totals, 12) == ("one two", 5)
    assert filling_prefix("one two", lambda cuts: [9 for _ in cuts], 4) == ("", -5)


def test_every_kind_is_a_tokenizer() -> None:
    for kind in (*KINDS, "lower"):
        assert isinstance(tokenizer_of_kind(kind), Tokenizer)


ODD = [
    "",
    " ",
    "a",
    " a",
    "a  b",
    " two  spaces",
    "tab\t x",
    "a \n b",
    "汉 字",
    "e\u0301 \u0301e",
    "x \xa0y",
    " 12 345 6",
    "_ _",
]


@pytest.mark.parametrize("name", [*KINDS, "neox", "gpt2"])
def test_counts_by_words_are_those_of_the_texts(name: str) -> None:
    tokenizer = shared_tokenizer(name) if name in ("neox", "gpt2") else tokenizer_of_kind(name)
    texts = [" " + line for line in books_text(6).split(". ")] + ODD
    counts = PieceCounts(tokenizer)
    expected = [len(tokenizer.encode(text)) for text in texts]
    assert counts(texts) == expected
    assert counts(texts[::-1]) == expected[::-1]
    assert counts([]) == []
    # A tokenizer that marks every beginning parts nowhere; the others are counted by words.
    assert (len(counts._joined) > counting._JOINED_MOST) == (name == "metaspace")
    assert bool(counts._known) == (name != "metaspace")


def test_a_space_that_tokens_reach_over_is_seen() -> None:
    class Joining(ByteTokenizer):
        """Bytes, but "n a" is one token."""

        def encode(self, text: str) -> np.ndarray:
            return super().encode(text.replace("n a", "*"))

    counts = PieceCounts(Joining())
    assert counts(["on a day", "a day in a row", "n o"]) == [6, 12, 3]
    assert counts._joined == {"n a"}


def test_words_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_KNOWN_MOST", 20)
    counts = PieceCounts(tokenizer_of_kind("bpe"))
    for line in books_text(4).split("\n"):
        assert counts([line]) == [len(counts.tokenizer.encode(line))]
        assert len(counts._known) <= 20 + len(line.split(" "))
