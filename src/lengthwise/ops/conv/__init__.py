"""Causal depthwise convolution with an explicit buffer."""

from lengthwise.ops.conv.depthwise import causal_conv
from lengthwise.ops.conv.naive import causal_conv_naive

__all__ = ["causal_conv", "causal_conv_naive"]
