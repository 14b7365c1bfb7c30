"""Causal depthwise convolution with an explicit buffer; activation and gradient are in the same node of the graph.

The torch form works on the extended input, each row behind its buffer, `[B, W-1+T, C]`. The convolution is then an
ordinary one without padding, and a piece of one token is no special case. The form in C is in `native.py`.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lengthwise.errors import InputError
from lengthwise.native import Backend, usable
from lengthwise.ops.conv.native import conv_native, library
from lengthwise.ops.padding import Padding, check_lengths, emptied, swap_side
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
    backend: Backend = "auto",
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
        backend: "native" for the kernel in C (CPU, float32 and narrower), "torch", or "auto" for the former where it
            can run.

    Returns:
        Outputs of the dtype of `x` (sums are in float32 or wider), and the last W-1 real inputs (buffer included) as
        the next piece's buffer. Outputs at padding have no meaning. The gradient cannot be differentiated again.

    Raises:
        InputError: where a shape, a length or the activation does not fit, or the backend cannot run.
    """
    batch, time, _ = x.shape
    _check(x, weight, bias, initial_state, activation)
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        (x,) = emptied(lengths, padding, x)
        if padding == "left":
            x = swap_side(x, lengths, "left")
    before = weight.shape[1] - 1
    if batch == 0:
        return x, x.new_zeros(0, before, x.shape[2])
    if x.numel() and usable(backend, x.device, x.dtype, library):
        y = conv_native(x, weight, bias, initial_state, activation == "silu")
        enough = lengths is None and time >= before
        final_state = last_inputs(x if enough else extend(x, initial_state, before), before, lengths)
    else:
        extended = extend(x, initial_state, before)
        y = _DepthwiseConv.apply(extended, weight, bias, activation)  # type: ignore[no-untyped-call]
        final_state = last_inputs(extended, before, lengths)
    if lengths is not None and padding == "left":
        y = swap_side(y, lengths, "right")
    return y, final_state


def extend(x: Tensor, state: Tensor | None, count: int) -> Tensor:
    """[state | x] along time, contiguous; the state is `count` zeros where there is none."""
    if state is None:
        state = x.new_zeros(len(x), count, x.shape[2])
    return torch.cat([state.to(x.dtype), x], dim=1)


def last_inputs(extended: Tensor, count: int, lengths: Tensor | None = None) -> Tensor:
    """The last `count` real inputs of each row, a copy, which does not keep the others alive."""
    if lengths is None:
        return extended[:, extended.shape[1] - count :].clone(memory_format=torch.contiguous_format)
    index = lengths[:, None] + torch.arange(count, device=extended.device)[None, :]
    return extended[torch.arange(len(extended), device=extended.device)[:, None], index]


def conv_forward(extended: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution without activation: [B, W-1+T, C] and [C, W] to [B, T, C], contiguous."""
    if extended.shape[1] < weight.shape[1]:  # no token
        return extended.new_empty(len(extended), 0, extended.shape[2])
    y = F.conv2d(_as_image(extended), weight[:, None, None, :], bias, groups=len(weight))
    return y.permute(0, 2, 3, 1).flatten(1, 2)


def conv_backward(padded_dy: Tensor, extended: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the extended input, the weight and the bias, from that of the outputs in the form `pad_gradient`.

    Rows laid end to end are one sequence here, because the zeros between them keep them apart.
    """
    (batch, length, channels), width = extended.shape, weight.shape[1]
    count = batch * length
    d_extended = F.conv2d(_as_image(padded_dy[None]), weight.flip(1)[:, None, None, :], None, groups=channels)
    d_extended = d_extended.permute(0, 2, 3, 1).reshape(extended.shape)
    # The gradient of tap k sums dy[t] x[t - W+1+k] over tokens. This is the gradient of the weight of a layer norm
    # whose mean is 0 and whose deviation is 1, and there torch has product and sum in one pass; that of the norm's bias
    # is the plain sum.
    flat, mean, deviation = extended.view(count, channels), extended.new_zeros(count, 1), extended.new_ones(count, 1)
    d_weight, d_bias = torch.empty_like(weight), extended.new_zeros(channels)
    for k in range(width):
        skip = width - 1 - k
        met = count - skip
        _, d_weight[:, k], total = torch.ops.aten.native_layer_norm_backward(
            padded_dy[skip:count],
            flat[:met],
            [channels],
            mean[:met],
            deviation[:met],
            d_bias,  # any weight and bias: their values do not enter
            d_bias,
            [False, True, skip == 0],
        )
    return d_extended, d_weight, total


def pad_gradient(shape: torch.Size | tuple[int, ...], width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the gradient of outputs [B, T, C] with W-1 zeros before each row and behind the last one.

    Returns:
        All of it, [B (W-1+T) + W-1, C], and the view [B, T, C] to be written.
    """
    batch, time, channels = shape
    length = time + width - 1
    padded = like.new_empty(batch * length + width - 1, channels)
    rows = padded[: batch * length].view(batch, length, channels)
    rows[:, : width - 1] = 0
    padded[batch * length :] = 0
    return padded, rows[:, width - 1 :]


def _as_image(sequence: Tensor) -> Tensor:
    """[B, T, C] seen as an image of height 1 whose channels are innermost in memory, the fastest layout on a CPU."""
    return sequence[:, None].permute(0, 3, 1, 2)


class _DepthwiseConv(torch.autograd.Function):
    """`conv_forward`, the activation, and their gradients as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, extended: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None
    ) -> Tensor:
        exact = torch.promote_types(extended.dtype, torch.float32)
        with torch.autocast(extended.device.type, enabled=False):
            y = conv_forward(extended.to(exact), weight.to(exact), None if bias is None else bias.to(exact))
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(extended, weight, y if activation else None)
            ctx.bias_dtype = None if bias is None else bias.dtype
        return (F.silu(y) if activation else y).to(extended.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        extended, weight, before = ctx.saved_tensors
        exact = torch.promote_types(extended.dtype, torch.float32)
        padded, view = pad_gradient(dy.shape, weight.shape[1], extended.new_empty(0, dtype=exact))
        if before is None:
            view.copy_(dy)
        else:
            torch.ops.aten.silu_backward.grad_input(dy.to(exact), before, grad_input=view)
        with torch.autocast(extended.device.type, enabled=False):
            d_extended, d_weight, d_bias = conv_backward(padded, extended.to(exact), weight.to(exact))
        return (
            d_extended.to(extended.dtype),
            d_weight.to(weight.dtype),
            None if ctx.bias_dtype is None else d_bias.to(ctx.bias_dtype),
            None,
        )


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, activation: str | None
) -> None:
    batch, _, channels = x.shape
    buffer = (batch, weight.shape[1] - 1, channels)
    if weight.shape[0] != channels or weight.shape[1] < 1:
        raise InputError(
            expected=f"a filter for {channels} channels",
            got=f"shape {tuple(weight.shape)}",
            where="causal_conv weight",
            fix="pass weight as [channels, width]",
        )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise InputError(
            expected=f"a bias for {channels} channels",
            got=f"shape {tuple(bias.shape)}",
            where="causal_conv bias",
            fix="pass one value a channel, or None",
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
