"""Sequential oracle of GLA: one token at a time, float64-capable, nothing but the definition."""

import torch

from lengthwise.ops.padding import Padding, check_lengths, real_tokens
from lengthwise.shapes import Float, Int, Tensor


def gla_naive(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    initial_state: Float[Tensor, "B H K V"] | None = None,
    *,
    scale: float | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """``S[t] = diag(exp(log_decay[t])) S[t-1] + k[t] v[t]^T``, ``o[t] = scale S[t]^T q[t]``; arguments as of `gla`."""
    batch, time, heads, keys = q.shape
    scale = keys**-0.5 if scale is None else scale
    dtype = torch.promote_types(torch.promote_types(v.dtype, log_decay.dtype), torch.float32)
    q_, k_, v_, log_decay_ = (tensor.to(dtype) for tensor in (q, k, v, log_decay))
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        padded = ~real_tokens(lengths, time, padding)[..., None, None]
        k_, log_decay_ = k_.masked_fill(padded, 0), log_decay_.masked_fill(padded, 0)
    if initial_state is None:
        state = v_.new_zeros(batch, heads, keys, v.shape[-1])
    else:
        state = initial_state.to(dtype)
    outputs = []
    for q_t, k_t, v_t, log_decay_t in zip(*(x.unbind(dim=1) for x in (q_, k_, v_, log_decay_)), strict=True):
        state = log_decay_t.exp()[..., None] * state + k_t[..., None] * v_t[..., None, :]
        outputs.append(scale * (q_t[..., None] * state).sum(dim=-2))
    o = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v_)
    return o.to(v.dtype), state
