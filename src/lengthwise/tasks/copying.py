"""Copying (arXiv 2402.01032): a random string and a mark, after which the string is to be said again.

An example is start, string, separator, the same string, end: 2 L + 3 tokens for a string of L letters. So a length of
2 L + 3 asks for strings of L letters. The vocabulary is that of `CopyTokenizer`, one token a symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import CopyTokenizer, Tokenizer
from lengthwise.errors import InputError, near_matches
from lengthwise.seeds import numpy_rng
from lengthwise.tasks.base import Sample, Score, sample_id
from lengthwise.tasks.rows import numbers_of

SCORERS = ("characters", "string")
_MARKS = 3  # start, separator, end
_C = CopyTokenizer


@dataclass(frozen=True, kw_only=True)
class CopyingConfig:
    """What decides the samples."""

    letters: int = 26
    """Letters that strings are made of: the first so many of the alphabet."""
    free_running: bool = False
    """Let the model go on by itself. False, as published: at every place it is given the right letters before it, and
    its most likely next one is compared."""
    shortest: int = 50
    """Fewest letters of a string in rows for training; samples have as many as their length says."""
    longest: int = 100
    """Most letters of such a string."""

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            got = f"{self.shortest} and {self.longest}"
            raise _wrong("shortest and longest", "1 <= shortest <= longest", got, "give, e.g., 50 and 100")
        if not 2 <= self.letters <= len(_C.letters):
            raise _wrong("letters", f"2 to {len(_C.letters)}", str(self.letters), f"give {len(_C.letters)}")


def _wrong(what: str, expected: str, got: str, fix: str) -> InputError:
    return InputError(expected=expected, got=got, where=f"{what} of copying", fix=fix)


def example_length(letters: int) -> int:
    """Tokens of the example with a string of so many letters; the length to ask for."""
    return 2 * letters + _MARKS


class CopyingTask:
    """Copying a string. `copying` scores every letter given the right ones before it, `copying_free` a generation."""

    version = 1
    binary = False

    def __init__(self, config: CopyingConfig | None = None, *, name: str | None = None) -> None:
        self.config = config or CopyingConfig()
        self.name = name or ("copying_free" if self.config.free_running else "copying")
        self.floor: float | None = 1 / self.config.letters

    def parameters(self) -> dict[str, Any]:
        """Settings."""
        return asdict(self.config)

    def min_length(self, tokenizer: Tokenizer) -> int:
        """The example with one letter."""
        return example_length(1)

    def samples(self, indices: Sequence[int], length: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
        """Strings of (length - 3) // 2 letters.

        Raises InputError where the length is too short, or the tokenizer needs more than one token for a symbol.
        """
        if length < self.min_length(tokenizer):
            raise InputError(
                expected=f"a length of at least {self.min_length(tokenizer)} tokens, twice the string and three",
                got=str(length),
                where=self.name,
                fix="raise --lengths",
            )
        self._check(tokenizer)
        return [self._sample(index, length, seed) for index in indices]

    def scorers(self) -> tuple[str, ...]:
        """characters, string."""
        return SCORERS

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        """Judge a copy: share of letters at their place, or 1 where all are right.

        A generation counts up to its end symbol; one that is too long or too short is compared with the longer of the
        two. Both scores stand in the details, whichever is asked for.
        """
        name = SCORERS[0] if scorer is None else scorer
        if name not in SCORERS:
            raise _wrong("scorer", " or ".join(SCORERS), repr(name), near_matches(name, SCORERS))
        gold = sample.answers[0]
        said = text.split(_C.end)[0] if sample.continuation is None else text[: len(gold)]
        right = sum(a == b for a, b in zip(gold, said, strict=False))
        values = {"characters": right / max(len(gold), len(said)), "string": float(said == gold)}
        return Score(value=values[name], scorer=f"copying/{name}/{self.version}", details=values)

    def rows(
        self,
        rows: int | Sequence[int],
        context_length: int,
        tokenizer: Tokenizer,
        seed: int,
        *,
        lengths: tuple[int, int] | None = None,
        all_tokens: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows for training: examples one after the other, the last cut where the row ends.

        Args:
            rows: how many, or the numbers of those wanted; row i does not depend on it.
            context_length: tokens the model reads; at least one longest example.
            tokenizer: `CopyTokenizer`, or another with one token a symbol.
            seed: decides the strings.
            lengths: fewest and most letters of a string, both possible; drawn evenly. None: those of the config.
            all_tokens: count the loss of every token, the random letters included.
        Returns:
            tokens [rows, context_length + 1] and loss mask of the same shape: True where the prediction of that token
            counts, which are the second copy and the end symbol of every example that is whole.
        """
        shortest, longest = (self.config.shortest, self.config.longest) if lengths is None else lengths
        if not 1 <= shortest <= longest:
            raise _wrong(
                "lengths", "1 <= fewest <= most letters", f"{shortest} and {longest}", "give, e.g., 50 and 100"
            )
        if example_length(longest) > context_length:
            raise _wrong(
                "context length",
                f"at least {example_length(longest)} tokens for strings of {longest} letters",
                str(context_length),
                "raise the context length or lower the lengths",
            )
        self._check(tokenizer)
        width, numbers = context_length + 1, numbers_of(rows)
        tokens = np.zeros((len(numbers), width), dtype=np.int64)
        mask = np.zeros((len(numbers), width), dtype=bool)
        for row, number in enumerate(numbers):
            random = numpy_rng(seed, f"{self.name}/rows", context_length, number)
            text = ""
            while len(text) < width:
                letters = int(random.integers(shortest, longest + 1))
                copied = len(text) + letters + 2
                string = self._string(random, letters)
                text += f"{_C.start}{string}{_C.separator}{string}{_C.end}"
                if len(text) <= width:
                    mask[row, copied : len(text)] = True
            tokens[row] = tokenizer.encode(text[:width])
        if all_tokens:
            mask[:, 1:] = True
        return tokens, mask

    def _check(self, tokenizer: Tokenizer) -> None:
        if len(tokenizer.encode(_C.symbols)) != len(_C.symbols):
            raise InputError(
                expected="a tokenizer with one token for each letter and mark",
                got=tokenizer.name,
                where=self.name,
                fix="use the tokenizer 'copy', and a model that was trained on it",
            )

    def _string(self, random: np.random.Generator, letters: int) -> str:
        return "".join(_C.letters[i] for i in random.integers(self.config.letters, size=letters))

    def _sample(self, index: int, length: int, seed: int) -> Sample:
        letters = (length - _MARKS) // 2
        # The same strings for both ways of scoring: the name of the task is not part of the seed.
        string = self._string(numpy_rng(seed, "copying/sample", length, index), letters)
        return Sample(
            id=sample_id(self.name, length, index),
            task=self.name,
            index=index,
            length=length,
            prompt=f"{_C.start}{string}{_C.separator}",
            answers=(string,),
            num_tokens=letters + 2,
            max_new_tokens=letters + 1,
            continuation=None if self.config.free_running else string,
            meta={"letters": letters},
        )


def copying_tasks(**settings: Any) -> list[CopyingTask]:
    """Both ways of scoring, with common settings of `CopyingConfig`."""
    return [CopyingTask(CopyingConfig(free_running=free, **settings)) for free in (False, True)]
