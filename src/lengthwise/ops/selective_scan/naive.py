"""Sequential oracle of the selective scan: one token at a time, any floating dtype, nothing but the definition."""

import torch
import torch.nn.functional as F

from lengthwise.ops.padding import Padding, check_lengths, real_tokens
from lengthwise.shapes import Float, Int, Tensor


def selective_scan_naive(
    x: Float[Tensor, "B T D"],
    dt: Float[Tensor, "B T D"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    D: Float[Tensor, " D"] | None = None,
    initial_state: Float[Tensor, "B D N"] | None = None,
    *,
    dt_bias: Float[Tensor, " D"] | None = None,
    z: Float[Tensor, "B T D"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D N"]]:
    """``h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]``, ``y[t] = h[t] . C[t] + D x[t]``; see `selective_scan`."""
    batch, time, channels = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_, dt_, A_, B_, C_ = (tensor.to(dtype) for tensor in (x, dt, A, B, C))
    if dt_bias is not None:
        dt_ = F.softplus(dt_ + dt_bias.to(dtype))
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        dt_ = dt_ * real_tokens(lengths, time, padding)[..., None]
    if initial_state is None:
        state = x_.new_zeros(batch, channels, A.shape[1])
    else:
        state = initial_state.to(dtype)
    outputs = []
    for t in range(time):
        decay = torch.exp(dt_[:, t, :, None] * A_)  # [B, D, N]
        state = decay * state + (dt_[:, t] * x_[:, t])[:, :, None] * B_[:, t, None, :]
        y = torch.einsum("bdn,bn->bd", state, C_[:, t])
        outputs.append(y if D is None else y + D.to(dtype) * x_[:, t])
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x_)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), state
