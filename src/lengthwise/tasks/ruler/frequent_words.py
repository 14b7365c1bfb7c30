"""Frequent words of a code: which three words come up most often? How often words come up follows Zipf's law."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.draws import Draws
from lengthwise.tasks.library import Library
from lengthwise.tasks.passages import Built, Part
from lengthwise.tasks.ruler.task import RulerTask
from lengthwise.tasks.tokens import TokenCounter

_WORD_LEN = 6
_TOKENS_A_WORD = 50  # tokens of the text for each word of the code
_ASKED = 3
_LEAST_VOCABULARY = 6
_SLACK = 16


class FrequentWordsTask(RulerTask):
    """fwe.

    Args:
        alpha: exponent of Zipf's law.
    """

    family = "fwe"

    def __init__(self, name: str, library: Library, alpha: float = 2.0) -> None:
        super().__init__(name, library)
        if not 1 < alpha <= 5:
            raise InputError(
                expected="an exponent above 1 and up to 5",
                got=str(alpha),
                where=f"alpha of {name}",
                fix="write alpha=2.0",
            )
        self.alpha = alpha

    def own_parameters(self) -> dict[str, Any]:
        """The exponent."""
        return {"alpha": self.alpha}

    def widest_answer(self, counter: TokenCounter) -> str:
        """Three words that no tokenizer knows."""
        return ", ".join(["qxzjkv"] * _ASKED)

    def least_tokens(self, counter: TokenCounter) -> int:
        """The shortest text in which the three are more frequent than the others, with the longest words."""
        number = next(n for n in range(1, 1 << 20) if self._clear(n) and self._clear(n + 1) and self._clear(n + 2))
        counts = zipf_counts(number, _LEAST_VOCABULARY, self.alpha)
        template = self.wording.fwe.filled()
        around = counter.count(template.before) + counter.count(template.ending)
        blank = counter.count(f" {self.wording.blank}")
        return around + blank * int(counts[0]) + (_WORD_LEN + 1) * int(counts[1:].sum()) + _SLACK

    def _clear(self, number: int) -> bool:
        counts = zipf_counts(number, _ASKED + 2, self.alpha)
        return bool(counts[_ASKED] > counts[_ASKED + 1])

    def build_some(
        self, indices: Sequence[int], length: int, room: int, tokenizer: Tokenizer, seed: int
    ) -> list[Built]:
        """Draw words, repeat them by rank, shuffle."""
        counter = self.library.counter(tokenizer)
        return [self._build_one(index, room, counter, seed) for index in indices]

    def _build_one(self, index: int, room: int, counter: TokenCounter, seed: int) -> Built:
        draws = self.draws(seed, index)
        size = max(_LEAST_VOCABULARY, room // _TOKENS_A_WORD)
        words = [self.wording.blank, *draw_codes(draws, size - 1)]
        tokens = counter.counts([f" {word}" for word in words])
        shuffle_seed = draws.integer(1 << 53)

        def assemble(target: int) -> tuple[tuple[Part, ...], int]:
            return self._assemble(target, words, tokens, shuffle_seed, counter)

        parts, total = self.fit(index, counter, room, assemble, exact=counter.additive)
        asked = tuple(words[1 : 1 + _ASKED])
        text = parts[0] if isinstance(parts[0], str) else parts[0].text
        meta = {"counts": [text.count(word) for word in asked], "vocabulary": size}
        return Built(index=index, parts=parts, answers=asked, num_tokens=total, meta=meta)

    def _assemble(
        self, target: int, words: list[str], tokens: NDArray[np.int64], shuffle_seed: int, counter: TokenCounter
    ) -> tuple[tuple[Part, ...], int]:
        """The longest text that fits."""
        template = self.wording.fwe.filled()
        around = counter.count(template.before) + counter.count(template.ending)

        def size_of(number: int) -> int:
            return around + int(zipf_counts(number, len(words), self.alpha) @ tokens)

        least = math.ceil(zeta(self.alpha))  # below, there is no word at all
        low, high = least, max(least, target)
        while low < high:
            middle = (low + high + 1) // 2
            if size_of(middle) <= target + 2:
                low = middle
            else:
                high = middle - 1
        number = low
        while True:
            if self._clear(number) or number == least:
                counts = zipf_counts(number, len(words), self.alpha)
                places = np.repeat(np.arange(len(words)), counts)
                order = Draws(shuffle_seed, "tasks/fwe order", number).permutation(len(places))
                text = [words[place] for place in places[order].tolist()]
                first, last = text[0], text[-1]
                opening, alone, closing, bare = counter.counts(
                    [template.before + first, f" {first}", f" {last}{template.ending}", f" {last}"]
                ).tolist()
                total = int(counts @ tokens) + opening - alone + closing - bare
                if total <= target or number == least:
                    return (template.before + " ".join(text) + template.ending,), total
            number -= 1


def zipf_counts(number: int, size: int, alpha: float) -> NDArray[np.int64]:
    """How often each of `size` words comes up among about `number`, by rank: number * rank^-alpha / zeta(alpha)."""
    shares = np.arange(1, size + 1, dtype=np.float64) ** -alpha / zeta(alpha)
    return (number * shares).astype(np.int64)


def zeta(alpha: float) -> float:
    """Riemann's zeta function for alpha above 1, by Euler and Maclaurin."""
    upto = 64
    head = math.fsum(n**-alpha for n in range(1, upto))
    tail = upto ** (1 - alpha) / (alpha - 1) + 0.5 * upto**-alpha + alpha * upto ** (-alpha - 1) / 12
    return head + tail


def draw_codes(draws: Draws, count: int) -> list[str]:
    """Different strings of six small letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(draws.letters(count - len(found), _WORD_LEN, string.ascii_lowercase)))
    return list(found)
