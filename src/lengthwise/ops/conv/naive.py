"""Sequential oracle of the causal depthwise convolution: one token at a time, any floating dtype."""

import torch

from lengthwise.ops.padding import Padding, check_lengths, real_tokens
from lengthwise.shapes import Float, Int, Tensor


def causal_conv_naive(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None = None,
    initial_state: Float[Tensor, "B W-1 C"] | None = None,
    *,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W-1 C"]]:
    """``y[t] = bias + sum_k weight[:, k] * x[t - W + 1 + k]``; see `causal_conv` for the arguments."""
    batch, time, channels = x.shape
    width = weight.shape[1]
    buffer = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state.to(x.dtype)
    real = None
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        real = real_tokens(lengths, time, padding)
    outputs = []
    for t in range(time):
        window = torch.cat([buffer, x[:, t : t + 1]], dim=1)  # [B, W, C]
        y = torch.einsum("bwc,cw->bc", window, weight.to(x.dtype))
        outputs.append(y if bias is None else y + bias.to(x.dtype))
        moved = window[:, 1:]
        buffer = moved if real is None else torch.where(real[:, t, None, None], moved, buffer)
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x), buffer
