"""Counting by addition: it equals encoding the whole, or it is not done."""

from typing import Any

import numpy as np
import pytest

from lengthwise.data.tokenizers import HFTokenizer, Tokenizer
from lengthwise.tasks.draws import Draws, as_uuids
from lengthwise.tasks.merges import Merges
from lengthwise.tasks.splitting import Kind, adds_up, parts_at_spaces
from lengthwise.tasks.tokens import TokenCounter

PIECES = [
    "the", "river", "it's", "don't", "'quoted'", "(so)", "12", "1234567", "a-b", "old-stones", "x", ".", "...", "—",
    "e\u0301", "日本", "naïve", "1.", "$5", "A", "VAR", "Ab1c2", "0f3a-9be1", "end.", "what?", "\u00a0", "x\t", "--",
    "é", "/",
]  # fmt: skip
PROSE = [
    "the river runs past old stones and new bridges while people walk along its banks every morning",
    "Nothing that was ever seen there can be compared to THE thing ABC itself",
]
SPACES = [" ", " ", " ", " ", "\n", "\n\n", "  ", " \n", "\n ", "\t", ""]
ADDITIVE = ("bytes", "gpt2", "llama3", "sentencepiece", "greedy")
KINDS = {
    "bytes": Kind.BYTES,
    "gpt2": Kind.PIECES,
    "llama3": Kind.PIECES,
    "sentencepiece": Kind.SPACES,
    "greedy": Kind.SPACES,
    "loose": Kind.UNKNOWN,
    "prefix": Kind.UNKNOWN,
}


def random_text(draws: Draws, count: int) -> str:
    pieces = [PIECES[i] for i in draws.integers(len(PIECES), count).tolist()]
    spaces = [SPACES[i] for i in draws.integers(len(SPACES), count).tolist()]
    return "".join(space + piece for space, piece in zip(spaces, pieces, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_told_apart(tokenizers: dict[str, Tokenizer], name: str) -> None:
    counter = TokenCounter(tokenizers[name])
    assert counter.kind is KINDS[name]
    assert counter.additive is (name in ADDITIVE)


@pytest.mark.parametrize("name", ADDITIVE)
def test_counts_are_those_of_the_whole(tokenizers: dict[str, Tokenizer], name: str) -> None:
    counter = TokenCounter(tokenizers[name])
    draws = Draws(0, "texts")
    texts = [random_text(draws, count).lstrip(" ") for count in range(1, 200)]
    assert counter.counts(texts).tolist() == counter.whole(texts)
    # Again, now that pieces are remembered.
    assert counter.counts(texts).tolist() == counter.whole(texts)


@pytest.mark.parametrize("name", ADDITIVE)
def test_texts_that_meet_add_up(tokenizers: dict[str, Tokenizer], name: str) -> None:
    counter = TokenCounter(tokenizers[name])
    draws = Draws(0, "meetings")
    met = 0
    for _ in range(1500):
        left, right = random_text(draws, 2).lstrip(" "), random_text(draws, 2)
        if counter.meet(left, right):
            met += 1
            first, both = counter.whole([left, left + right])
            second = int(counter.counts([right])[0])
            assert first + second == both, (left, right)
    assert met > 100


@pytest.mark.parametrize("name", [*ADDITIVE, "loose", "prefix"])
def test_total_joins_what_does_not_meet(tokenizers: dict[str, Tokenizer], name: str) -> None:
    counter = TokenCounter(tokenizers[name])
    draws = Draws(0, "totals")
    for count in range(1, 40):
        pieces = [random_text(draws, 1 + place % 3) or "x" for place in range(count)]
        pieces[0] = pieces[0].lstrip(" ")
        known = [int(counter.counts([piece])[0]) if place % 2 else None for place, piece in enumerate(pieces)]
        (whole,) = counter.whole(["".join(pieces)])
        assert counter.total(pieces) == counter.total(pieces, known) == whole


@pytest.mark.parametrize("name", ADDITIVE)
def test_names_are_counted_behind_a_space(tokenizers: dict[str, Tokenizer], name: str) -> None:
    counter = TokenCounter(tokenizers[name])
    draws = Draws(0, "names")
    for names in (
        [str(number) for number in draws.integers(10**7, 200).tolist()],
        as_uuids(draws.words(400).reshape(200, 2)),
        [f"{a}-{b}" for a, b in zip(draws.letters(200, 4, "abcd"), draws.letters(200, 7, "efgh"), strict=True)],
    ):
        before, *whole = counter.whole(["x", *(f"x {name}" for name in names)])
        assert counter.counts_of_names(names).tolist() == [count - before for count in whole]


@pytest.mark.parametrize("name", ["gpt2", "llama3"])
def test_pieces_are_merged_as_the_tokenizer_does(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    assert isinstance(tokenizer, HFTokenizer)
    merges = Merges.of(tokenizer.description["model"])
    assert merges is not None
    draws = Draws(0, "pieces")
    digits = 3 if name == "llama3" else 14
    texts = [f"{' ' * (n % 2)}{n * 7919 % 10 ** (1 + n % digits)}" for n in draws.integers(10**9, 1500).tolist()]
    if name == "llama3":
        texts = [text.strip() for text in texts]
    words = " ".join(sentence for sentence in PROSE).split()
    texts += [f"{' ' * (n % 2)}{word}" for n, word in enumerate(words) if word.isalpha() and len(word) < 15]
    texts += [f" {word}" for word in draws.letters(1500, 9, "abcdefghijklmnopqrstuvwxyzABC")]
    expected = [len(ids) for ids in tokenizer.encode_batch(texts)]
    assert merges.counts(texts).tolist() == expected
    assert sum(expected) < 0.95 * sum(map(len, texts))  # the training text has few of these words


def test_merges_that_do_not_decide_alone_are_left_to_the_tokenizer(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt2"]
    assert isinstance(tokenizer, HFTokenizer)
    model = tokenizer.description["model"]
    assert Merges.of({**model, "ignore_merges": True}) is None
    assert Merges.of({**model, "vocab": {k: v for k, v in model["vocab"].items() if k != "q"}}) is None


@pytest.mark.parametrize("name", ["loose", "prefix"])
def test_a_tokenizer_with_other_rules_is_encoded_as_a_whole(tokenizers: dict[str, Tokenizer], name: str) -> None:
    counter = TokenCounter(tokenizers[name])
    assert not counter.additive
    assert not counter.meet("one", " two")
    text = "The river runs. It runs on.\nAnd on."
    assert counter.count(text) == len(tokenizers[name].encode(text))
    # It matters: counting word by word gives another number where tokens reach across words.
    if name == "loose":
        assert counter.count(text) != sum(counter.whole([f" {word}" for word in text.split(" ")]))


def description(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "model": {"type": "BPE", "dropout": None},
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "added_tokens": [{"content": "<|end|>", "special": True}, {"content": "    ", "special": False}],
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "Unigram"}},
        {"model": {"type": "BPE", "dropout": 0.1}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}},
        {"added_tokens": [{"content": " ", "special": False}]},
        {"added_tokens": [{"content": "\n\n", "special": False}]},
        {"added_tokens": [{"content": "two words", "special": False}]},
        {"added_tokens": [{"content": "a-1", "special": False}]},
        {"added_tokens": [{"content": "word", "special": False, "lstrip": True}]},
        {"added_tokens": [{"content": "a b", "special": True}]},
    ],
)
def test_what_is_not_known_to_add_up_does_not(changes: dict[str, Any]) -> None:
    assert adds_up(description())
    assert not adds_up(description(**changes))


