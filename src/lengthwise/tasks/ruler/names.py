"""What keys and values are: words (adjective-noun), numbers of seven digits, UUIDs."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise.tasks.draws import Draws, as_integers, as_uuids
from lengthwise.tasks.tokens import TokenCounter
from lengthwise.tasks.words import WordLists

Kind = Literal["word", "number", "uuid"]

RAW_WORDS: dict[Kind, int] = {"word": 2, "number": 1, "uuid": 2}
"""Raw random words that a name takes."""
_LOWEST, _NUMBERS = 1_000_000, 9_000_000
_SOME_UUID = "5abca6e5-d0b1-43eb-809e-7a8086c5d1d6"


def draw_names(draws: Draws, kind: Kind, count: int, words: WordLists) -> list[str]:
    """Different words, numbers or UUIDs."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(some_names(draws, kind, count - len(found), words)))
    return list(found)


def some_names(draws: Draws, kind: Kind, count: int, words: WordLists) -> list[str]:
    """Words (adjective-noun), numbers or UUIDs, each drawn by itself."""
    size = RAW_WORDS[kind]
    return names_from(draws.words(size * count).reshape(count, size), kind, words)


def names_from(raw: NDArray[np.uint64], kind: Kind, words: WordLists) -> list[str]:
    """Names, one a row of `RAW_WORDS[kind]` raw random words."""
    if kind == "uuid":
        return as_uuids(raw)
    if kind == "number":
        return list(map(str, (_LOWEST + as_integers(raw[:, 0], _NUMBERS)).tolist()))
    adjectives, nouns = pairs_from(raw, words)
    pairs = zip(adjectives.tolist(), nouns.tolist(), strict=True)
    return [f"{words.adjectives[a]}-{words.nouns[n]}" for a, n in pairs]


def pairs_from(raw: NDArray[np.uint64], words: WordLists) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of an adjective and a noun, one pair a row of two raw random words."""
    return as_integers(raw[:, 0], len(words.adjectives)), as_integers(raw[:, 1], len(words.nouns))


def widest(kind: Kind, words: WordLists) -> str:
    """A name of the kind in about the most tokens."""
    if kind == "word":
        return f"{max(words.adjectives, key=len)}-{max(words.nouns, key=len)}"
    return str(_LOWEST + _NUMBERS - 1) if kind == "number" else _SOME_UUID


def widest_len(kind: Kind, words: WordLists, counter: TokenCounter) -> int:
    """An upper bound of the tokens of a name behind a space."""
    if kind == "word":
        adjectives = counter.counts([f" {word}" for word in words.adjectives])
        return int(adjectives.max() + counter.counts([f"-{word}" for word in words.nouns]).max())
    # No tokenizer in use takes more tokens than there are bytes.
    return len(widest(kind, words)) + 1
