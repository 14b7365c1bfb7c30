"""Ways to run a model: our own, any of transformers with its cache as a value, servers; all through one protocol."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lengthwise.engines.base import Answer, Engine, Request

if TYPE_CHECKING:
    from lengthwise.engines.hf import HFModel, HFOutput, HFState
    from lengthwise.engines.oneshot import OneShot, TextState
    from lengthwise.engines.opening import OpenedModel, from_checkpoint, open_model
    from lengthwise.engines.probe import Carrying, carries

__all__ = [
    "Answer",
    "Carrying",
    "Engine",
    "HFModel",
    "HFOutput",
    "HFState",
    "OneShot",
    "OpenedModel",
    "Request",
    "TextState",
    "carries",
    "from_checkpoint",
    "open_model",
]

# The protocol is wanted where torch is not; everything else is imported when it is asked for.
_HOMES = {
    "hf": ("HFModel", "HFOutput", "HFState"),
    "oneshot": ("OneShot", "TextState"),
    "opening": ("OpenedModel", "from_checkpoint", "open_model"),
    "probe": ("Carrying", "carries"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"lengthwise.engines.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
