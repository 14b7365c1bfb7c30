"""RWKV-6: the decay acts after the read-out, with a bonus for the token itself (Peng et al. 2024, arXiv 2404.05892)."""

from lengthwise.ops.rwkv6.naive import rwkv6_naive
from lengthwise.ops.rwkv6.operation import rwkv6

__all__ = ["rwkv6", "rwkv6_naive"]
