"""Causal depthwise convolution as W shifted multiply-adds over [buffer | input]."""

import torch

from lengthwise.errors import InputError
from lengthwise.ops.padding import Padding, check_lengths, swap_side
from lengthwise.shapes import Float, Int, Tensor


def causal_conv(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None = None,
    initial_state: Float[Tensor, "B W-1 C"] | None = None,
    *,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W-1 C"]]:
    """Causal depthwise convolution, ``y[t] = bias + sum_k weight[:, k] * x[t - W + 1 + k]``.

    The buffer makes a piece of any length, also one shorter than the filter, equal to the same tokens inside a
    longer piece.

    Args:
        x: inputs, T >= 0.
        weight: one filter of W taps a channel; the last tap meets the current token.
        bias: one value a channel, or None.
        initial_state: the last W-1 inputs before this piece, oldest first; None for zeros.
        lengths: number of real tokens of each row, None for all T.
        padding: the side on which the padding of `lengths` stands.

    Returns:
        Outputs of the dtype of `x`, and the last W-1 real inputs (buffer included) as the next piece's buffer.
        Outputs at padding have no meaning.

    Raises:
        InputError: where a shape or a length does not fit.
    """
    batch, time, channels = x.shape
    width = weight.shape[1]
    if weight.shape[0] != channels:
        raise InputError(
            expected=f"a filter for {channels} channels",
            got=f"shape {tuple(weight.shape)}",
            where="causal_conv weight",
            fix="pass weight as [channels, width]",
        )
    if initial_state is None:
        initial_state = x.new_zeros(batch, width - 1, channels)
    elif tuple(initial_state.shape) != (batch, width - 1, channels):
        raise InputError(
            expected=f"a buffer of shape {(batch, width - 1, channels)}",
            got=f"shape {tuple(initial_state.shape)}",
            where="causal_conv initial_state",
            fix="pass the buffer that the previous piece of the same rows returned",
        )
    if lengths is not None:
        check_lengths(lengths, batch, time)
        if padding == "left":
            x = swap_side(x, lengths, "left")
    extended = torch.cat([initial_state.to(x.dtype), x], dim=1)  # [B, W-1+T, C]
    taps = weight.to(x.dtype).unbind(dim=1)
    y = extended[:, width - 1 :] * taps[-1]
    if bias is not None:
        y = y + bias.to(x.dtype)
    for k in range(width - 1):
        y = torch.addcmul(y, extended[:, k : k + time], taps[k])
    if lengths is None:
        final_state = extended[:, time:]
    else:
        index = lengths[:, None] + torch.arange(width - 1, device=x.device)[None, :]
        final_state = extended[torch.arange(batch, device=x.device)[:, None], index]
        if padding == "left":
            y = swap_side(y, lengths, "right")
    return y, final_state
