"""Passkey retrieval: one line of a long filler states a number, and the number is asked for at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.data.tokenizers import Tokenizer
from lengthwise.errors import InputError, near_matches
from lengthwise.seeds import numpy_rng
from lengthwise.tasks.base import Sample, Score, sample_id
from lengthwise.tasks.passkey.layouts import ExactLayout, Layout, blocks, blocks_text, landmark, landmark_text
from lengthwise.tasks.passkey.wording import OWN, OWN_BLOCKS, PasskeyWording, read_wording
from lengthwise.tasks.rows import answer_rows, numbers_of
from lengthwise.tasks.texts import check_texts

VARIANTS = ("exact", "landmark", "blocks")
"""exact: ours. landmark: Landmark Attention (arXiv 2305.16300). blocks: Stuffed Mamba (2410.07145), InfiniteBench."""
DEPTHS = (0.1, 0.5, 0.9)
"""Of the paper's figure."""
_LANDMARK_KEYS = 50_000
_LONGEST_NUMBER = 40  # digits of an output that are read as one number


@dataclass(frozen=True, kw_only=True)
class PasskeyConfig:
    """What decides the samples."""

    variant: str = "exact"
    """exact, landmark or blocks."""
    depths: tuple[float, ...] = DEPTHS
    """Where the key line stands, 0 (beginning) to 1 (end); sample i has depth i modulo their number. Not for landmark,
    which draws the place."""
    digits: int = 5
    """Digits of the key, zeros in front included. Not for landmark, whose keys are 1 to 50000."""
    max_new_tokens: int = 10
    """Generation budget."""
    wording: str | None = None
    """JSON or TOML file with other words; None for ours."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            fix = near_matches(self.variant, VARIANTS)
            raise _wrong("variant", f"one of {', '.join(VARIANTS)}", repr(self.variant), fix)
        if not self.depths or not all(0 <= depth <= 1 for depth in self.depths):
            raise _wrong("depths", "numbers from 0 to 1, at least one", str(self.depths), "give, e.g., 0.1 0.5 0.9")
        if not 1 <= self.digits <= 18:
            raise _wrong("digits", "1 to 18", str(self.digits), "give 5")
        if self.max_new_tokens < 1:
            raise _wrong("max_new_tokens", "at least 1", str(self.max_new_tokens), "give 10")


def _wrong(what: str, expected: str, got: str, fix: str) -> InputError:
    return InputError(expected=expected, got=got, where=f"{what} of passkey", fix=fix)


class PasskeyTask:
    """Passkey retrieval. Of D depths, sample i has the one with number i modulo D, and is trial i // D of its cell."""

    version = 1
    floor: float | None = None
    binary = True

    def __init__(self, config: PasskeyConfig | None = None, *, name: str | None = None) -> None:
        self.config = config or PasskeyConfig()
        self.name = name or ("passkey" if self.config.variant == "exact" else f"passkey_{self.config.variant}")
        self._exact_layouts: dict[str, ExactLayout] = {}
        self._shortest: dict[str, int] = {}

    @cached_property
    def wording(self) -> PasskeyWording:
        """The pieces of the prompt."""
        if self.config.wording is not None:
            return read_wording(self.config.wording)
        return OWN_BLOCKS if self.config.variant == "blocks" else OWN

    def parameters(self) -> dict[str, Any]:
        """Settings, and a hash of the wording."""
        own = self.config.wording is None
        return {**asdict(self.config), "wording": {"own": own, "sha256": self.wording.fingerprint}}

    def min_length(self, tokenizer: Tokenizer) -> int:
        """Tokens of the prompt without filler (of `blocks`: with the key block alone) and of the answer.

        Keys differ in their tokens: it is the most that a thousand of them take, spread over all there are.
        """
        if tokenizer.fingerprint not in self._shortest:
            if self.config.variant == "landmark":
                keys = [str(number) for number in range(1, _LANDMARK_KEYS + 1, 50)]
            else:
                step = max(1, 10**self.config.digits // 997)
                keys = [f"{number:0{self.config.digits}d}" for number in range(0, 10**self.config.digits, step)]
            alone = tokenizer.encode_batch([" " + key for key in keys])
            longest = max(zip(keys, alone, strict=True), key=lambda pair: len(pair[1]))[0]
            if self.config.variant == "landmark":
                text = landmark_text(self.wording, longest, 0, 0)
            elif self.config.variant == "blocks":
                text = blocks_text(self.wording, longest, 0.0, 1)
            else:
                text = self._exact(tokenizer).shortest(longest)
            self._shortest[tokenizer.fingerprint] = len(tokenizer.encode(text))
        return self._shortest[tokenizer.fingerprint] + self.config.max_new_tokens

    def samples(self, indices: Sequence[int], length: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
        """The samples of these numbers.

        Raises InputError where the length is too short, or the tokenizer reads a special token in the wording or does
        not give it back.
        """
        self._check(tokenizer)
        if length < self.min_length(tokenizer):
            raise self._too_short(length, tokenizer)
        return [self._sample(index, length, tokenizer, seed) for index in indices]

    def scorers(self) -> tuple[str, ...]:
        """string and integer; for landmark integer first, as published."""
        return ("integer", "string") if self.config.variant == "landmark" else ("string", "integer")

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        """Judge an output by its first run of digits: equal to the key as it is written, or equal as a number.

        Both stand in the details, whichever is asked for.
        """
        name = self.scorers()[0] if scorer is None else scorer
        if name not in self.scorers():
            raise _wrong("scorer", "string or integer", repr(name), near_matches(name, self.scorers()))
        found = re.search(r"[0-9]+", text)
        digits = found.group() if found else None
        key = sample.answers[0]
        as_number = digits is not None and len(digits) <= _LONGEST_NUMBER and int(digits) == int(key)
        values = {"string": float(digits == key), "integer": float(as_number)}
        return Score(value=values[name], scorer=f"passkey/{name}/{self.version}", details={**values, "found": digits})

    def rows(
        self,
        rows: int | Sequence[int],
        context_length: int,
        tokenizer: Tokenizer,
        seed: int,
        *,
        depths: Sequence[float] | None = None,
        all_tokens: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows for finetuning: one prompt and its key each, exactly `context_length` + 1 tokens, built as `exact`.

        Args:
            rows: how many, or the numbers of those wanted; row i does not depend on it.
            context_length: tokens the model reads.
            tokenizer: of the model.
            seed: decides keys and depths.
            depths: row i has the one with number i modulo their count; drawn evenly from 0 to 1 where None.
            all_tokens: count the loss of every token, not that of the key alone.
        Returns:
            tokens [rows, context_length + 1] and loss mask of the same shape: True where the prediction of that token
            counts. The first column is False.
        """
        if self.config.variant != "exact":
            raise _wrong("variant", "exact, for rows of an exact length", repr(self.config.variant), "use exact")
        self._check(tokenizer)
        room = context_length + 1
        numbers = numbers_of(rows)

        def texts() -> Iterator[tuple[str, str]]:
            for row in numbers:
                random = numpy_rng(seed, f"{self.name}/rows", context_length, row)
                ending = " " + self._key(random)
                depth = float(random.random()) if depths is None else float(depths[row % len(depths)])
                layout = self._exact(tokenizer).build(ending[1:], depth, room, ending)
                if layout is None:
                    raise self._too_short(context_length, tokenizer)
                yield layout.prompt, ending

        return answer_rows(tokenizer, texts(), len(numbers), context_length, self.name, all_tokens=all_tokens)

    def _check(self, tokenizer: Tokenizer) -> None:
        check_texts([" ".join(asdict(self.wording).values())], tokenizer, f"wording of {self.name}")

    def _exact(self, tokenizer: Tokenizer) -> ExactLayout:
        if tokenizer.fingerprint not in self._exact_layouts:
            self._exact_layouts[tokenizer.fingerprint] = ExactLayout(self.wording, tokenizer)
        return self._exact_layouts[tokenizer.fingerprint]

    def _key(self, random: np.random.Generator) -> str:
        if self.config.variant == "landmark":
            return str(int(random.integers(1, _LANDMARK_KEYS + 1)))
        return f"{int(random.integers(10**self.config.digits)):0{self.config.digits}d}"

    def _sample(self, index: int, length: int, tokenizer: Tokenizer, seed: int) -> Sample:
        random = numpy_rng(seed, f"{self.name}/sample", length, index)
        key = self._key(random)
        room = length - self.config.max_new_tokens
        trial, place = divmod(index, len(self.config.depths))
        depth: float | None = self.config.depths[place]
        layout: Layout | None
        if self.config.variant == "landmark":
            layout = landmark(self.wording, key, float(random.random()), room, tokenizer)
            trial, depth = index, None
        elif self.config.variant == "blocks":
            layout = blocks(self.wording, key, self.config.depths[place], room, tokenizer)
        else:
            layout = self._exact(tokenizer).build(key, self.config.depths[place], room)
        if layout is None:
            raise self._too_short(length, tokenizer)
        return Sample(
            id=sample_id(self.name, length, index),
            task=self.name,
            index=index,
            length=length,
            prompt=layout.prompt,
            answers=(key,),
            num_tokens=layout.num_tokens,
            max_new_tokens=self.config.max_new_tokens,
            meta={"depth": depth, "trial": trial, **layout.meta},
        )

    def _too_short(self, length: int, tokenizer: Tokenizer) -> InputError:
        return InputError(
            expected=f"a length of at least {self.min_length(tokenizer)} tokens",
            got=str(length),
            where=f"{self.name} with the tokenizer {tokenizer.name}",
            fix="raise --lengths",
        )


def passkey_tasks(variants: Sequence[str] = ("exact",), **settings: Any) -> list[PasskeyTask]:
    """Tasks by variant with common settings of `PasskeyConfig`."""
    return [PasskeyTask(PasskeyConfig(variant=variant, **settings)) for variant in variants]
