"""SSD in chunks: matrix products inside a chunk, a short loop that carries the state from chunk to chunk.

The derivation is in the README beside this file. All exponents are at most zero, so no decay can overflow; those
above the diagonal are masked before the exponential, because an infinity masked afterwards has a NaN gradient.
"""

import torch
import torch.nn.functional as F
from einops import rearrange

from lengthwise.errors import InputError
from lengthwise.ops.padding import Padding, check_lengths, real_tokens
from lengthwise.shapes import Float, Int, Tensor

DEFAULT_CHUNK_SIZE = 64


def ssd(
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
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Mamba-2's recurrence, ``S[t] = exp(dt[t] A) S[t-1] + dt[t] x[t] B[t]^T``, ``y[t] = S[t] C[t] + D x[t]``.

    Args:
        x: inputs per head.
        dt: step sizes after softplus, bias and limits, >= 0.
        A: decay rate of each head, <= 0.
        B, C: input and output projections of the state; heads h of a group of H/G share them.
        D: skip weight of each head, or None.
        initial_state: the state before the first token, float32 (float64 for float64 inputs); None for zeros.
        lengths: number of real tokens of each row, None for all T.
        padding: the side on which the padding of `lengths` stands.
        chunk_size: tokens a chunk; changes speed and rounding, not the result.

    Returns:
        ``y`` in the dtype of `x`, and the final state in float32 or wider. Gradients flow into every input,
        `initial_state` included, and out of both results. Outputs at padding have no meaning.

    Raises:
        InputError: where a shape, a length or the chunk size does not fit.
    """
    batch, time, heads, width = x.shape
    groups, state_size = B.shape[2:]
    _check(x, dt, A, B, C, initial_state, chunk_size)
    exact = torch.promote_types(x.dtype, torch.float32)
    dt = dt.to(exact)
    if lengths is not None:
        check_lengths(lengths, batch, time)
        dt = dt * real_tokens(lengths, time, padding)[..., None]
    if time == 0:
        empty = x.new_zeros(batch, heads, width, state_size, dtype=exact)
        return x, empty if initial_state is None else initial_state.to(exact)

    chunk = min(chunk_size, time)
    missing = -time % chunk
    x_, dt_, B_, C_ = x, dt, B, C
    if missing:
        # A padded token has dt 0: it decays nothing and enters nothing.
        x_, B_, C_ = (F.pad(tensor, (0, 0, 0, 0, 0, missing)) for tensor in (x, B, C))
        dt_ = F.pad(dt, (0, 0, 0, missing))
    num_chunks = (time + missing) // chunk
    x_ = rearrange(x_, "b (c q) h p -> b c q h p", q=chunk)
    B_ = rearrange(B_, "b (c q) g n -> b c g q n", q=chunk)
    C_ = rearrange(C_, "b (c q) g n -> b c g q n", q=chunk)
    dt_ = rearrange(dt_, "b (c q) h -> b c q h", q=chunk)
    per_group = heads // groups

    log_decay = torch.cumsum(dt_ * A.to(exact), dim=2)  # [B, c, q, H], from the chunk's start to and with token q
    total = log_decay[:, :, -1]  # [B, c, H]
    weighted = x_ * dt_.to(x.dtype)[..., None]  # [B, c, q, H, P]

    # Inside a chunk: y[i] = sum_{j <= i} exp(log_decay[i] - log_decay[j]) (C[i] . B[j]) dt[j] x[j].
    by_head = rearrange(log_decay, "b c q h -> b c h q")
    exponent = by_head[..., :, None] - by_head[..., None, :]
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    decay = exponent.masked_fill(~causal, float("-inf")).exp()  # [B, c, H, q, q]
    scores = torch.matmul(C_, B_.transpose(-1, -2))  # [B, c, G, q, q]
    mixing = (
        rearrange(decay, "b c (g r) i j -> b c g r i j", g=groups).to(scores.dtype) * scores[:, :, :, None]
    )  # [B, c, G, r, q, q]
    values = rearrange(weighted, "b c q (g r) p -> b c g r q p", g=groups)
    y = rearrange(torch.matmul(mixing, values), "b c g r q p -> b c q (g r) p")

    # What each chunk adds to the state: sum_j exp(total - log_decay[j]) B[j]^T dt[j] x[j].
    to_end = (weighted * (total[:, :, None] - log_decay).exp().to(x.dtype)[..., None]).to(x.dtype)
    to_end = rearrange(to_end, "b c q (g r) p -> b c g q (r p)", g=groups)
    added = torch.matmul(B_.transpose(-1, -2), to_end).to(exact)  # [B, c, G, N, r P]
    added = rearrange(added, "b c g n (r p) -> b c (g r) p n", r=per_group)

    # The carry, one step a chunk, in float32 or wider.
    state = initial_state.to(exact) if initial_state is not None else None
    before = []
    chunk_decay = total.exp()[..., None, None]
    for c in range(num_chunks):
        if state is None:
            before.append(None)
            state = added[:, c]
        else:
            before.append(state)
            state = chunk_decay[:, c] * state + added[:, c]
    assert state is not None

    if num_chunks > 1 or initial_state is not None:
        zero = torch.zeros_like(state)
        entering = torch.stack([zero if s is None else s for s in before], dim=1)  # [B, c, H, P, N]
        entering = rearrange(entering, "b c (g r) p n -> b c g n (r p)", g=groups)
        carried = torch.matmul(C_, entering.to(C_.dtype))  # [B, c, G, q, r P]
        carried = rearrange(carried, "b c g q (r p) -> b c q (g r) p", r=per_group)
        y = y + carried * log_decay.exp().to(carried.dtype)[..., None]
    if D is not None:
        y = y + x_ * D.to(x.dtype)[:, None]
    y = rearrange(y, "b c q h p -> b (c q) h p")[:, :time]
    return y.to(x.dtype), state


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None, chunk_size: int
) -> None:
    batch, time, heads, width = x.shape
    groups, state_size = B.shape[2:]
    wanted = {
        "dt": (dt, (batch, time, heads)),
        "A": (A, (heads,)),
        "B": (B, (batch, time, groups, state_size)),
        "C": (C, (batch, time, groups, state_size)),
        "initial_state": (initial_state, (batch, heads, width, state_size)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(
                expected=f"{name} of shape {shape}",
                got=f"shape {tuple(tensor.shape)}",
                where="ssd",
                fix=f"match it to x of shape {tuple(x.shape)}",
            )
    if heads % groups:
        raise InputError(
            expected="a number of heads that the groups divide",
            got=f"{heads} heads and {groups} groups",
            where="ssd",
            fix="change ngroups or the number of heads",
        )
    if chunk_size < 1:
        raise InputError(
            expected="a chunk size of at least 1", got=str(chunk_size), where="ssd chunk_size", fix="use 64"
        )
