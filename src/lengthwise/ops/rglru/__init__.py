"""RG-LRU: the gated linear recurrence of Griffin (De et al. 2024, arXiv 2402.19427)."""

from lengthwise.ops.rglru.naive import rglru_naive
from lengthwise.ops.rglru.operation import rglru

__all__ = ["rglru", "rglru_naive"]
