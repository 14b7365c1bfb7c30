"""Common words: which ten words of a numbered list come up most often? A worked example comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.draws import Draws
from lengthwise.tasks.passages import Built, Part
from lengthwise.tasks.ruler.names import some_names
from lengthwise.tasks.ruler.task import RulerTask, fitted
from lengthwise.tasks.ruler.wording import Wording
from lengthwise.tasks.tokens import TokenCounter

NUM_COMMON = 10
_TRIES = 50
_SIGMAS = 5  # how far above the mean a sample's words may come out before they are drawn again
_LEAST_UNCOMMON = 5
_NUMBERS = 4096  # numbers are counted so many at a time


@dataclass(frozen=True)
class Tier:
    """How often words come up."""

    least_length: int
    """Used from this length on, where it fits."""
    common: int
    uncommon: int
    example_common: int
    example_uncommon: int
    example_words: int
    """Words in the example, the common ones included."""


TIERS = (Tier(4096, 30, 3, 10, 3, 40), Tier(0, 6, 1, 3, 1, 20), Tier(0, 2, 1, 2, 1, 14))
"""RULER's two, from 4096 tokens on and below; and ours for lengths at which its second does not fit."""


class CommonWordsTask(RulerTask):
    """cwe."""

    family = "cwe"

    def own_parameters(self) -> dict[str, Any]:
        """Counts and the word lists."""
        tiers = [vars(tier) for tier in TIERS]
        return {"num_common": NUM_COMMON, "tiers": tiers, "words_sha256": self.library.words.fingerprint}

    def widest_answer(self, counter: TokenCounter) -> str:
        """Ten words of more than usual length, numbered."""
        return numbered(["abstraction"] * NUM_COMMON)

    def least_tokens(self, counter: TokenCounter) -> int:
        """The last tier with a few uncommon words."""
        return self._needed(TIERS[-1], counter)

    def _needed(self, tier: Tier, counter: TokenCounter) -> int:
        """Tokens that almost no sample's shortest prompt of this tier exceeds."""
        tokens = self._word_counts(counter)
        wording = self.wording
        entries = [
            (NUM_COMMON, tier.example_common),
            (tier.example_words - NUM_COMMON, tier.example_uncommon),
            (NUM_COMMON, 1),
            (NUM_COMMON, tier.common),
            (_LEAST_UNCOMMON, tier.uncommon),
        ]
        example = sum(words * times for words, times in entries[:2])
        main = sum(words * times for words, times in entries[3:])
        numbers = self._number_sums(counter, max(example, main))
        around = counter.count(wording.cwe.filled().before) + counter.count(wording.cwe.filled().ending)
        mean = sum(words * times for words, times in entries) * float(tokens.mean())
        spread = float(np.sqrt(sum(words * times**2 for words, times in entries))) * float(tokens.std())
        return int(2 * around + numbers[example] + numbers[main] + numbers[NUM_COMMON] + mean + _SIGMAS * spread) + 4

    def _tier(self, length: int, counter: TokenCounter) -> Tier:
        budget = self.max_new_tokens(counter.tokenizer)
        fitting = [t for t in TIERS if length >= t.least_length and self._needed(t, counter) + budget <= length]
        return fitting[0] if fitting else TIERS[-1]

    def _word_counts(self, counter: TokenCounter) -> NDArray[np.int64]:
        key = ("cwe words", counter.tokenizer.fingerprint)
        return self.library.once(key, lambda: counter.counts([f" {word}" for word in self.library.words.all]))

    def _number_sums(self, counter: TokenCounter, upto: int) -> NDArray[np.int64]:
        """Tokens of the numbers 1..n with their dots, for n from 0."""
        size = -(-(upto + 1) // _NUMBERS) * _NUMBERS

        def count() -> NDArray[np.int64]:
            numbers = [str(number) for number in range(1, size)]
            if counter.inside:
                tokens = counter.counts_of_names(numbers) + counter.count(" 1.") - counter.count(" 1")
            else:
                tokens = counter.counts([f" {number}." for number in numbers])
            return np.concatenate([[0], np.cumsum(tokens)])

        return self.library.once(("cwe numbers", counter.tokenizer.fingerprint, size), count)

    def build_some(
        self, indices: Sequence[int], length: int, room: int, tokenizer: Tokenizer, seed: int
    ) -> list[Built]:
        """Draw words, repeat them, shuffle."""
        counter = self.library.counter(tokenizer)
        tier = self._tier(length, counter)
        return [self._build_one(index, room, tier, counter, seed) for index in indices]

    def _build_one(self, index: int, room: int, tier: Tier, counter: TokenCounter, seed: int) -> Built:
        for attempt in range(_TRIES):
            draws = self.draws(seed, index, attempt) if attempt else self.draws(seed, index)
            words = WordStream(self, counter, draws)
            built = self._attempt(index, room, tier, words, draws)
            if built is not None:
                return built
        raise InputError(
            expected=f"words that fit {room} tokens",
            got=f"none in {_TRIES} draws for sample {index}",
            where=self.name,
            fix="ask for a greater length",
        )

    def _attempt(self, index: int, room: int, tier: Tier, words: WordStream, draws: Draws) -> Built | None:
        """The sample, or None where its words are too long for its length."""
        counter = words.counter
        shown = words.words(0, tier.example_words)
        times = [tier.example_common] * NUM_COMMON + [tier.example_uncommon] * (tier.example_words - NUM_COMMON)
        entries = [word for word, count in zip(shown, times, strict=True) for _ in range(count)]
        order = draws.permutation(len(entries)).tolist()
        example = cwe_example(self.wording, [entries[place] for place in order], shown[:NUM_COMMON])
        shuffle_seed = draws.integer(1 << 53)

        def assemble(target: int) -> tuple[tuple[Part, ...], int]:
            return self._assemble(target, words, example, shuffle_seed, tier)

        found = fitted(counter, room, assemble, exact=counter.additive)
        if found is None:
            return None
        parts, total = found
        common = tuple(words.words(tier.example_words, NUM_COMMON))
        meta = {"common": tier.common, "uncommon": tier.uncommon, "example_words": tier.example_words}
        return Built(index=index, parts=parts, answers=common, num_tokens=total, meta=meta)

    def _assemble(
        self, target: int, words: WordStream, example: str, shuffle_seed: int, tier: Tier
    ) -> tuple[tuple[Part, ...], int]:
        """As many uncommon words as fit."""
        counter = words.counter
        template = self.wording.cwe.filled()
        skip, first = tier.example_words, tier.common * NUM_COMMON
        head = example + template.before
        around = counter.count(head + "1.") - counter.count(" 1.") + counter.count(template.ending)
        common = tier.common * int(words.tokens(skip, NUM_COMMON).sum())
        entry = float(self._word_counts(counter).mean()) + counter.count(" 100.")
        guess = max(_LEAST_UNCOMMON, int((target - around - common) / (tier.uncommon * entry)) + 2)
        while True:
            uncommon = tier.uncommon * np.concatenate([[0], np.cumsum(words.tokens(skip + NUM_COMMON, guess))])
            entries = first + tier.uncommon * np.arange(guess + 1)
            sums = around + common + uncommon + self._number_sums(counter, int(entries[-1]))[entries]
            if sums[-1] > target:
                break
            guess += guess // 8 + 8
        number = max(1, int(np.searchsorted(sums, target, side="right")) - 1)
        while True:
            drawn = words.words(skip, NUM_COMMON + number)
            times = np.repeat(np.arange(len(drawn)), [tier.common] * NUM_COMMON + [tier.uncommon] * number)
            order = Draws(shuffle_seed, "tasks/cwe order", number).permutation(len(times))
            listed = [drawn[place] for place in times[order].tolist()]
            last = f" {listed[-1]}"
            closing = counter.count(last + template.ending) - counter.count(last) - counter.count(template.ending)
            total = int(sums[number]) + closing
            if total <= target or number == 1:
                return (head + numbered(listed) + template.ending,), total
            number -= 1


class WordStream:
    """Different words in random order without end, and their tokens: those of the lists, then adjective-noun pairs."""

    def __init__(self, task: CommonWordsTask, counter: TokenCounter, draws: Draws) -> None:
        self.counter = counter
        self._draws = draws
        self._library = task.library
        every = task.library.words.all
        order = draws.permutation(len(every))
        self._words = [every[place] for place in order.tolist()]
        self._tokens = task._word_counts(counter)[order]

    def _upto(self, count: int) -> None:
        have = len(self._words)
        if count <= have:
            return
        seen = set(self._words)
        more: list[str] = []
        while len(more) < count - have:
            for word in some_names(self._draws, "word", count - have, self._library.words):
                if word not in seen:
                    seen.add(word)
                    more.append(word)
        self._words.extend(more)
        self._tokens = np.concatenate([self._tokens, self.counter.counts([f" {word}" for word in more])])

    def words(self, first: int, count: int) -> list[str]:
        """Words first..first+count-1 of the stream."""
        self._upto(first + count)
        return self._words[first : first + count]

    def tokens(self, first: int, count: int) -> NDArray[np.int64]:
        """Their tokens, each behind a space."""
        self._upto(first + count)
        return self._tokens[first : first + count]


def numbered(words: Sequence[str]) -> str:
    """1. a 2. b"""
    parts = [""] * (2 * len(words))
    parts[0::2] = [f"{number}." for number in range(1, len(words) + 1)]
    parts[1::2] = words
    return " ".join(parts)


def cwe_example(wording: Wording, words: Sequence[str], common: Sequence[str]) -> str:
    """A list, its question and its answer."""
    template = wording.cwe.filled()
    return template.before + numbered(words) + template.ending + " " + numbered(common) + "\n"
