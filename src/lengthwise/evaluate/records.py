"""Lines of answers: their scores, and all that an evaluation left on disk, parts of several processes included.

No torch.
"""

from __future__ import annotations

from typing import Any

from lengthwise.runs import RunFolder
from lengthwise.tasks.base import Sample, Task

PARTS = "samples.rank-*.jsonl"
"""Files of the processes of a run that is not finished."""


def part_name(rank: int) -> str:
    """File that a process other than a single one writes."""
    return f"samples.rank-{rank:04d}.jsonl"


def sample_files(run: RunFolder) -> list[str]:
    """Names of the files that hold answers, the whole one first."""
    whole = ["samples.jsonl"] if (run.path / "samples.jsonl").exists() else []
    return whole + sorted(path.name for path in run.path.glob(PARTS))


def read_samples(run: RunFolder) -> list[dict[str, Any]]:
    """Every answer that a run holds, parts of its processes included, each once."""
    records: dict[str, dict[str, Any]] = {record["id"]: record for record in run.read_samples()}
    for path in sorted(run.path.glob(PARTS)):
        for record in run.read_samples(path.name):
            records.setdefault(record["id"], record)
    return list(records.values())


def score_record(task: Task, sample: Sample, output: str | None, scorer: str | None) -> dict[str, Any]:
    """Scores of an output by every rule of the task; `score` is that of the rule that counts.

    Args:
        task: knows the rules.
        sample: what was asked.
        output: None for a failure, whose score is None.
        scorer: the rule that counts where the task knows it; otherwise the task's own.
    """
    used = scorer if scorer in task.scorers() else task.scorers()[0]
    if output is None:
        return {"score": None, "scorer": used, "scores": {}}
    scores = {rule: task.score(sample, output, rule).value for rule in task.scorers()}
    return {"score": scores[used], "scorer": used, "scores": scores}
