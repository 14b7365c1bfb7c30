"""Seeds derived from (run seed, purpose, index), so that no draw depends on which others were made."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed that is a function of its arguments alone, the same on every machine and Python version."""
    text = "\x1f".join([str(int(seed)), purpose, *(str(int(index)) for index in indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *indices: int, device: str = "cpu") -> torch.Generator:
    """A torch generator seeded by `derive_seed`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *indices))


def numpy_rng(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A numpy generator seeded by `derive_seed`."""
    import numpy as np

    return np.random.default_rng(derive_seed(seed, purpose, *indices))
