"""All properties, each a small function from a case to its findings. Exceptions of the model are findings."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lengthwise.check.basics import causality, packed, prefix, repeat, rounding, rows, train_mode
from lengthwise.check.carrying import carried, fresh_start, gradients, in_pieces
from lengthwise.check.case import Case, Check, told
from lengthwise.check.findings import Finding
from lengthwise.check.padding import generate, generate_left_padded, padding
from lengthwise.engines.probe import several


def run_all(case: Case, names: Collection[str] | None = None) -> Iterator[Finding]:
    """Every property, in the order of `CHECKS`.

    Args:
        case: the model and its probe.
        names: only these of `CHECKS`; None for all.
    """
    for name, check in CHECKS.items():
        if names is not None and name not in names:
            continue
        try:
            yield from check(case)
        except Exception as error:  # of a model that is not ours; it may be anything
            yield Finding(name=name, status="error", note=told(error))


CHECKS: dict[str, Check] = {
    "two-pieces": in_pieces("two-pieces", lambda length: [length // 2, length - length // 2]),
    "uneven-pieces": in_pieces("uneven-pieces", several),
    "piece-then-tokens": in_pieces("piece-then-tokens", lambda length: [length // 2, *[1] * (length - length // 2)]),
    "single-tokens": in_pieces("single-tokens", lambda length: [1] * length),
    "carried": carried,
    "fresh-start": fresh_start,
    "gradients": gradients,
    "generate": generate,
    "left-padding": padding("left"),
    "right-padding": padding("right"),
    "generate-left-padded": generate_left_padded,
    "packed": packed,
    "causality": causality,
    "prefix": prefix,
    "rows": rows,
    "repeat": repeat,
    "train-mode": train_mode,
    "rounding": rounding,
}
