"""Models compared sample by sample, on the very same prompts."""

from __future__ import annotations

from dataclasses import dataclass

from lengthwise.evaluate.statistics import Difference, paired_difference
from lengthwise.report.evals.records import Answered, EvalGroup, Evaluated


@dataclass(frozen=True)
class Paired:
    """One comparison: a model against the first of its group, at a length; `label` names the tasks."""

    name: str
    label: str
    length: int
    difference: Difference


def differences(group: EvalGroup, *, by_task: bool) -> list[Paired]:
    """Every model but the first against the first, at each length, over all tasks or for each; pairs without a common
    prompt are left out."""
    first = group.models[0]
    tasks: dict[str, list[str]] = group.series() if by_task else {"": group.tasks}
    found = []
    for other in group.models[1:]:
        for label, members in tasks.items():
            for length in group.lengths:
                delta = compare(other, first, members, length)
                if delta.count:
                    found.append(Paired(other.name, label, length, delta))
    return found


def compare(model: Evaluated, other: Evaluated, tasks: list[str], length: int) -> Difference:
    """The score of `model` minus that of `other` where both were given the same prompt."""
    return paired_difference(_scores(model, tasks, length), _scores(other, tasks, length))


def _scores(model: Evaluated, tasks: list[str], length: int) -> dict[str, float | None]:
    """Scores by sample and prompt: another prompt of the same number is another sample."""
    found: list[Answered] = [sample for task in tasks for sample in model.by_cell.get((task, length), ())]
    return {f"{sample.id} {sample.prompt}": sample.score for sample in found if sample.prompt is not None}
