"""Single samples for the page: prompt head and tail, gold, and every model's raw output and score."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from lengthwise.report.evals import names
from lengthwise.report.evals.records import Answered, EvalGroup
from lengthwise.report.words import plural

BUDGET = 1500
"""Samples that a page holds where nobody says how many of each cell: some 1.5 MB."""
FEWEST, MOST = 2, 50
"""Of each cell at least and at most, then."""
MAX_FAILED = 200
"""Failed samples that are shown on top of that."""


def browser(group: EvalGroup, per_cell: int | None = None) -> dict[str, Any] | None:
    """What the page's script needs to show single samples; None where no answer is there.

    Args:
        group: the runs.
        per_cell: samples of each task at each length, the first ones; None: as many as fit a page.

    Returns:
        `items`, one per prompt with the answers of all models that were given it, and `note`, which says what is shown.
    """
    prompts: dict[tuple[str, str | None], list[tuple[int, Answered]]] = {}
    for place, model in enumerate(group.models):
        for sample in model.samples:
            prompts.setdefault((sample.id, sample.prompt), []).append((place, sample))
    if not prompts or per_cell == 0:
        return None
    order = {task: place for place, task in enumerate(group.tasks)}
    ranked = sorted(prompts.items(), key=lambda item: (_place(item[1][0][1], order), str(item[0][1])))
    cells = {(found[0][1].task, found[0][1].length) for found in prompts.values()}
    limit = per_cell if per_cell is not None else min(max(BUDGET // len(cells), FEWEST), MOST)
    taken: dict[tuple[str, int], int] = {}
    items, failed = [], 0
    for _, found in ranked:
        first = found[0][1]
        key = (first.task, first.length)
        taken[key] = taken.get(key, 0) + 1
        fails = any(sample.score is None for _, sample in found)
        extra = taken[key] > limit
        if extra and not (fails and failed < MAX_FAILED):
            continue
        failed += extra
        items.append(_item(found))
    whole = len(items) == len(prompts)
    note = f"All {plural(len(items), 'sample')}."
    if not whole:
        more = f", and {plural(failed, 'failed one')} more" if failed else ""
        note = f"The first {limit:,} of each task at each length{more}: {len(items):,} of {len(prompts):,}."
    tasks = [{"name": task, "title": names.titled(task)} for task in group.tasks]
    return {
        "models": [m.name for m in group.models],
        "tasks": tasks,
        "lengths": group.lengths,
        "items": items,
        "note": note,
    }


def _place(sample: Answered, order: Mapping[str, int]) -> tuple[int, int, str]:
    return order.get(sample.task, len(order)), sample.length, sample.id


def _item(found: list[tuple[int, Answered]]) -> dict[str, Any]:
    """One prompt and its answers."""
    first = found[0][1]
    raw = first.raw
    head, tail = str(raw.get("prompt_head") or ""), str(raw.get("prompt_tail") or "")
    whole = hashlib.sha256((head + tail).encode()).hexdigest() == first.prompt
    golds = raw.get("answers")
    return {
        "id": first.id,
        "task": first.task,
        "length": first.length,
        "tokens": raw.get("num_tokens"),
        "head": head,
        "tail": tail,
        "whole": whole,
        "gold": [str(gold) for gold in golds] if isinstance(golds, list) else [],
        "depth": None if first.depth is None else round(first.depth, 1),
        "answers": [_answer(place, sample) for place, sample in found],
    }


def _answer(place: int, sample: Answered) -> dict[str, Any]:
    raw = sample.raw
    return {
        "model": place,
        "score": None if sample.score is None else round(sample.score, 4),
        "output": raw.get("output"),
        "error": raw.get("error"),
        "finish": raw.get("finish"),
        "scorer": raw.get("scorer"),
    }
