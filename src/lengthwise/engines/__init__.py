"""Ways to run a model: ours, any of transformers with its cache as a value, and models read in one pass."""

from lengthwise.engines.hf import HFModel, HFOutput, HFState
from lengthwise.engines.oneshot import OneShot, TextState
from lengthwise.engines.opening import OpenedModel, from_checkpoint, open_model
from lengthwise.engines.probe import Carrying, carries

__all__ = [
    "Carrying",
    "HFModel",
    "HFOutput",
    "HFState",
    "OneShot",
    "OpenedModel",
    "TextState",
    "carries",
    "from_checkpoint",
    "open_model",
]
