"""The two halves of chunked SSD, forward and backward, as plain functions of tensors; the README derives them.

Both are bound by memory rather than by arithmetic, and are written for that: few intermediate tensors, written in place
and used again while they are still in cache.

Layouts, private to this package: c chunks of Q tokens come before the batch rows, so that the tensors of one chunk, and
of all chunks but the first or the last, are contiguous; heads come before tokens, so that a head is a matrix.

    x, y       [c, B, H, Q, P]
    dt         [c, B, H, Q]
    B, C       [c, B, G, Q, N]
    states     [chunks, B, H, P, N]
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from lengthwise.shapes import Tensor

# Exponents above this belong to pairs with j > i only. Those are multiplied by zero later, which an infinity would make
# NaN.
HIGHEST = 30.0


def lowest_exponent(dtype: torch.dtype) -> float:
    """Exponents are raised to this, -57 in float32, before the exponential.

    A decay to 1e-25 is nothing beside a rounding error, but its products are still normal numbers. Numbers below 1e-38
    are not, and a CPU multiplies them up to 200 times more slowly.
    """
    return 0.65 * math.log(torch.finfo(dtype).tiny)


def positive(dt: Tensor) -> Tensor:
    """dt, at least 4e-12 in float32, for the part inside a chunk, whose gradient is divided by it.

    A token of dt 0 then adds 4e-12 x to outputs, which no sum keeps, and exactly nothing to the state.
    """
    return dt.clamp(min=torch.finfo(dt.dtype).tiny ** 0.3)


class Saved(NamedTuple):
    """What the forward half leaves for the backward half, besides its inputs."""

    log_decay: Tensor
    """[c, B, H, Q]: sum of dt A from the first token of the chunk to the token itself."""
    decay: Tensor
    """[c, B, H, Q, Q]: exp(log_decay[i] - log_decay[j]) dt[j] for j <= i; above the diagonal without meaning."""
    scores: Tensor
    """[c, B, G, 1, Q, Q]: C[i] . B[j] for j <= i, 0 above the diagonal."""
    states: Tensor
    """[c or c-1, B, H, P, N]: before each chunk, the first left out where it is known to be zero."""


class Gradients(NamedTuple):
    """What the backward half returns: the gradient of each input, in its layout."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    initial_state: Tensor | None


