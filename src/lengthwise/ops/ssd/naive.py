"""Sequential oracle of SSD: one token at a time, float64-capable, nothing but the definition."""

import torch

from lengthwise.ops.padding import Padding, check_lengths, real_tokens
from lengthwise.shapes import Float, Int, Tensor


def ssd_naive(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    D: Float[Tensor, " H"] | None = None,
    initial_state: Float[Tensor, "B H P N"] | None = None,
    *,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """``S[t] = exp(dt[t] A) S[t-1] + dt[t] x[t] B[t]^T``, ``y[t] = S[t] C[t] + D x[t]``; arguments as of `ssd`."""
    batch, time, heads, width = x.shape
    groups, state_size = B.shape[2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_, dt_, B_, C_ = (tensor.to(dtype) for tensor in (x, dt, B, C))
    B_, C_ = (tensor.repeat_interleave(heads // groups, dim=2) for tensor in (B_, C_))  # [B, T, H, N]
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        dt_ = dt_ * real_tokens(lengths, time, padding)[..., None]
    if initial_state is None:
        state = x_.new_zeros(batch, heads, width, state_size)
    else:
        state = initial_state.to(dtype)
    outputs = []
    for t in range(time):
        decay = torch.exp(dt_[:, t] * A.to(dtype))  # [B, H]
        entry = torch.einsum("bh,bhp,bhn->bhpn", dt_[:, t], x_[:, t], B_[:, t])
        state = decay[..., None, None] * state + entry
        y = torch.einsum("bhpn,bhn->bhp", state, C_[:, t])
        outputs.append(y if D is None else y + D.to(dtype)[:, None] * x_[:, t])
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x_)
    return y.to(x.dtype), state
