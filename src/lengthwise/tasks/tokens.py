"""Exact numbers of tokens, by addition where a tokenizer allows it.

Counting a prompt by encoding it is exact and slow. For many tokenizers a text can be cut at certain places such that no
token and no rule of the tokenizer reaches across (`splitting`); then the tokens of the parts add up to those of the
whole, and parts that occur again need not be encoded again. For any other tokenizer, and wherever a text has something
unusual at such a place, the text is encoded as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import HFTokenizer, Tokenizer
from lengthwise.tasks.merges import LONGEST, Merges
from lengthwise.tasks.splitting import Kind, digits_in_threes, kind_of, taking_space

# A single space between two characters that are not white space: every pattern below starts a new piece there.
_CUT = re.compile(r"(?<=\S) (?=\S)")
_IRREGULAR = re.compile(r"\s\s| $|[^\x20-\x7e\n]")
# Words of letters, digits and hyphens, such as adjective-noun pairs and UUIDs: letters, digits and "-letters" part.
# Where the pattern takes digits in threes, so do the pieces.
_COMPOUND = re.compile(r" ?[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*[.,:]?\n?")
_PIECES = re.compile(r"[ -]?[A-Za-z]+|[ -]?[0-9]+|[.,:\n]+")
_PIECES_OF_THREE = re.compile(r"[ -]?[A-Za-z]+|[ -]?[0-9]{1,3}|[.,:\n]+")
_COMPOUND_LEN = 12  # shorter words are kept whole: they come again
_KEPT = 300_000  # most pieces that are remembered
# What `Merges` can count: one piece of the pattern. Where digits come in threes, a space before them is another.
_ONE = re.compile(rf"(?=.{{1,{LONGEST}}}$) ?(?:[A-Za-z]+|[0-9]+)")
_ONE_OF_THREE = re.compile(rf"(?=.{{1,{LONGEST}}}$)(?: ?[A-Za-z]+|[0-9]{{1,3}})")
_MANY = 16  # pieces from which on it is quicker
_RARE = re.compile(r"\d{6}")  # too many to come again

_PROBE = (
    "The first line ends here.\nA second one, with 1234567 and blue-house; it isn't long: 'quoted' (or so).\n"
    "VAR ABCDE = 12345\nUUID 5abca6e5-d0b1-43eb-809e-7a8086c5d1d6.\n1. word 2. well-worn 3. x ... ... abcdef ..."
)


class TokenCounter:
    """Tokens of texts by one tokenizer, without added special tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.kind = kind_of(tokenizer)
        self._known: dict[str, int] = {}
        self._takes_space = taking_space(tokenizer)
        self._pieces, self._one = _PIECES, _ONE
        self._merges: Merges | None = None
        if self.kind is Kind.PIECES:
            assert isinstance(tokenizer, HFTokenizer)
            if digits_in_threes(tokenizer):
                self._pieces, self._one = _PIECES_OF_THREE, _ONE_OF_THREE
            self._merges = Merges.of(tokenizer.description["model"])
        if self.additive and self.counts([_PROBE])[0] != self.whole([_PROBE])[0]:
            self.kind = Kind.UNKNOWN

    @property
    def additive(self) -> bool:
        """Whether counts of parts add up at the cuts that `meet` allows."""
        return self.kind is not Kind.UNKNOWN

    @property
    def inside(self) -> bool:
        """Whether letters, digits and marks part inside a word as well."""
        return self.kind in (Kind.BYTES, Kind.PIECES)

    def whole(self, texts: Sequence[str]) -> list[int]:
        """Counts by encoding each text as a whole."""
        return [len(ids) for ids in self.tokenizer.encode_batch(texts)]

    def count(self, text: str) -> int:
        """Tokens of one text."""
        return int(self.counts([text])[0])

    def counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, [len(texts)]: exact, by addition where that is safe.

        A text that begins with a space is counted as it is behind another; some tokenizers put a space of their own
        before whatever they are given.
        """
        if self.kind is Kind.BYTES:
            return np.fromiter((len(t) if t.isascii() else len(t.encode()) for t in texts), np.int64, len(texts))
        if not self.additive:
            return np.array(self.whole(texts), dtype=np.int64)
        return self._summed(self._cut(texts))

    def counts_of_names(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each name behind a space, [len(names)]. Names are letters, digits and single hyphens inside."""
        if self.kind is not Kind.PIECES:
            return self.counts([f" {name}" for name in names])
        # All at once: a piece that begins with a space begins a name.
        pieces = self._pieces.findall(f" {' '.join(names)}")
        known = self._known.get
        tokens = np.fromiter([known(piece, 0) for piece in pieces], np.int64, len(pieces))
        missing = np.flatnonzero(tokens == 0).tolist()
        if missing:
            new = self._learn({pieces[place] for place in missing})
            tokens[missing] = [new[pieces[place]] for place in missing]
            self._forget(new)
        begins = np.flatnonzero(np.fromiter([piece[0] == " " for piece in pieces], np.bool_, len(pieces)))
        return np.add.reduceat(tokens, begins)

    def _summed(self, cut: list[list[str]]) -> NDArray[np.int64]:
        """Tokens of texts that are cut in pieces."""
        missing = set().union(*cut).difference(self._known)
        new = self._learn(missing) if missing else {}
        find = self._known.__getitem__
        result = np.fromiter((sum(map(find, pieces)) for pieces in cut), np.int64, len(cut))
        self._forget(new)
        return result

    def _learn(self, pieces: set[str]) -> dict[str, int]:
        """Count pieces that are not known yet."""
        quick = [] if self._merges is None else list(filter(self._one.fullmatch, pieces))
        new: dict[str, int] = {}
        if self._merges is not None and len(quick) >= _MANY:
            new.update(zip(quick, self._merges.counts(quick).tolist(), strict=True))
        others = [piece for piece in pieces if piece not in new]
        if others and self.kind is Kind.SPACES:
            behind = ["x" if piece[0] == " " else "" for piece in others]
            counts = self.whole(["x", *(before + piece for before, piece in zip(behind, others, strict=True))])
            others_counts = [count - counts[0] * len(before) for count, before in zip(counts[1:], behind, strict=True)]
            new.update(zip(others, others_counts, strict=True))
        elif others:
            new.update(zip(others, self.whole(others), strict=True))
        self._known.update(new)
        return new

    def _forget(self, new: dict[str, int]) -> None:
        """Forget what will hardly come again."""
        if len(self._known) > _KEPT:
            self._known.clear()
        else:
            for piece in filter(_RARE.search, new):
                del self._known[piece]

    def meet(self, left: str, right: str) -> bool:
        """Whether the tokens of `left + right` are those of both, whatever stands before and after.

        Safe are a single space that begins `right`, and a single line break that ends `left`, between characters that
        are not white space.
        """
        if self.kind is Kind.BYTES:
            return True
        if not self.additive or not left or not right:
            return False
        if any(left.endswith(token) or right.lstrip().startswith(token) for token in self._takes_space):
            return False
        if right[0] == " ":
            return not left[-1].isspace() and len(right) > 1 and not right[1].isspace()
        return self.inside and left[-1] == "\n" and len(left) > 1 and not left[-2].isspace() and not right[0].isspace()

    def total(self, pieces: Sequence[str], known: Sequence[int | None] | None = None) -> int:
        """Tokens of the joined pieces: parts that cannot be counted by themselves are counted with their neighbours.

        Args:
            pieces: not empty, in order.
            known: tokens of pieces that were counted before, None for the others.
        """
        if not self.additive:
            return self.whole(["".join(pieces)])[0]
        texts: list[str] = []
        summed = 0
        open_text, open_known = "", None
        for place, piece in enumerate(pieces):
            tokens = None if known is None else known[place]
            if open_text and self.meet(open_text, piece):
                if open_known is None:
                    texts.append(open_text)
                else:
                    summed += open_known
                open_text, open_known = piece, tokens
            else:
                open_text, open_known = open_text + piece, None if open_text else tokens
        if open_known is None:
            texts.append(open_text)
        else:
            summed += open_known
        return summed + int(self.counts(texts).sum())

    def estimate(self, pieces: Sequence[str]) -> int:
        """`total` where counts add up; elsewhere the sum of the pieces, which is near it and quickly found."""
        return self.total(pieces) if self.additive else int(self.counts(pieces).sum())

    def _cut(self, texts: Sequence[str]) -> list[list[str]]:
        """Of each text, pieces whose tokens add up."""
        known, takes_space, inside = self._known, self._takes_space, self.inside
        cut: list[list[str]] = []
        for text in texts:
            if takes_space and any(token in text for token in takes_space):
                cut.append([text])
                continue
            first, *others = text.split(" ") if _IRREGULAR.search(text) is None else _CUT.split(text)
            words = [first, *[f" {word}" for word in others]] if first else [f" {word}" for word in others]
            pieces: list[str] = []
            for word in words:
                if inside and len(word) > _COMPOUND_LEN and word not in known and _COMPOUND.fullmatch(word):
                    pieces.extend(self._pieces.findall(word))
                else:
                    pieces.append(word)
            cut.append(pieces)
        return cut


def key_of(values: Any) -> str:
    """Canonical JSON: equal values give equal text."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
