"""Names of tasks taken apart: which differ in depth alone, and what a format of a needle is called."""

from __future__ import annotations

FORMATS = {
    ("prose", "word", "number"): "Essay-Word-Num",
    ("prose", "word", "uuid"): "Essay-Word-UUID",
    ("line", "word", "number"): "Repeat-Word-Num",
}
"""The formats of arXiv 2407.08112 (haystack, key, value) and what it calls them."""
PAPER = frozenset(FORMATS.values())
_DEFAULTS = {"haystack": "prose", "key": "word", "value": "number"}
_IN_PERCENT = {"niah_grid": 1.0, "passkey": 100.0}
"""Families whose name may fix a depth, and what makes percent of it."""


def split(task: str) -> tuple[str, dict[str, str]]:
    """Family and parameters of a task's name; what is no parameter stays with the family."""
    family, _, text = task.partition(":")
    settings = dict(part.partition("=")[::2] for part in text.split(",") if "=" in part)
    return family, settings


def fixed_depth(task: str) -> float | None:
    """Depth in percent that the name of a task fixes; None where it fixes none."""
    family, settings = split(task)
    if family not in _IN_PERCENT or "depth" not in settings:
        return None
    try:
        return round(float(settings["depth"]) * _IN_PERCENT[family], 3)
    except ValueError:
        return None


def without_depth(task: str) -> str:
    """The name without its depth: tasks that differ in depth alone share it."""
    family, settings = split(task)
    if fixed_depth(task) is None:
        return task
    rest = ",".join(f"{key}={value}" for key, value in settings.items() if key != "depth")
    return f"{family}:{rest}" if rest else family


def label(task: str) -> str:
    """What a task is called, its depth left out: "Essay-Word-Num", "needles-uuid-number", else the name itself."""
    base = without_depth(task)
    family, settings = split(base)
    if family != "niah_grid":
        return base
    form = tuple({**_DEFAULTS, **settings}[key] for key in _DEFAULTS)
    more = [f"{key}={value}" for key, value in settings.items() if key not in _DEFAULTS]
    return ", ".join([FORMATS.get((form[0], form[1], form[2]), "-".join(form)), *more])


def titled(task: str) -> str:
    """The label with the depth behind it where the name fixes one."""
    depth = fixed_depth(task)
    return label(task) if depth is None else f"{label(task)}, depth {depth:g} %"
