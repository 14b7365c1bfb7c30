"""Gated linear attention: one decay for each key channel (Yang et al. 2024, arXiv 2312.06635)."""

from lengthwise.ops.gla.naive import gla_naive
from lengthwise.ops.gla.operation import gla

__all__ = ["gla", "gla_naive"]
