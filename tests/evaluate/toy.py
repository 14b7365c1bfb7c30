"""A task and an engine whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lengthwise.data.tokenizers import ByteTokenizer
from lengthwise.engines.base import Answer, Request
from lengthwise.evaluate.run import Subject
from lengthwise.seeds import numpy_rng
from lengthwise.tasks.base import Sample, Score, sample_id


class RepeatTask:
    """Say the letter at the beginning again. Two rules: the first letter counts, or the whole answer."""

    version, floor, binary = 1, 0.1, True

    def __init__(self, name: str = "repeat", least: int = 10) -> None:
        self.name, self.least = name, least

    def parameters(self) -> dict[str, Any]:
        return {"least": self.least}

    def min_length(self, tokenizer: Any) -> int:
        return self.least

    def samples(self, indices: Sequence[int], length: int, tokenizer: Any, seed: int) -> list[Sample]:
        found = []
        for index in indices:
            letter = "abcdefghij"[int(numpy_rng(seed, self.name, length, index).integers(10))]
            prompt = letter + "." * (length - 3)
            found.append(
                Sample(
                    id=sample_id(self.name, length, index),
                    task=self.name,
                    index=index,
                    length=length,
                    prompt=prompt,
                    answers=(letter,),
                    num_tokens=len(prompt),
                    max_new_tokens=2,
                    meta={"depth": 0.0},
                )
            )
        return found

    def scorers(self) -> tuple[str, ...]:
        return ("first", "whole")

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        given = text[:1] if scorer in (None, "first") else text
        return Score(value=float(given == sample.answers[0]), scorer=scorer or "first")


class EchoEngine:
    """Answers with the prompt's first letter and an x; wrong where the letter is in `wrong`, failing in `failing`."""

    name = "echo"

    def __init__(
        self, *, limit: int | None = None, wrong: str = "", failing: str = "", stop_after: int = 10**9
    ) -> None:
        self.context_limit, self.wrong, self.failing, self.stop_after = limit, wrong, failing, stop_after
        self.answered = 0

    def facts(self) -> dict[str, Any]:
        return {"engine": self.name}

    def run(self, requests: Sequence[Request]) -> Iterator[Answer]:
        for index in reversed(range(len(requests))):  # answers may come in any order
            if self.answered == self.stop_after:
                raise KeyboardInterrupt
            self.answered += 1
            letter = int(requests[index].prompt[0])
            prompt = len(requests[index].prompt)
            if chr(letter) in self.failing:
                yield Answer(index, np.array([], dtype=np.int64), None, "error", prompt, error="out of memory")
                continue
            ids = [ord("?") if chr(letter) in self.wrong else letter, ord("x")]
            yield Answer(index, np.array(ids, dtype=np.int64), None, "length", prompt)


def subject(**options: Any) -> Subject:
    engine = EchoEngine(**options)
    return Subject(engine, ByteTokenizer(), engine.facts())
