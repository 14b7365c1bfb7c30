"""A model that runs out of memory, for tests of engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Cramped:
    """A model with memory for so many rows."""

    def __init__(self, model: Any, most: int, error: Callable[[], Exception]) -> None:
        self.model, self.most, self.error, self.refused = model, most, error, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, tokens: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if len(tokens) > self.most:
            self.refused += 1
            raise self.error()
        return self.model(tokens, *arguments, **options)


OUT_OF_MEMORY = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
]
