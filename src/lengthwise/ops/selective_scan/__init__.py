"""The selective scan: the recurrence of Mamba-1 (Gu & Dao 2023, arXiv 2312.00752)."""

from lengthwise.ops.selective_scan.naive import selective_scan_naive
from lengthwise.ops.selective_scan.scan import selective_scan

__all__ = ["selective_scan", "selective_scan_naive"]
