"""Training: one loop for pre-training and post-training, resumable bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lengthwise.train.config import TrainConfig

if TYPE_CHECKING:
    from lengthwise.train.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    # The config is wanted by command lines that must not import torch; the loop is imported when it is asked for.
    if name in ("TrainResult", "train"):
        from lengthwise.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
