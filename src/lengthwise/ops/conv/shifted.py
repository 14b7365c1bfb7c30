"""Causal depthwise convolution as W shifted multiply-adds, with the activation and the gradient in the same node."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lengthwise.errors import InputError
from lengthwise.ops.padding import Padding, check_lengths, swap_side
from lengthwise.shapes import Float, Int, Tensor

Activation = Literal["silu"]


def causal_conv(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None = None,
    initial_state: Float[Tensor, "B W-1 C"] | None = None,
    *,
    activation: Activation | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W-1 C"]]:
    """Causal depthwise convolution, ``y[t] = f(bias + sum_k weight[:, k] * x[t - W + 1 + k])``.

    The buffer makes a piece of any length, also one shorter than the filter, equal to the same tokens inside a
    longer piece.

    Args:
        x: inputs, T >= 0.
        weight: one filter of W taps a channel; the last tap meets the current token.
        bias: one value a channel, or None.
        initial_state: the last W-1 inputs before this piece, oldest first; None for zeros.
        activation: f, "silu" or None for the identity.
        lengths: number of real tokens of each row, None for all T.
        padding: the side on which the padding of `lengths` stands.

    Returns:
        Outputs of the dtype of `x` (sums are in float32 or wider), and the last W-1 real inputs (buffer included) as
        the next piece's buffer. Outputs at padding have no meaning. The gradient cannot be differentiated again.

    Raises:
        InputError: where a shape, a length or the activation does not fit.
    """
    batch, time, _ = x.shape
    _check(x, weight, initial_state, activation)
    if initial_state is not None:
        initial_state = initial_state.to(x.dtype)
    if lengths is not None:
        check_lengths(lengths, batch, time)
        if padding == "left":
            x = swap_side(x, lengths, "left")
    y = _ShiftedConv.apply(x, weight, bias, initial_state, activation)  # type: ignore[no-untyped-call]
    final_state = _last_inputs(x, initial_state, weight.shape[1] - 1, lengths)
    if lengths is not None and padding == "left":
        y = swap_side(y, lengths, "right")
    return y, final_state


def _last_inputs(x: Tensor, initial_state: Tensor | None, count: int, lengths: Tensor | None) -> Tensor:
    """The last `count` real inputs of each row, those of the buffer included; a copy, which keeps no more alive."""
    batch, time, channels = x.shape
    if lengths is None and time >= count:
        return x[:, time - count :].clone(memory_format=torch.contiguous_format)
    if initial_state is None:
        initial_state = x.new_zeros(batch, count, channels)
    extended = torch.cat([initial_state, x], dim=1)  # [B, W-1+T, C]
    if lengths is None:
        return extended[:, time:].clone(memory_format=torch.contiguous_format)
    index = lengths[:, None] + torch.arange(count, device=x.device)[None, :]
    return extended[torch.arange(batch, device=x.device)[:, None], index]


class _ShiftedConv(torch.autograd.Function):
    """The convolution and its activation as one node. Tap k meets the token `shift = W-1-k` steps back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, activation: Activation | None
    ) -> Tensor:
        batch, time, channels = x.shape
        exact = torch.promote_types(x.dtype, torch.float32)
        taps = weight.to(exact).mT.contiguous()  # [W, C]
        y = torch.empty(batch, time, channels, dtype=exact, device=x.device)
        if bias is None:
            torch.mul(x, taps[-1], out=y)
        else:
            torch.addcmul(bias.to(exact), x, taps[-1], out=y)
        for shift in range(1, len(taps)):
            if shift < time:
                y[:, shift:].addcmul_(x[:, : time - shift], taps[-1 - shift])
            if state is not None:
                seen = state[:, len(taps) - 1 - shift :][:, :time]  # tokens before the piece that this tap meets
                y[:, : seen.shape[1]].addcmul_(seen, taps[-1 - shift])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, bias, state, y if activation else None)
        return (F.silu(y) if activation else y).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, state, before = ctx.saved_tensors
        time, exact = x.shape[1], torch.promote_types(x.dtype, torch.float32)
        taps = weight.to(exact).mT.contiguous()
        if before is not None:
            dy = torch.ops.aten.silu_backward(dy.to(exact), before)
        product = torch.empty(x.shape, dtype=exact, device=x.device)
        dx = torch.mul(dy, taps[-1])
        d_taps = torch.empty_like(taps)
        d_state = None if state is None else torch.zeros(state.shape, dtype=exact, device=x.device)
        d_taps[-1] = torch.mul(dy, x, out=product).sum(dim=(0, 1))
        for shift in range(1, len(taps)):
            k = len(taps) - 1 - shift
            d_taps[k] = torch.mul(dy[:, shift:], x[:, : max(time - shift, 0)], out=product[:, shift:]).sum(dim=(0, 1))
            dx[:, : max(time - shift, 0)].addcmul_(dy[:, shift:], taps[k])
            if state is not None and d_state is not None:
                seen = state[:, k:][:, :time]
                d_taps[k] += (dy[:, : seen.shape[1]] * seen).sum(dim=(0, 1))
                d_state[:, k:][:, :time].addcmul_(dy[:, : seen.shape[1]], taps[k])
        return (
            dx.to(x.dtype),
            d_taps.mT.to(weight.dtype),
            None if bias is None else dy.sum(dim=(0, 1)).to(bias.dtype),
            None if d_state is None else d_state.to(x.dtype),
            None,
        )


def _check(x: Tensor, weight: Tensor, initial_state: Tensor | None, activation: str | None) -> None:
    batch, _, channels = x.shape
    buffer = (batch, weight.shape[1] - 1, channels)
    if weight.shape[0] != channels:
        raise InputError(
            expected=f"a filter for {channels} channels",
            got=f"shape {tuple(weight.shape)}",
            where="causal_conv weight",
            fix="pass weight as [channels, width]",
        )
    if initial_state is not None and tuple(initial_state.shape) != buffer:
        raise InputError(
            expected=f"a buffer of shape {buffer}",
            got=f"shape {tuple(initial_state.shape)}",
            where="causal_conv initial_state",
            fix="pass the buffer that the previous piece of the same rows returned",
        )
    if activation not in (None, "silu"):
        raise InputError(
            expected='"silu" or None', got=repr(activation), where="causal_conv activation", fix="use one of these"
        )
