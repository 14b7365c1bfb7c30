"""Tokens of many short pieces at once, by the merges of a byte-level BPE.

Random names, codes and numbers hardly ever come twice, so remembering pieces does not help with them, and giving them
to the tokenizer one by one takes longer than all else. Here all of them make their merges together: in every round each
piece makes its best one, the pair that was learnt first. After a merge only the pairs beside it are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 15
"""Characters of the longest piece."""
_WIDTH = LONGEST + 1  # one place more, so that a merge can always move something up
_NEVER = np.iinfo(np.int32).max
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SPACE = "Ġ"  # how byte-level BPE writes a space


class Merges:
    """Counts tokens of pieces of ASCII letters or digits, with or without a space before them.

    Args:
        merges: pairs in the order they were learnt.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        known = set(_LETTERS + _SPACE)
        number = {symbol: place for place, symbol in enumerate(_LETTERS + _SPACE, start=1)}  # 0 is padding
        pairs: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (a, b) in enumerate(merges):
            if known.issuperset(a) and known.issuperset(b):
                merged = number.setdefault(a + b, len(number) + 1)
                # A part that no earlier merge makes cannot stand there, and has no number yet.
                pairs[number.setdefault(a, len(number) + 1), number.setdefault(b, len(number) + 1)] = rank, merged
        self._size = len(number) + 1
        keys = np.array([a * self._size + b for a, b in pairs] or [-1], dtype=np.int64)
        order = np.argsort(keys)
        self._keys = keys[order]
        found = np.array(list(pairs.values()) or [(_NEVER, 0)], dtype=np.int32)[order]
        # One entry more, for pairs that are not in the list.
        self._ranks, self._merged = np.append(found[:, 0], np.int32(_NEVER)), np.append(found[:, 1], np.int32(0))
        self._of_byte: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        for symbol in _LETTERS + _SPACE:
            self._of_byte[ord(" " if symbol == _SPACE else symbol)] = number[symbol]

    @classmethod
    def of(cls, model: dict[str, Any]) -> Merges | None:
        """For the BPE model of a `tokenizer.json`; None where merges alone do not decide, or a letter is missing."""
        if model.get("ignore_merges") or any(symbol not in model["vocab"] for symbol in _LETTERS + _SPACE):
            return None
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return cls([(a, b) for a, b in pairs])

    def counts(self, pieces: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each piece, [len(pieces)]: letters or digits behind at most one space, up to `LONGEST` in all."""
        letters = np.array([piece.encode() for piece in pieces], dtype=f"S{_WIDTH}").view(np.uint8)
        symbols = self._of_byte[letters.reshape(len(pieces), _WIDTH)]
        places = self._places(symbols[:, :-1], symbols[:, 1:])
        ranks = self._ranks[places]
        left = (symbols != 0).sum(axis=1)
        columns = np.arange(_WIDTH)
        active = np.arange(len(pieces))
        while len(active):
            at = ranks.argmin(axis=1)
            rows = np.arange(len(active))
            better = ranks[rows, at] != _NEVER
            if not better.all():
                active, symbols, ranks, places, at = (x[better] for x in (active, symbols, ranks, places, at))
                rows = rows[: len(active)]
            if not len(active):
                break
            left[active] -= 1
            merged = self._merged[places[rows, at]]
            # What stands behind the pair moves up by one.
            source = columns + (columns > at[:, None])
            source[:, -1] = _WIDTH - 1
            symbols = np.take_along_axis(symbols, source, axis=1)
            symbols[:, -1] = 0
            symbols[rows, at] = merged
            places = np.take_along_axis(places, source[:, :-1].clip(max=_WIDTH - 2), axis=1)
            ranks = np.take_along_axis(ranks, source[:, :-1].clip(max=_WIDTH - 2), axis=1)
            ranks[:, -1] = _NEVER
            for beside in (np.maximum(at - 1, 0), at):
                new = self._places(symbols[rows, beside], symbols[rows, beside + 1])
                places[rows, beside] = new
                ranks[rows, beside] = self._ranks[new]
        return left.astype(np.int64)

    def _places(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where pairs stand in the list of merges; the length of the list for those that are not in it."""
        keys = first * self._size + second
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places] == keys, places, len(self._keys))
