"""A model and a probe of random tokens: what every property of a check works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise.check.findings import Finding, Positions
from lengthwise.engines import probe
from lengthwise.engines.hf import HFModel
from lengthwise.engines.probe import Comparison, Yardstick, read
from lengthwise.shapes import Int, Tensor


@dataclass(frozen=True)
class Case:
    """What every property works on."""

    model: Any
    """A `LanguageModel`, or an `HFModel` that gives position ids."""
    tokens: Int[Tensor, "B T"]
    whole: Tensor
    """Logits of the tokens read at once."""
    yardstick: Yardstick
    seed: int

    @property
    def length(self) -> int:
        """Tokens of the probe."""
        return self.tokens.shape[1]

    @property
    def own_positions(self) -> HFModel | None:
        """The same model, position ids left to it; None where it takes none."""
        if isinstance(self.model, HFModel) and self.model.takes_positions:
            return HFModel(self.model.model, positions="own")
        return None


def make_case(model: Any, *, length: int, seed: int) -> Case:
    """The probe of a model, in evaluation mode. Raises whatever the model raises in one pass over a text."""
    tokens = probe.probe_tokens(model, probe.ROWS, length, seed=seed)
    yardstick = probe.take_yardstick(model, tokens)
    return Case(model, tokens, read(model, tokens)[0], yardstick, seed)


Check = Callable[[Case], list[Finding]]
"""A property: what it finds, usually one finding; none where it does not apply."""


def told(error: Exception) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def judged(name: str, found: Comparison, case: Case, note: str = "", positions: Positions | None = None) -> Finding:
    return Finding(
        name=name,
        status="pass" if found.passes else "fail",
        positions=positions,
        difference=found.difference,
        error=found.error,
        tolerance=case.yardstick.tolerance,
        first=found.first,
        note=note,
    )


def worst_of(comparisons: Sequence[Comparison]) -> Comparison:
    return max(comparisons, key=lambda each: each.error)


def has_cache(model: Any) -> bool:
    """Whether a model offers to carry anything from call to call."""
    return not isinstance(model, HFModel) or model.cache_argument is not None
