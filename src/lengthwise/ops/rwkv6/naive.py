"""Sequential oracle of RWKV-6's recurrence: one token at a time, float64-capable, nothing but the definition."""

import torch

from lengthwise.ops.padding import Padding, check_lengths, real_tokens
from lengthwise.shapes import Float, Int, Tensor


def rwkv6_naive(
    r: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    u: Float[Tensor, "H K"],
    initial_state: Float[Tensor, "B H K V"] | None = None,
    *,
    lengths: Int[Tensor, " B"] | None = None,
    padding: Padding = "right",
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """``o[t] = (S[t-1] + diag(u) k[t] v[t]^T)^T r[t]``, ``S[t] = diag(exp(log_decay[t])) S[t-1] + k[t] v[t]^T``.

    Arguments as of `rwkv6`.
    """
    batch, time, heads, keys = r.shape
    dtype = torch.promote_types(torch.promote_types(v.dtype, log_decay.dtype), torch.float32)
    r_, k_, v_, log_decay_, u_ = (tensor.to(dtype) for tensor in (r, k, v, log_decay, u))
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        padded = ~real_tokens(lengths, time, padding)[..., None, None]
        k_, log_decay_ = k_.masked_fill(padded, 0), log_decay_.masked_fill(padded, 0)
    if initial_state is None:
        state = v_.new_zeros(batch, heads, keys, v.shape[-1])
    else:
        state = initial_state.to(dtype)
    outputs = []
    for r_t, k_t, v_t, log_decay_t in zip(*(x.unbind(dim=1) for x in (r_, k_, v_, log_decay_)), strict=True):
        entry = k_t[..., None] * v_t[..., None, :]
        outputs.append((r_t[..., None] * (state + u_[..., None] * entry)).sum(dim=-2))
        state = log_decay_t.exp()[..., None] * state + entry
    o = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v_)
    return o.to(v.dtype), state
