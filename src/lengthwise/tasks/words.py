"""Words to draw from: the lists of the package wonderwords (nouns, adjectives, verbs)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources

from lengthwise.errors import InputError

_LISTS = {"nouns": "nounlist.txt", "adjectives": "adjectivelist.txt", "verbs": "verblist.txt"}
_LEAST = 1000


@dataclass(frozen=True)
class WordLists:
    """Words without doubles, sorted."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    all: tuple[str, ...]
    """Nouns, adjectives and verbs."""
    fingerprint: str
    """sha256 hex of the three lists."""


def load_words() -> WordLists:
    """Read the lists. Another version of the package holds other words: the fingerprint is in every task's parameters.

    Raises:
        InputError: the package's lists are not where they were.
    """
    lists: dict[str, list[str]] = {}
    try:
        folder = resources.files("wonderwords") / "assets"
        for name, file in _LISTS.items():
            lines = (folder / file).read_text(encoding="utf-8").splitlines()
            lists[name] = sorted({line.strip() for line in lines if _plain(line.strip())})
    except (ModuleNotFoundError, OSError) as error:
        raise InputError(
            expected="the word lists of the package wonderwords",
            got=str(error),
            where="this Python installation",
            fix="pip install 'wonderwords>=3.0.1,<4'",
        ) from error
    every = sorted(set().union(*lists.values()))
    if len(every) < _LEAST:
        raise InputError(
            expected=f"at least {_LEAST:,} words in the package wonderwords",
            got=f"{len(every):,}",
            where="this Python installation",
            fix="pip install 'wonderwords>=3.0.1,<4'",
        )
    digest = hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()
    return WordLists(tuple(lists["nouns"]), tuple(lists["adjectives"]), tuple(every), digest)


def _plain(word: str) -> bool:
    """Letters, and hyphens inside: what stays one word in every list and question."""
    return word.isascii() and all(part.isalpha() for part in word.split("-")) and word == word.lower()
