"""Reading what an evaluation left on disk: lines of answers, parts of several processes included. No torch."""

from __future__ import annotations

from typing import Any

from lengthwise.runs import RunFolder

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
