"""Causal depthwise convolution with an explicit buffer."""

from lengthwise.ops.conv.naive import causal_conv_naive
from lengthwise.ops.conv.shifted import causal_conv

__all__ = ["causal_conv", "causal_conv_naive"]
