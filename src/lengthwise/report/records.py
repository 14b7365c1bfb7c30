"""What a report knows: typed records, read leniently where a value is missing and strictly where it is wrong.

A missing piece is None all the way to the page, which then says "not measured". A piece of the wrong type is an
`InputError` that names the file and the key, because a chart of misread numbers is worse than no chart.

Units: positions and lengths in tokens, counted from 0; nll and differences in nats per token; perplexity is exp of
the mean nll of a bin; Effective Remembrance is a distance between 0 and 1; ratios are dimensionless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DISTANCES = {"tv": "total variation", "js": "Jensen-Shannon distance", "cosine": "1 − cosine similarity"}
"""Distances of Effective Remembrance: key in the run folder, and its name on the page."""


@dataclass(frozen=True)
class Bin:
    """A value over the positions [start, end), with its bootstrap interval over documents."""

    start: int
    end: int
    value: float | None
    low: float | None
    high: float | None
    tokens: int | None = None
    nll: float | None = None
    bits_per_byte: float | None = None

    @property
    def middle(self) -> float:
        """Geometric middle of the bin, in tokens read (from 1), where a logarithmic axis draws it."""
        return math.sqrt((self.start + 1) * max(self.end, self.start + 1))


@dataclass(frozen=True)
class Definition:
    """Verdict of Definition 3.2 made practical: the worst binned perplexity past T against the best within T."""

    verdict: str | None
    strict: bool | None
    tolerance: float | None
    worst_ratio: float | None
    worst_low: float | None
    worst_high: float | None
    worst_bin: tuple[int, int] | None
    first_failing: int | None
    best_bin: tuple[int, int] | None
    best_perplexity: float | None
    ratios: tuple[Bin, ...]
    controlled: bool = False
    """Whether the ratios have the difficulty of each bin's text taken out; `strict` and the perplexities have not."""


@dataclass(frozen=True)
class Restart:
    """Verdict of full history against a restart with the last T tokens; negative differences: history helps."""

    verdict: str | None
    tolerance: float | None
    difference: float | None
    low: float | None
    high: float | None
    uses_history: bool | None
    first_failing: int | None
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Remembrance:
    """Effective Remembrance on a grid; `surfaces[distance]` is Float[starts, ends], NaN where start > end."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    final_end: int
    out_of_window: dict[str, float | None]
    area: dict[str, float | None]
    num_documents: int | None
    surfaces: dict[str, np.ndarray]

    def was_measured(self, distance: str) -> bool:
        """Whether the summary has numbers of this distance, whatever became of its surface."""
        return self.out_of_window.get(distance) is not None or self.area.get(distance) is not None

    def curve(self, distance: str) -> list[tuple[int, float]]:
        """(start, value) at the final end, for one distance; empty where it was not measured."""
        surface = self.surfaces.get(distance)
        if surface is None or self.final_end not in self.ends:
            return []
        column = surface[:, self.ends.index(self.final_end)]
        return [(s, float(v)) for s, v in zip(self.starts, column, strict=True) if np.isfinite(v)]


@dataclass(frozen=True)
class Head:
    """Drift of one head: `score` = max over t > T of |log std(t) - log std(T)|."""

    layer: int
    head: int
    score: float | None

    @property
    def name(self) -> str:
        return f"layer {self.layer}, head {self.head}"


@dataclass(frozen=True)
class States:
    """State statistics over time; `per_head` is Float[positions, layers, heads] (std)."""

    positions: tuple[int, ...]
    whole: dict[str, tuple[float | None, ...]]
    drift: tuple[Head, ...]
    per_head: np.ndarray | None

    def std_at(self, position: int) -> float | None:
        """Std of the whole state at `position`, interpolated on the logarithm of the position; None outside."""
        known = [(p, v) for p, v in zip(self.positions, self.whole.get("std", ()), strict=False) if v is not None]
        if not known or position < known[0][0] or position > known[-1][0]:
            return None
        places, values = zip(*known, strict=True)
        return float(np.interp(math.log1p(position), np.log1p(places), values))


@dataclass(frozen=True)
class Measured:
    """One measured model: a column of every table and a line of every chart."""

    name: str
    role: str
    """'before', 'control', 'after', or 'run' for a measure run given by itself."""
    path: str
    model: str
    context_length: int
    length: int
    num_sequences: int | None
    bytes_per_token: float | None
    perplexity: tuple[Bin, ...] | None
    definition: Definition | None
    restart: Restart | None
    words: tuple[str, ...]
    remembrance: Remembrance | None
    states: States | None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str | None:
        """Both verdicts as one: fail where one fails, pass where none fails or is undecided, None: not measured."""
        found = [v.verdict for v in (self.definition, self.restart) if v is not None and v.verdict is not None]
        if not found:
            return None
        return "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"

    @property
    def first_failing(self) -> int | None:
        """First position at which one of the two verdicts fails, in tokens."""
        found = [v.first_failing for v in (self.definition, self.restart) if v and v.first_failing is not None]
        return min(found) if found else None


@dataclass(frozen=True)
class Training:
    """Loss of one training run, one point per logged step, nats per token."""

    name: str
    role: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Models drawn on the same axes: the three of an extend run, or the measure runs given together."""

    title: str
    kind: str
    intervention: str | None
    num_steps: int | None
    models: tuple[Measured, ...]
    trainings: tuple[Training, ...]
    notes: tuple[str, ...]
    manifests: tuple[tuple[str, dict[str, Any]], ...]

    def model(self, role: str) -> Measured | None:
        """The model in a role, or None."""
        return next((model for model in self.models if model.role == role), None)

    @property
    def subject(self) -> Measured | None:
        """The model as it came: 'before', else the first one."""
        return self.model("before") or (self.models[0] if self.models else None)