def to_chunks(tensor: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    """[B, T, H, ...] copied to [c, B, H, Q, ...]."""
    view = chunk_view(tensor, chunk)
    return torch.empty(view.shape, dtype=dtype, device=tensor.device).copy_(view)


def chunk_view(tensor: Tensor, chunk: int) -> Tensor:
    """[B, T, H, ...] seen as [c, B, H, Q, ...]."""
    batch, time, heads = tensor.shape[:3]
    split = tensor.view(batch, time // chunk, chunk, heads, *tensor.shape[3:])
    return split.permute(1, 0, 3, 2, *range(4, split.dim()))


def from_chunks(tensor: Tensor) -> Tensor:
    """[c, B, H, Q, ...] copied to [B, T, H, ...]."""
    chunks, batch, heads, chunk = tensor.shape[:4]
    return tensor.permute(1, 0, 3, 2, *range(4, tensor.dim())).reshape(batch, chunks * chunk, heads, *tensor.shape[4:])


def chunk_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Saved | None]:
    """Outputs, final state [B, H, P, N] and, if `save`, what the backward half needs. All tensors have one dtype."""
    chunks, batch, heads, chunk, width = x.shape
    groups, size = B.shape[2], B.shape[4]
    by_group = (chunks, batch, groups, heads // groups)
    flat_x = x.view(-1, chunk, width)

    # Inside a chunk: y[i] = sum_{j <= i} decay[i, j] scores[i, j] x[j] + D x[i].
    log_decay = torch.cumsum(dt * A[:, None], dim=-1)
    decay = log_decay[..., :, None] - log_decay[..., None, :]
    decay.clamp_(lowest_exponent(dt.dtype), HIGHEST).exp_().mul_(positive(dt)[..., None, :])
    scores = torch.bmm(C.view(-1, chunk, size), B.view(-1, chunk, size).mT).tril_()
    scores = scores.view(*by_group[:3], 1, chunk, chunk)
    mixing = torch.empty_like(decay) if save else decay
    torch.mul(decay.view(*by_group, chunk, chunk), scores, out=mixing.view(*by_group, chunk, chunk))
    if D is not None:
        mixing.diagonal(dim1=-2, dim2=-1).add_(D[:, None])
    y = torch.bmm(mixing.view(-1, chunk, chunk), flat_x)

    # What each chunk adds to the state, sum_j x[j] (weight[j] B[j])^T, and the carry from chunk to chunk. `states`
    # holds those after each chunk, and before them the initial one, if any.
    weight = _decay_to_end(log_decay).mul_(dt)
    scaled = _scratch(mixing, (*by_group, chunk, size))
    torch.mul(B[:, :, :, None], weight.view(*by_group, chunk, 1), out=scaled)
    first = 0 if initial_state is not None else 1  # the first chunk whose entering state is not known to be zero
    states = x.new_empty(chunks + 1 - first, batch, heads, width, size)
    torch.bmm(flat_x.mT, scaled.view(-1, chunk, size), out=states[1 - first :].view(-1, width, size))
    if initial_state is not None:
        states[0] = initial_state
    through = _exp(log_decay[first:, ..., -1])[..., None, None]
    for k in range(len(through)):
        states[k + 1].addcmul_(states[k], through[k])

    # What each chunk reads of the state before it: y[i] += S (exp(log_decay[i]) C[i]).
    if first < chunks:
        torch.mul(C[first:, :, :, None], _decay_from_start(log_decay[first:], by_group), out=scaled[first:])
        before = states[:-1].view(-1, width, size)
        y[first * batch * heads :].baddbmm_(scaled[first:].view(-1, chunk, size), before.mT)
    # Neither what is saved nor what is returned shall keep the other alive where it is the larger part.
    final_state = states[-1].clone() if first < chunks else states[-1]
    kept = states[:-1] if first < chunks else states.new_empty(0, *states.shape[1:])
    return y.view(x.shape), final_state, Saved(log_decay, decay, scores, kept) if save else None


def chunk_backward(
    dy: Tensor,
    d_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    has_initial_state: bool,
    saved: Saved,
) -> Gradients:
    """Gradients of all inputs, given those of the outputs and of the final state (None for zero)."""
    log_decay, decay, scores, states = saved
    chunks, batch, heads, chunk, width = x.shape
    groups, size = B.shape[2], B.shape[4]
    by_group = (chunks, batch, groups, heads // groups)
    flat_x, flat_dy = x.view(-1, chunk, width), dy.view(-1, chunk, width)

    # Inside the chunks. `pairs` becomes in turn the mixing matrix, its gradient, the latter times the decay, and times
    # the scores as well: entry (i, j) is then the gradient of the exponent log_decay[i] - log_decay[j], and that of
    # log dt[j].
    grouped_decay = decay.view(*by_group, chunk, chunk)
    grouped_pairs = grouped_decay * scores
    pairs = grouped_pairs.view(decay.shape)
    diagonal = pairs.diagonal(dim1=-2, dim2=-1)
    if D is not None:
        diagonal.add_(D[:, None])
    dx = torch.bmm(pairs.view(-1, chunk, chunk).mT, flat_dy)
    torch.bmm(flat_dy, flat_x.mT, out=pairs.view(-1, chunk, chunk))
    dD = None if D is None else diagonal.sum(dim=(0, 1, 3))
    d_scores = grouped_pairs.mul_(grouped_decay).sum(dim=3).tril_().view(-1, chunk, chunk)
    dB = torch.bmm(d_scores.mT, C.view(-1, chunk, size)).view(B.shape)
    dC = torch.bmm(d_scores, B.view(-1, chunk, size)).view(C.shape)
    grouped_pairs.mul_(scores)
    own = diagonal.clone()
    diagonal.zero_()  # that exponent is 0 whatever the decay; left in, it would cancel only up to rounding
    column = pairs.sum(dim=-2)
    d_log = pairs.sum(dim=-1).sub_(column)
    ddt = column.add_(own).div_(positive(dt))

    # Out of the states, from chunk `first` on. `d_states` holds the gradients of the states before those chunks, and
    # that of the final state behind them.
    first = 0 if has_initial_state else 1
    scaled, product = _scratch(pairs, (*by_group, chunk, size)), x.new_empty(*by_group, chunk, size)
    d_states = x.new_empty(chunks + 1 - first, batch, heads, width, size)
    if first < chunks:
        C_, from_start = C[first:, :, :, None], _decay_from_start(log_decay[first:], by_group)
        read = flat_dy[first * batch * heads :]
        torch.mul(C_, from_start, out=scaled[first:])
        torch.bmm(read.mT, scaled[first:].view(-1, chunk, size), out=d_states[:-1].view(-1, width, size))
        torch.bmm(read, states.view(-1, width, size), out=product[first:].view(-1, chunk, size))
        d_C = product[first:].mul_(from_start)
        dC[first:] += d_C.sum(dim=3)
        out = d_C.mul_(C_).sum(dim=-1).view(d_log[first:].shape)  # of log_decay, by what the token read
        d_log[first:] += out

    # The carry, backwards. Where nobody asked for the final state, its gradient is zero, and the last chunk adds to no
    # state that matters.
    last = chunks if d_final is not None else chunks - 1
    if d_final is not None:
        d_states[-1] = d_final
    elif first < chunks:
        d_states[-1] = 0
    through = _exp(log_decay[first:last, ..., -1])
    for k in reversed(range(len(through))):
        d_states[k].addcmul_(d_states[k + 1], through[k, ..., None, None])

    # Into the states, up to chunk `last`.
    if last > 0:
        to_end = _decay_to_end(log_decay[:last])
        weight = to_end * dt[:last]
        grouped_weight, B_ = weight.view(last, *by_group[1:], chunk, 1), B[:last, :, :, None]
        after, rows = d_states[1 - first :][:last].view(-1, width, size), last * batch * heads
        torch.mul(B_, grouped_weight, out=scaled[:last])
        dx[:rows].baddbmm_(scaled[:last].view(-1, chunk, size), after.mT)
        torch.bmm(flat_x[:rows], after, out=product[:last].view(-1, chunk, size))
        d_weight = torch.mul(product[:last], B_, out=scaled[:last]).sum(dim=-1).view(weight.shape)
        dB[:last] += product[:last].mul_(grouped_weight).sum(dim=3)
        ddt[:last].addcmul_(d_weight, to_end)
        # The exponent of token j is total - log_decay[j]; the last token's is 0 whatever the decay.
        into = d_weight.mul_(weight)
        d_log[:last, ..., :-1] -= into[..., :-1]
        d_log[:last, ..., -1] += into[..., :-1].sum(dim=-1)
    if first < last:
        # The exponent `total` also takes the state before the chunk through it: through <S[k], dS[k+1]>. This follows
        # from sums at hand, for <S, dS> grows from chunk to chunk by what tokens add to S less what they read of it.
        added, removed = into.sum(dim=-1), out[: last - first].sum(dim=-1)
        start = (states[0] * d_states[0]).sum(dim=(-1, -2)) if has_initial_state else added[0]
        added = added[first:]
        d_log[first:last, ..., -1] += torch.cumsum(added - removed, dim=0).add_(start).sub_(added)

    d_exponent = d_log.flip(-1).cumsum(dim=-1).flip(-1)  # of dt A at each token, of which log_decay is the sum
    return Gradients(
        x=dx.view(x.shape),
        dt=ddt.addcmul_(d_exponent, A[:, None]),
        A=(d_exponent * dt).sum(dim=(0, 1, 3)),
        B=dB,
        C=dC,
        D=dD,
        initial_state=d_states[0] if has_initial_state else None,
    )


def _exp(log_decay: Tensor) -> Tensor:
    return log_decay.clamp(min=lowest_exponent(log_decay.dtype)).exp_()


def _decay_to_end(log_decay: Tensor) -> Tensor:
    """From each token to the end of its chunk."""
    return _exp(log_decay[..., -1:] - log_decay)


def _decay_from_start(log_decay: Tensor, by_group: tuple[int, ...]) -> Tensor:
    """From the state before the chunk to each token, [c, B, G, H/G, Q, 1]."""
    return _exp(log_decay).view(-1, *by_group[1:], log_decay.shape[-1], 1)


def _scratch(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The memory of `tensor`, no longer needed, in another shape; new memory where it is too small."""
    flat, needed = tensor.view(-1), torch.Size(shape).numel()
    return flat[:needed].view(shape) if len(flat) >= needed else tensor.new_empty(shape)
