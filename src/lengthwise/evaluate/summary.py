"""From the lines of a run to its table: a mean with its interval for every task at every length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lengthwise.evaluate.statistics import (
    OWN_SHARE,
    RULER_THRESHOLD,
    Mean,
    effective_length,
    mean_of_means,
    mean_score,
)

SUMMARY_VERSION = 1
RULER = (
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
)
"""The 13 tasks whose plain mean RULER reports."""


def summarize(
    config: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    floors: Mapping[str, float | None],
    left_out: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        config: of the run, plain.
        records: lines of samples.jsonl.
        floors: score that guessing reaches, by task.
        left_out: cells that a group named and whose task needs more tokens.
    """
    seed = int(config["seed"])
    cells: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        cells.setdefault((record["task"], record["length"]), []).append(record)
    tasks = list(dict.fromkeys(task for task, _ in cells))
    lengths = sorted({length for _, length in cells})
    table = {
        task: {str(length): asdict(_cell(cells[task, length], seed)) for length in lengths if (task, length) in cells}
        for task in tasks
    }
    # A mean over other tasks at other lengths would compare nothing.
    everywhere = [task for task in tasks if all((task, length) in cells for length in lengths)]
    own = {length: _mean_over([cells[task, length] for task in everywhere], seed) for length in lengths}
    ruler = _ruler(cells, lengths, seed)
    base = own[lengths[0]].value if lengths else None
    return {
        "format_version": SUMMARY_VERSION,
        "model": config["model"],
        "label": config.get("label"),
        "lengths": lengths,
        "num_samples": config["num_samples"],
        "tasks": table,
        "floors": {task: floors.get(task) for task in tasks},
        "scorers": {
            task: sorted({record["scorer"] for (t, _), c in cells.items() if t == task for record in c})
            for task in tasks
        },
        "mean_tasks": everywhere,
        "mean": {str(length): asdict(mean) for length, mean in own.items()},
        "ruler_mean": None if ruler is None else {str(length): asdict(mean) for length, mean in ruler.items()},
        "effective_length": {
            "ruler_threshold": RULER_THRESHOLD,
            "by_ruler_threshold": None
            if ruler is None
            else effective_length({length: mean.value for length, mean in ruler.items()}, RULER_THRESHOLD),
            "own_share": OWN_SHARE,
            "by_own_share": None
            if not base
            else effective_length({length: mean.value for length, mean in own.items()}, OWN_SHARE * base),
        },
        "left_out": [dict(each) for each in left_out],
        "failures": sum(record["score"] is None for record in records),
        "num_records": len(records),
    }


def _cell(records: Sequence[Mapping[str, Any]], seed: int) -> Mean:
    scores = [record["score"] for record in records]
    return mean_score(scores, binary=all(score in (None, 0, 1) for score in scores), seed=seed)


def _mean_over(cells: Sequence[Sequence[Mapping[str, Any]]], seed: int) -> Mean:
    return mean_of_means([[record["score"] for record in cell] for cell in cells], seed=seed)


def _ruler(
    cells: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]], lengths: Sequence[int], seed: int
) -> dict[int, Mean] | None:
    """RULER's mean at each length that has all 13 tasks; None where none has."""
    whole = [length for length in lengths if all((task, length) in cells for task in RULER)]
    if not whole:
        return None
    return {length: _mean_over([cells[task, length] for task in RULER], seed) for length in whole}
