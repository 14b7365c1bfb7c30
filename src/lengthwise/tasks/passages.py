"""Texts that many prompts share, and prompts as sequences of pieces of them.

A prompt of 16,000 tokens is mostly haystack. It is kept as parts: slices of a shared text and text of its own. So five
hundred samples take little room in memory and in the cache, and the prompt is put together when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.tasks.base import Sample, sample_id
from lengthwise.tasks.tokens import TokenCounter


class Shared:
    """A text that prompts refer to."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def fingerprint(self) -> str:
        """sha256 hex of the text."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


class Slice(NamedTuple):
    """Characters `start` to `stop` of a shared text."""

    source: Shared
    start: int
    stop: int

    @property
    def text(self) -> str:
        """The characters."""
        return self.source.text[self.start : self.stop]


Part = str | Slice


def join_parts(parts: Sequence[Part]) -> str:
    """The text of a prompt."""
    return "".join([part if isinstance(part, str) else part.source.text[part.start : part.stop] for part in parts])


@dataclass(frozen=True, kw_only=True)
class Built:
    """A sample whose prompt is still in parts."""

    index: int
    parts: tuple[Part, ...]
    answers: tuple[str, ...]
    num_tokens: int
    meta: dict[str, Any] = field(default_factory=dict)

    def sample(self, task: str, length: int, max_new_tokens: int) -> Sample:
        """The finished sample."""
        return Sample(
            id=sample_id(task, length, self.index),
            task=task,
            index=self.index,
            length=length,
            prompt=join_parts(self.parts),
            answers=self.answers,
            num_tokens=self.num_tokens,
            max_new_tokens=max_new_tokens,
            meta=self.meta,
        )


class Passage(Shared):
    """A text made of units with one and the same string between them: sentences with a space, lines with a break.

    Args:
        units: not empty, without white space at their ends.
        joint: what stands between two units.
    """

    def __init__(self, units: Sequence[str], joint: str) -> None:
        super().__init__(joint.join(units))
        self.units = tuple(units)
        self.joint = joint
        lengths = np.fromiter(map(len, units), dtype=np.int64, count=len(units))
        stops = np.cumsum(lengths + len(joint)) - len(joint)
        self.starts: NDArray[np.int64] = stops - lengths
        self.stops: NDArray[np.int64] = stops

    def __len__(self) -> int:
        return len(self.units)

    def run(self, first: int, stop: int) -> Slice:
        """Units first..stop-1 with the joints between them."""
        return Slice(self, int(self.starts[first]), int(self.stops[stop - 1]))

    def count_units(self, counter: TokenCounter) -> NDArray[np.int64]:
        """Tokens of every unit behind a joint, [len(self)]."""
        return counter.counts([self.joint + unit for unit in self.units])
