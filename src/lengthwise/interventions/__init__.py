"""Training interventions: how the state of a recurrent model is initialised while it is trained.

Zero, random noise, fitted noise, State Passing and truncated backpropagation through time, after Buitrago Ruiz & Gu,
"Understanding and Improving Length Generalization in Recurrent Models" (arXiv 2507.02782), section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lengthwise.interventions.config import KINDS, InterventionConfig

if TYPE_CHECKING:
    from lengthwise.interventions.base import Intervention
    from lengthwise.interventions.build import build_intervention
    from lengthwise.interventions.noise import FittedNoise, RandomNoise, Zero
    from lengthwise.interventions.passing import TBTT, StatePassing

__all__ = [
    "KINDS",
    "TBTT",
    "FittedNoise",
    "Intervention",
    "InterventionConfig",
    "RandomNoise",
    "StatePassing",
    "Zero",
    "build_intervention",
]

# The config is wanted by command lines that must not import torch; everything else is imported when it is asked for.
_HOMES = {
    "Intervention": "base",
    "build_intervention": "build",
    "FittedNoise": "noise",
    "RandomNoise": "noise",
    "Zero": "noise",
    "StatePassing": "passing",
    "TBTT": "passing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
