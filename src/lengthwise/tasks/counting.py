"""Exact token counts of long texts in bounded memory, and texts cut to an exact count.

A tokenizer does not add up: the tokens of two halves can be more or fewer than those of the whole, and some tokenizers
put something before whatever they are given. So a long text is counted in blocks, each read behind a piece of the text
before it, and a block begins only where the tokens before it were seen to stay what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer

BLOCK = 1 << 13
"""Characters of a block; the time of tokenizers grows faster than the text."""
_BLOCKS = 64  # counted at once, on all cores
_CONTEXT = 96  # characters on either side of a border that must see it as one
_BORDERS_TRIED = 40
_DOTS = (".", "..", "...")
_WORD_END = re.compile(r"(?<=\S) (?=\S)")
_SEAM = re.compile(r"(?=(\S \S))")
_AROUND = 32  # characters on either side of such a space that are tried
_JOINED_MOST = 16  # places where tokens reach over a space, beyond which no text is counted by words
_KNOWN_MOST = 1 << 20  # words remembered
_FURTHER = 12  # places tried beyond the one that bisection finds
Totals = Callable[[Sequence[str]], Sequence[int]]
"""Tokens of a whole, given each of several texts to put in it."""


class Counter:
    """Tokens of a text that grows at its end.

    What was added is counted and forgotten, but for its end; so `total` of any continuation is cheap. Exact for every
    tokenizer whose tokens depend on the text nearby, which all in common use do.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._counted = 0  # tokens of all that was forgotten
        self._before = ""  # the end of what was forgotten; it is read along and never counted
        self._open = ""  # text not counted yet
        self._waiting: list[str] = []  # text not joined to it yet
        self._waiting_len = 0
        self._last = ""  # last character added
        self._adds_up: dict[str, bool] = {}

    def add(self, text: str, tokens: int | None = None) -> None:
        """Append text.

        Args:
            text: what comes next.
            tokens: what it comes to by itself, where that is known. It saves counting where `text` begins with a
                single space, and the tokenizer was seen to part there between the two characters next to it.
        """
        if not text:
            return
        if tokens is not None and self._parts_before(text):
            self._close(None)
            self._counted += tokens
            self._before = text
        else:
            self._waiting.append(text)
            self._waiting_len += len(text)
            if self._waiting_len >= _BLOCKS * BLOCK:
                self._close(BLOCK)
        self._last = text[-1]

    def total(self, ending: str = "") -> int:
        """Tokens of everything added, followed by `ending`, which is not kept."""
        return self.totals([ending])[0]

    def totals(self, endings: Sequence[str]) -> list[int]:
        """`total` of each ending."""
        self._close(BLOCK)
        if len(self._open) > 4 * _CONTEXT:
            self._close(len(self._open) - 2 * _CONTEXT)
        self._before = self._tail(self._before)
        before, *counts = self._counts([self._before, *(self._before + self._open + ending for ending in endings)])
        return [self._counted - before + count for count in counts]

    def _close(self, block: int | None) -> None:
        """Count and forget what is old enough, in blocks of about so many characters; everything where None."""
        if not (self._open or self._waiting):
            return
        text = self._open + "".join(self._waiting)
        self._waiting, self._waiting_len = [], 0
        wholes: list[str] = []
        befores: list[str] = []
        begin = 0
        while begin < len(text):
            end = self._parting(text, begin, begin + (block or BLOCK))
            if end is None and block is not None:
                break
            befores.append(self._before)
            wholes.append(self._before + text[begin:end])
            self._before = self._tail(wholes[-1])
            begin = len(text) if end is None else end
        self._counted += sum(self._counts(wholes)) - sum(self._counts(befores))
        self._open = text[begin:]

    def _counts(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer.encode_batch(texts)] if texts else []

    def _tail(self, text: str) -> str:
        """The end of `text`, from a place on where tokens part."""
        return text if len(text) <= 4 * _CONTEXT else text[self._parting(text, 0, len(text) - 2 * _CONTEXT) or 0 :]

    def _parting(self, text: str, begin: int, end: int) -> int | None:
        """The last place at or before `end` where tokens part; None where none was found, or too little text follows.

        Only single spaces are looked at: there tokenizers part, if anywhere.
        """
        if end + 2 * _CONTEXT > len(text):
            return None
        for _ in range(_BORDERS_TRIED):
            end = text.rfind(" ", begin + 1, end + 1)
            if end < 0:
                return None
            if not (text[end - 1].isspace() or text[end + 1].isspace()):
                left, _, both = self._around(text[max(begin, end - _CONTEXT) : end], text[end : end + _CONTEXT])
                if np.array_equal(left, both[: len(left)]):
                    return end
            end -= 1
        return None

    def _parts_before(self, text: str) -> bool:
        """Whether tokens of the text so far and of `text` are those of both together."""
        if not self._last or self._last.isspace() or text[0] != " " or text[1:2].strip() == "":
            return False
        key = self._last + text[1]
        if key not in self._adds_up:
            so_far = (self._before + self._open + "".join(self._waiting))[-_CONTEXT:]
            left, right, both = self._around(so_far, text[:_CONTEXT])
            self._adds_up[key] = np.array_equal(np.concatenate([left, right]), both)
        return self._adds_up[key]

    def _around(self, left: str, right: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Ids of each side and of both."""
        first, second, both = (self._tokenizer.encode_batch([text])[0] for text in (left, right, left + right))
        return first, second, both


class PieceCounts:
    """Tokens of many texts, each by itself, without encoding words that came before.

    Words are counted once where the tokenizer parts at the single spaces between them. Whether it does is looked up
    once for each pair of characters around a space; a text with a space where it does not is encoded as a whole, and
    every text with a tokenizer that parts at hardly any.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, int] = {}
        self._seen: set[str] = set()  # what stands around a space
        self._joined: set[str] = set()  # of these, where tokens reach over the space

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        self._look_up(texts)
        if len(self._joined) > _JOINED_MOST:
            return self._whole(texts)
        words: list[list[str]] = []
        for text in texts:
            if any(seam in text for seam in self._joined):
                words.append([text])
            else:
                first, *others = _WORD_END.split(text)
                words.append([first, *[" " + word for word in others]])
        missing = list({word for line in words for word in line} - self._known.keys())
        if len(self._known) + len(missing) > _KNOWN_MOST:
            self._known.clear()
            missing = list({word for line in words for word in line})
        self._known.update(zip(missing, self._whole(missing), strict=True))
        known = self._known
        return [sum([known[word] for word in line]) for line in words]

    def _whole(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer.encode_batch(texts)] if texts else []

    def _look_up(self, texts: Sequence[str]) -> None:
        """Try every pair of characters around a space that was not met before, where it is met."""
        everything = "\n".join(texts)
        new = list(set(_SEAM.findall(everything)) - self._seen)
        self._seen.update(new)
        spaces = [everything.index(seam) + 1 for seam in new]
        lefts = [everything[max(0, space - _AROUND) : space] for space in spaces]
        rights = [everything[space : space + _AROUND] for space in spaces]
        wholes = [left + right for left, right in zip(lefts, rights, strict=True)]
        ids = self.tokenizer.encode_batch([*lefts, *rights, *wholes]) if new else []
        for place, seam in enumerate(new):
            left, right, whole = ids[place], ids[place + len(new)], ids[place + 2 * len(new)]
            if not np.array_equal(np.concatenate([left, right]), whole):
                self._joined.add(seam)