def like_sentencepiece(**changes: Any) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    plain: dict[str, Any] = {
        "model": {"type": "BPE", "vocab": {"a": 0, "\u2581": 1, "\u2581\u2581": 2, "\u2581a": 3}},
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]},
        "pre_tokenizer": None,
        "added_tokens": [{"content": "<s>", "special": True}],
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "Unigram", "vocab": {"a": 0}}},
        {"model": {"type": "BPE", "vocab": {}}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "ignore_merges": True}},
        {"model": {"type": "BPE", "vocab": {"a": 0, "a\u2581b": 1}}},
        {"model": {"type": "BPE", "vocab": {"a": 0, "a\u2581": 1}}},
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": "\u2581"}},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"added_tokens": [{"content": "<s>", "special": False, "rstrip": True}]},
    ],
)
def test_what_is_not_known_to_part_at_spaces_does_not(changes: dict[str, Any]) -> None:
    assert parts_at_spaces(like_sentencepiece())
    assert parts_at_spaces(like_sentencepiece(normalizer=None))
    assert not parts_at_spaces(like_sentencepiece(**changes))


def test_a_special_token_that_takes_the_space_beside_it(tokenizers: dict[str, Tokenizer], tmp_path: Any) -> None:
    tokenizer = tokenizers["gpt2"]
    assert isinstance(tokenizer, HFTokenizer)
    backend = type(tokenizer._backend).from_str(tokenizer._backend.to_str())
    from tokenizers import AddedToken

    backend.add_special_tokens([AddedToken("<|user|>", rstrip=True, lstrip=True)])
    path = tmp_path / "tokenizer.json"
    path.write_text(backend.to_str())
    counter = TokenCounter(HFTokenizer(path))
    assert counter.additive
    texts = ["one <|user|> two three", "a <|user|>", "<|user|> b c"]
    assert counter.counts(texts).tolist() == counter.whole(texts)
    assert not counter.meet("one <|user|>", " two")
    assert not counter.meet("one", " <|user|> two")


def test_counts_are_an_integer_array(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        counts = TokenCounter(tokenizer).counts(["one two", "three"])
        assert counts.dtype == np.int64
        assert counts.shape == (2,)
