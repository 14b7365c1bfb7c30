"""Sequential oracle of the RG-LRU: one token at a time, float64-capable, nothing but the definition."""

import torch
import torch.nn.functional as F

from lengthwise.ops.padding import Padding, check_lengths, real_tokens
from lengthwise.shapes import Bool, Float, Int, Tensor


def rglru_naive(
    x: Float[Tensor, "B T D"],
    input_gate: Float[Tensor, "B T D"],
    recurrence_gate: Float[Tensor, "B T D"],
    Lambda: Float[Tensor, " D"],
    initial_state: Float[Tensor, "B D"] | None = None,
    *,
    reset: Bool[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
    """``h[t] = a[t] h[t-1] + sqrt(1 - a[t]^2) i[t] x[t]``, ``y[t] = h[t]``; arguments as of `rglru`."""
    batch, time, width = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    real = None
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        real = real_tokens(lengths, time, padding)
    state = x.new_zeros(batch, width, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    outputs = []
    for t in range(time):
        i, r = torch.sigmoid(input_gate[:, t].to(dtype)), torch.sigmoid(recurrence_gate[:, t].to(dtype))
        log_a = -8 * r * F.softplus(Lambda.to(dtype))
        a, multiplier = torch.exp(log_a), clipped_sqrt(-torch.expm1(2 * log_a))
        if reset is not None:
            here = reset[:, t, None]
            a, multiplier = a.masked_fill(here, 0), multiplier.masked_fill(here, 1)
        new = a * state + multiplier * i * x[:, t].to(dtype)
        state = new if real is None else torch.where(real[:, t, None], new, state)
        outputs.append(state)
    y = torch.stack(outputs, dim=1) if outputs else x.new_zeros(x.shape, dtype=dtype)
    return y.to(x.dtype), state


def clipped_sqrt(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The square root, whose slope ``1 / (2 sqrt(x))`` is cut at 1000, that is, below x = 1 / 2000^2."""
    limit = 1 / 2000**2
    steep = 1000 * (x - x.detach()) + x.detach().sqrt()
    return torch.where(x < limit, steep, x.clamp(min=limit).sqrt())
