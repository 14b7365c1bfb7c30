"""Tokens of many different numbers at once.

Numbers hardly ever come twice, so remembering pieces does not help with them. Byte-pair encoding of digits is done here
for all of them together: in every round each number makes its best merge, the one that was learnt first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALPHABET = "Ġ0123456789"  # byte-level BPE writes a space as Ġ
_WIDTH = 16  # longest number, with the space
_NEVER = np.iinfo(np.int32).max


class Numerals:
    """Counts tokens of digits, with or without a space before them, by the merges of a byte-level BPE.

    Args:
        merges: pairs in the order they were learnt.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        number = {symbol: place for place, symbol in enumerate(_ALPHABET, start=1)}  # 0 is padding
        kept = [(rank, a, b) for rank, (a, b) in enumerate(merges) if not (set(a + b) - set(_ALPHABET))]
        for _, a, b in kept:
            number.setdefault(a + b, len(number) + 1)
        size = len(number) + 1
        if size > np.iinfo(np.int16).max:
            raise ValueError(f"{size} tokens of digits are too many for a table")
        self._rank: NDArray[np.int32] = np.full((size, size), _NEVER, dtype=np.int32)
        self._merged: NDArray[np.int16] = np.zeros((size, size), dtype=np.int16)
        for rank, a, b in kept:
            # A part that no merge makes can never stand there.
            if a in number and b in number:
                self._rank[number[a], number[b]] = rank
                self._merged[number[a], number[b]] = number[a + b]
        self._of_byte: NDArray[np.int32] = np.zeros(256, dtype=np.int32)
        for symbol in _ALPHABET:
            self._of_byte[ord(" " if symbol == "Ġ" else symbol)] = number[symbol]

    @classmethod
    def of(cls, model: dict[str, Any]) -> Numerals | None:
        """For the model of a `tokenizer.json` whose text is split between digits and all else; None where not fit."""
        if model.get("ignore_merges") or any(symbol not in model["vocab"] for symbol in _ALPHABET):
            return None
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return cls([(a, b) for a, b in pairs])

    def counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, [len(texts)]: digits, up to 15 of them, with or without a space before."""
        letters = np.array([text.encode() for text in texts], dtype=f"S{_WIDTH}").view(np.uint8)
        symbols = self._of_byte[letters.reshape(len(texts), _WIDTH)]
        columns = np.arange(_WIDTH)
        active = np.arange(len(texts))
        while len(active):
            rows = symbols[active]
            ranks = self._rank[rows[:, :-1], rows[:, 1:]]
            place = ranks.argmin(axis=1)
            some = np.arange(len(active))
            better = ranks[some, place] != _NEVER
            active, rows, place = active[better], rows[better], place[better]
            some = some[: len(active)]
            merged = self._merged[rows[some, place], rows[some, place + 1]]
            # What stands behind the merged pair moves up by one.
            source = np.minimum(columns + (columns > place[:, None]), _WIDTH - 1)
            moved = np.take_along_axis(rows, source, axis=1)
            moved[:, -1] = 0
            moved[some, place] = merged
            symbols[active] = moved
        return (symbols != 0).sum(axis=1).astype(np.int64)
