"""Measurements: how far a model reads, and why not further. Everything is streamed with the state carried."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lengthwise.measure.config import MeasureConfig

if TYPE_CHECKING:
    from lengthwise.measure.bins import log_bins
    from lengthwise.measure.bootstrap import Resamples
    from lengthwise.measure.evaluate import LengthEvaluation, evaluate_length
    from lengthwise.measure.perplexity import LossTable, Perplexity, perplexity_by_position
    from lengthwise.measure.remembrance import remembrance_ends, remembrance_starts, remembrance_surface
    from lengthwise.measure.run import measure
    from lengthwise.measure.states import StateStatistics, rank_drift, state_positions
    from lengthwise.measure.verdict import DefinitionVerdict, RestartVerdict, definition_verdict, restart_verdict

__all__ = [
    "DefinitionVerdict",
    "LengthEvaluation",
    "LossTable",
    "MeasureConfig",
    "Perplexity",
    "Resamples",
    "RestartVerdict",
    "StateStatistics",
    "definition_verdict",
    "evaluate_length",
    "log_bins",
    "measure",
    "perplexity_by_position",
    "rank_drift",
    "remembrance_ends",
    "remembrance_starts",
    "remembrance_surface",
    "restart_verdict",
    "state_positions",
]

# The config is wanted by command lines that must not import torch; everything else is imported when it is asked for.
_HOMES = {
    "bins": ("log_bins",),
    "bootstrap": ("Resamples",),
    "evaluate": ("LengthEvaluation", "evaluate_length"),
    "perplexity": ("LossTable", "Perplexity", "perplexity_by_position"),
    "remembrance": ("remembrance_ends", "remembrance_starts", "remembrance_surface"),
    "run": ("measure",),
    "states": ("StateStatistics", "rank_drift", "state_positions"),
    "verdict": ("DefinitionVerdict", "RestartVerdict", "definition_verdict", "restart_verdict"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"lengthwise.measure.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
