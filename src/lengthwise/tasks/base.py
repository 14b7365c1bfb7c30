"""The contract between tasks, engines and runs.

A task makes samples and scores answers. Sample i is a function of (task, parameters, length, tokenizer, seed, i) and of
nothing else: not of how many samples are made, in which order, by how many processes, or of which other tasks run.

Length is what the model has to read and write: tokens of the prompt, without added special tokens, plus the generation
budget. It is never more than asked, and as near to it as the task's unit allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lengthwise.data.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question."""

    id: str
    """Stable and unique within a run; see `sample_id`."""
    task: str
    """Name of the task, with its variant."""
    index: int
    """Number of the sample, from 0."""
    length: int
    """Length asked for, in tokens: prompt and generation budget together."""
    prompt: str
    """All that the model is given, the beginning of the answer included where the task has one."""
    answers: tuple[str, ...]
    """What is right; whether one or all are needed is the scorer's matter."""
    num_tokens: int
    """Tokens of the prompt by the tokenizer of the run, without added special tokens."""
    max_new_tokens: int
    """Generation budget."""
    continuation: str | None = None
    """Text whose likelihood is asked for instead of a generation; None where an answer is generated. What is judged
    then is the text of the ids that were most likely at each of its places."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the sample for reports and tests, plain values: depths, needles, positions, sources."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "id": self.id,
            "task": self.task,
            "index": self.index,
            "length": self.length,
            "prompt": self.prompt,
            "answers": list(self.answers),
            "num_tokens": self.num_tokens,
            "max_new_tokens": self.max_new_tokens,
            "continuation": self.continuation,
            "meta": dict(self.meta),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sample:
        """The inverse of `to_dict`."""
        return cls(**{**values, "answers": tuple(values["answers"])})


def sample_id(task: str, length: int, index: int) -> str:
    """``task/length/index``, e.g. ``niah_single_2/4096/00017``: unique within a run, and sorts as it was made."""
    return f"{task}/{length}/{index:05d}"


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a scorer says of one answer."""

    value: float
    """0 to 1, higher is better."""
    scorer: str
    """Name and version of the rule."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More about it, plain values; e.g. which of several answers were found."""


@runtime_checkable
class Task(Protocol):
    """A source of samples and their judge."""

    name: str
    """Name with its variant; what reports group by."""
    version: int
    """Rises when samples or scores change their meaning."""
    floor: float | None
    """Score that guessing reaches; None where it is zero or unknown."""
    binary: bool
    """Whether every score is 0 or 1, so that a binomial interval applies."""

    def parameters(self) -> dict[str, Any]:
        """Everything that decides the samples besides length, tokenizer, seed and index; hashes of sources included."""
        ...

    def min_length(self, tokenizer: Tokenizer) -> int:
        """Shortest length at which the task can be posed."""
        ...

    def samples(self, indices: Sequence[int], length: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
        """The samples of these numbers.

        Raises InputError where the length is too short (says the least one) or a source lacks what is needed.
        """
        ...

    def scorers(self) -> tuple[str, ...]:
        """Names of the rules that `score` knows, the default first."""
        ...

    def score(self, sample: Sample, text: str, scorer: str | None = None) -> Score:
        """Judge a raw output; None for the default rule. A function of its arguments alone, so that it can be repeated
        offline. The output for a sample with a continuation is the text of the ids most likely at its places."""
        ...
