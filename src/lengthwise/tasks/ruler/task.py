"""What the tasks of the RULER family have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError
from lengthwise.seeds import derive_seed
from lengthwise.tasks.base import Sample, Score
from lengthwise.tasks.draws import Draws
from lengthwise.tasks.library import Library
from lengthwise.tasks.passages import Built, Part, join_parts
from lengthwise.tasks.rows import answer_rows, numbers_of
from lengthwise.tasks.ruler.wording import Wording
from lengthwise.tasks.scoring import ALL, score_strings, scorers_for
from lengthwise.tasks.texts import check_round_trip, check_special
from lengthwise.tasks.tokens import TokenCounter

CHECK_EVERY = 256
"""One sample of so many is encoded as a whole, to see that its tokens were counted right."""
CHECK_TOKENS = 1 << 15
"""Longer ones are not: encoding them takes longer than making them."""
_FIT_ROUNDS = 8  # tries to fill a prompt for tokenizers whose counts do not add up
_ROOM_TO_ANSWER = 1.25
Fitted = tuple[tuple[Part, ...], int]
"""A prompt in parts, and its tokens."""
Assemble = Callable[[int], Fitted]
"""A prompt whose parts add up to at most so many tokens, where there is one."""


class RulerTask(ABC):
    """A task whose prompt is an instruction, a context and a question.

    Args:
        name: with its variant.
        library: where it gets its words and texts.
    """

    family: ClassVar[str]
    version = 1
    floor: float | None = None
    binary = False
    wants: ClassVar[str] = ALL

    def __init__(self, name: str, library: Library) -> None:
        self.name = name
        self.library = library
        self._least: dict[str, int] = {}

    @property
    def wording(self) -> Wording:
        """What is said."""
        return self.library.wording

    def parameters(self) -> dict[str, Any]:
        """Everything that decides the samples besides length, tokenizer, seed and index."""
        wording = self.wording
        said: dict[str, Any] = {"name": wording.name, "sha256": wording.fingerprint}
        if wording.source is not None:
            said["source"] = dict(wording.source)
        return {"family": self.family, "wording": said, **self.own_parameters()}

    @abstractmethod
    def own_parameters(self) -> dict[str, Any]:
        """Those of the kind of task."""

    @abstractmethod
    def least_tokens(self, counter: TokenCounter) -> int:
        """An upper bound of what the shortest prompt and the answer take, over all samples."""

    @abstractmethod
    def widest_answer(self, counter: TokenCounter) -> str:
        """The right answer, written out, in about the most tokens that it takes."""

    @abstractmethod
    def build_some(
        self, indices: Sequence[int], length: int, room: int, tokenizer: Tokenizer, seed: int
    ) -> list[Built]:
        """The samples of these numbers, prompts of at most `room` tokens."""

    def max_new_tokens(self, tokenizer: Tokenizer) -> int:
        """Generation budget: RULER's, and a quarter more than the right answer takes where that is more."""
        counter = self.library.counter(tokenizer)
        answer = math.ceil(_ROOM_TO_ANSWER * counter.whole([" " + self.widest_answer(counter)])[0])
        return max(self.wording.budgets[self.family], answer)

    def min_length(self, tokenizer: Tokenizer) -> int:
        """Shortest length at which every sample can be posed."""
        if tokenizer.fingerprint not in self._least:
            counter = self.library.counter(tokenizer)
            self._least[tokenizer.fingerprint] = self.least_tokens(counter) + self.max_new_tokens(tokenizer)
        return self._least[tokenizer.fingerprint]

    def build(self, indices: Sequence[int], length: int, tokenizer: Tokenizer, seed: int) -> list[Built]:
        """`samples` whose prompts are still in parts.

        Raises:
            InputError: too short a length; a tokenizer that does not give the words of the task back.
        """
        if any(index < 0 for index in indices):
            raise ValueError(f"samples are numbered from 0, got {min(indices)}")
        self._check_tokenizer(tokenizer)
        least = self.min_length(tokenizer)
        if length < least:
            raise InputError(
                expected=f"a length of at least {least} tokens for {self.name} with the tokenizer {tokenizer.name}",
                got=str(length),
                where="the length asked for",
                fix=f"ask for {least} or more; {self.max_new_tokens(tokenizer)} of them are kept for the answer",
            )
        room = length - self.max_new_tokens(tokenizer)
        built = self.build_some(indices, length, room, tokenizer, seed)
        counter = self.library.counter(tokenizer)
        for made in built:
            if counter.additive and made.index % CHECK_EVERY == 0 and made.num_tokens <= CHECK_TOKENS:
                counted = counter.whole([join_parts(made.parts)])[0]
                assert counted == made.num_tokens, f"{self.name} {made.index}: {counted} tokens, not {made.num_tokens}"
        assert all(made.num_tokens <= room for made in built), f"{self.name}: a prompt is longer than {room} tokens"
        return built

    def samples(self, indices: Sequence[int], length: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
        """The samples of these numbers; see `build` for what it raises."""
        budget = self.max_new_tokens(tokenizer)
        return [made.sample(self.name, length, budget) for made in self.build(indices, length, tokenizer, seed)]

    def rows(
        self,
        rows: int | Sequence[int],
        context_length: int,
        tokenizer: Tokenizer,
        seed: int,
        *,
        all_tokens: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows for finetuning: a prompt, a space and what is asked for, then the beginning of the prompt once more.

        Prompts end where a unit of their haystack does, so rows are filled up to `context_length` + 1 tokens by
        text that never counts. Of several values all are written, with commas between; of several ways to say one,
        the first.

        Args:
            rows: how many, or the numbers of those wanted; row i does not depend on it.
            context_length: tokens the model reads.
            tokenizer: of the model.
            seed: decides the samples; they are others than those that `samples` makes of the same seed.
            all_tokens: count the loss of prompt and answer, not that of the answer alone.
        Returns:
            tokens [rows, context_length + 1] and loss mask of the same shape: True where the prediction of that token
            counts.
        Raises:
            InputError: too short a length; a tokenizer that does not give the words of the task back.
        """
        self._check_tokenizer(tokenizer)
        counter, numbers = self.library.counter(tokenizer), numbers_of(rows)
        # Tokens may be more beside their neighbours than alone, hence the two.
        answer = counter.whole([" " + self.widest_answer(counter)])[0] + 2
        least = self.least_tokens(counter) + answer - 1
        if context_length < least:
            raise InputError(
                expected=f"a context length of at least {least} tokens for rows of {self.name} with the tokenizer "
                f"{tokenizer.name}",
                got=str(context_length),
                where="the context length",
                fix="raise it, or take a tokenizer with longer tokens",
            )
        room = context_length + 1 - answer
        own_seed = derive_seed(seed, "rows", context_length)
        built = self.build_some(list(numbers), room, room, tokenizer, own_seed)
        texts = [
            (join_parts(made.parts), " " + (", ".join(made.answers) if self.wants == ALL else made.answers[0]))
            for made in built
        ]
        return answer_rows(
            tokenizer, texts, len(numbers), context_length, self.name, all_tokens=all_tokens, fill_up=True
        )

    def scorers(self) -> tuple[str, ...]:
        """RULER's rule and the strict one."""
        return scorers_for(self.wants)

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        """Judge a raw output."""
        known = self.scorers()
        return score_strings(text, sample.answers, known[0] if scorer is None else scorer, known)

    def draws(self, seed: int, index: int, *more: int) -> Draws:
        """The random numbers of a sample: the same at every length, so that lengths are compared on equal terms."""
        return Draws(seed, f"tasks/{self.purpose()}", index, *more)

    def purpose(self) -> str:
        """What tells this task's random numbers from others'."""
        return self.name

    def fit(self, index: int, counter: TokenCounter, room: int, assemble: Assemble, *, exact: bool) -> Fitted:
        """`fitted`; raises InputError where there is no prompt for a sample."""
        found = fitted(counter, room, assemble, exact=exact)
        if found is None:
            raise InputError(
                expected=f"a prompt of at most {room} tokens",
                got=f"none for sample {index} with the tokenizer {counter.tokenizer.name}",
                where=self.name,
                fix="ask for a greater length",
            )
        return found

    def _check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """See that the words of the task survive the tokenizer."""

        def check() -> bool:
            texts = [text for value in vars(self.wording).values() for text in _texts(value)]
            where = f"the wording '{self.wording.name}' of the tasks"
            if self.wording.source is None:
                check_special(texts, tokenizer, where)
            check_round_trip([*texts, _CHARACTERS], tokenizer, where)
            return True

        self.library.once(("checked", self.wording.fingerprint, tokenizer.fingerprint), check)


_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz 0123456789 a-b. c: d, e\nf 1. g\n\nh"


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in vars(value).values() if isinstance(text, str)] if hasattr(value, "before") else []


def fitted(counter: TokenCounter, room: int, assemble: Assemble, *, exact: bool) -> Fitted | None:
    """A prompt of at most `room` tokens, as long as can be found; None where none was found.

    Args:
        counter: of the tokenizer.
        room: most tokens of the prompt.
        assemble: makes a prompt whose parts add up to at most so many tokens; the same for the same number.
        exact: the parts add up to the tokens of the whole.
    """
    found = assemble(room) if exact else fit_whole(counter, room, assemble)
    return None if found is None or found[1] > room else found


def fit_whole(counter: TokenCounter, room: int, assemble: Assemble) -> Fitted | None:
    """Fill a prompt whose parts do not add up: guess by addition, count the whole, correct, a few times.

    Args:
        counter: of the tokenizer.
        room: most tokens of the prompt.
        assemble: makes a prompt whose parts add up to at most so many tokens; the same for the same number.
    Returns:
        the longest prompt that was found to fit, and its tokens; None where none was.
    """
    best: Fitted | None = None
    target, tried = room, set()
    for _ in range(_FIT_ROUNDS):
        tried.add(target)
        parts, summed = assemble(target)
        tokens = counter.count(join_parts(parts))
        if tokens <= room and (best is None or tokens > best[1]):
            best = (parts, tokens)
        # By so much this prompt is too short or too long; what adds up to less than it does is shorter by a unit.
        target = summed + room - tokens
        if target in tried:
            break
    return best
