"""SSD: the recurrence of Mamba-2 with one scalar decay a head (Dao & Gu 2024, arXiv 2405.21060)."""

from lengthwise.ops.ssd.chunked import ssd
from lengthwise.ops.ssd.naive import ssd_naive

__all__ = ["ssd", "ssd_naive"]
