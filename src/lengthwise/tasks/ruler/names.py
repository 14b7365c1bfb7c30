"""What keys and values are: words (adjective-noun), numbers of seven digits, UUIDs."""

from __future__ import annotations

from typing import Literal

from lengthwise.tasks.draws import Draws
from lengthwise.tasks.tokens import TokenCounter
from lengthwise.tasks.words import WordLists

Kind = Literal["word", "number", "uuid"]

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
    if kind == "uuid":
        return draws.uuids(count)
    if kind == "number":
        return [str(_LOWEST + number) for number in draws.integers(_NUMBERS, count).tolist()]
    adjectives = draws.integers(len(words.adjectives), count).tolist()
    nouns = draws.integers(len(words.nouns), count).tolist()
    return [f"{words.adjectives[a]}-{words.nouns[n]}" for a, n in zip(adjectives, nouns, strict=True)]


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
