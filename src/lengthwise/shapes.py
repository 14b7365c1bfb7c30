"""Shape symbols used in annotations throughout the project, and the aliases for jaxtyping.

| symbol | meaning |
|---|---|
| B | batch rows |
| T | time, in tokens |
| T1 | T + 1: inputs and targets in one tensor |
| D | model width |
| H | heads |
| P | head width of the values (Mamba-2) |
| K, V | key and value width of a head |
| N | state size |
| G | groups of heads that share B and C (Mamba-2), or keys and values (attention) |
| L | layers |
| W | width of the short convolution |
| vocab | rows of the embedding table, padding included |
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Tensor"]
