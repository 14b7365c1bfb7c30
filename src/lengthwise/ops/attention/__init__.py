"""Causal attention with the keys and values of the past as its state, and rotary positions."""

from lengthwise.ops.attention.blocks import attention
from lengthwise.ops.attention.naive import Past, attention_naive, rotate_naive
from lengthwise.ops.attention.rotary import rotate

__all__ = ["Past", "attention", "attention_naive", "rotate", "rotate_naive"]
