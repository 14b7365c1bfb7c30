"""What the report knows of evaluations: one record per run, one per answer.

Scores here are shares from 0 to 1, as in the run folder; tables and charts show percent. Depths are percent of the
prompt, 0 the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lengthwise.evaluate.statistics import Mean, mean_of_means
from lengthwise.report.evals import names
from lengthwise.report.evals.published import Published


@dataclass(frozen=True)
class Answered:
    """One answer. `score` is None for a failure, which counts as 0; `raw` is its line in the run folder."""

    id: str
    task: str
    length: int
    score: float | None
    prompt: str | None
    """sha256 of the prompt: answers to the same prompt can be compared one by one."""
    depth: float | None
    """Depth of the one thing asked for, in percent; None where there are several or none."""
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """One evaluated model: a row of every table and a line of every chart."""

    name: str
    role: str
    path: str
    model: str
    context_length: int | None
    """Length the model was trained on, where it is known."""
    cells: Mapping[tuple[str, int], Mean]
    """Mean score by task and length."""
    mean: Mapping[int, Mean]
    """Mean over the tasks by length."""
    ruler: Mapping[int, Mean]
    """Mean over RULER's thirteen tasks, at the lengths that have all of them."""
    by_own_share: int | None
    by_threshold: int | None
    """Effective lengths: by a share of the score at the shortest length, and by RULER's threshold."""
    planned: int | None
    """Samples of each task at each length that the run is to have."""
    samples: tuple[Answered, ...]
    failures: int
    complete: bool
    published: Published | None
    own_wording: bool
    scorers: Mapping[str, tuple[str, ...]]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def by_cell(self) -> dict[tuple[str, int], list[Answered]]:
        """The answers by task and length."""
        found: dict[tuple[str, int], list[Answered]] = {}
        for sample in self.samples:
            found.setdefault((sample.task, sample.length), []).append(sample)
        return found

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the run."""
        return list(dict.fromkeys(task for task, _ in self.cells))

    @property
    def lengths(self) -> list[int]:
        """Lengths that have an answer."""
        return sorted({length for _, length in self.cells})

    def mean_over(self, tasks: Sequence[str], length: int) -> Mean | None:
        """Plain mean of several tasks at a length; None where one of them is missing there."""
        if not all((task, length) in self.cells for task in tasks):
            return None
        if len(tasks) == 1:
            return self.cells[tasks[0], length]
        found = [[sample.score for sample in self.by_cell.get((task, length), ())] for task in tasks]
        if any(len(scores) != self.cells[task, length].count for scores, task in zip(found, tasks, strict=True)):
            # The lines are gone and the summary is there: a mean without its interval.
            cells = [self.cells[task, length] for task in tasks]
            total = sum(cell.value or 0.0 for cell in cells) / len(cells)
            count = sum(cell.count for cell in cells)
            return Mean(total, None, None, count, sum(cell.failures for cell in cells))
        return mean_of_means(found)


@dataclass(frozen=True)
class EvalGroup:
    """The evaluations given together."""

    title: str
    models: tuple[Evaluated, ...]
    notes: tuple[str, ...]
    manifests: tuple[tuple[str, Mapping[str, Any]], ...]
    kind: str = "eval"

    @property
    def tasks(self) -> list[str]:
        """Every task of any run, in order."""
        return list(dict.fromkeys(task for model in self.models for task in model.tasks))

    @property
    def lengths(self) -> list[int]:
        """Every length of any run."""
        return sorted({length for model in self.models for length in model.lengths})

    @property
    def context(self) -> int | None:
        """The shortest training length of these models that is known."""
        return min((m.context_length for m in self.models if m.context_length is not None), default=None)

    @property
    def has_ruler(self) -> bool:
        """Whether some run has all thirteen tasks of RULER at some length."""
        return any(model.ruler for model in self.models)

    def series(self) -> dict[str, list[str]]:
        """Tasks by label, those that differ in depth alone together."""
        found: dict[str, list[str]] = {}
        for task in self.tasks:
            found.setdefault(names.label(task), []).append(task)
        return found