def count_tokens(tokenizer: Tokenizer, pieces: Iterable[str]) -> int:
    """Tokens of the joined pieces, without added special tokens, in memory that does not grow with their number."""
    counter = Counter(tokenizer)
    for piece in pieces:
        counter.add(piece)
    return counter.total()


def longest_prefix(text: str, totals: Totals, most: int) -> str:
    """The longest beginning of `text` for which `totals` says at most `most`, a whole number of words where that
    reaches `most`.

    Counts may fall a little where a word is completed, but must rise with the number of words.
    """
    words = [0, *(match.end() for match in re.finditer(r"\S+", text))]
    end = last_fitting(text, words, totals, most)
    if end is None:
        return ""
    if end == words[-1] or totals([text[:end]])[0] == most:
        return text[:end]
    following = next(word for word in words if word > end)
    last = last_fitting(text, range(end, following), totals, most) or end
    near = range(max(end, last - _FURTHER), last + 1)
    counts = totals([text[:place] for place in near])
    most_reached = max((count for count in counts if count <= most), default=0)
    return text[: max((place for place, count in zip(near, counts, strict=True) if count == most_reached), default=end)]


def last_fitting(text: str, places: Sequence[int], totals: Totals, most: int) -> int | None:
    """The last of `places` before which `totals` is at most `most`; None where there is none.

    By bisection, and then some places further, as counts can fall by a few tokens where a word is completed.
    """
    low, high = -1, len(places) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if totals([text[: places[middle]]])[0] <= most:
            low = middle
        else:
            high = middle - 1
    further = list(places[low + 1 : low + 1 + _FURTHER])
    counts = totals([text[:place] for place in further]) if further else []
    fitting = [place for place, count in zip(further, counts, strict=True) if count <= most]
    if fitting:
        return fitting[-1]
    return places[low] if low >= 0 else None


def filling_prefix(text: str, totals: Totals, wanted: int) -> tuple[str, int]:
    """The beginning of `text` for which `totals` comes to what is wanted, and what it lacks.

    Where a cut before a space or a long character misses by a token or two, as many full stops close it. What it lacks
    is less than zero where even an empty text is too much.
    """
    cut = longest_prefix(text, totals, wanted)
    found, *with_dots = totals([cut, *(cut.rstrip() + dots for dots in _DOTS)])
    if found < wanted and wanted in with_dots:
        return cut.rstrip() + _DOTS[with_dots.index(wanted)], 0
    return cut, wanted - found
