"""The two halves of chunked SSD, forward and backward, as plain functions of tensors; the README derives them.

Both are bound by memory rather than by arithmetic, and are written for that: intermediate tensors are few, are written
in place and used again while they are still in cache, and what the heads of a group share is computed once.

Layouts, private to this file, with c chunks of Q tokens and r = H/G heads a group. Chunks come before batch rows, so
that the tensors of one chunk, and of all chunks but the first or the last, are contiguous.

    by head    [c, B, G, r, Q, P]    one small product a head, for the part inside a chunk
    by token   [c, B, G, Q, r, P]    one large product a group, for the part that goes through the state
    states     [c+1, B, G, r, P, N]  entry k is the state before chunk k
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lengthwise.shapes import Tensor


class Saved(NamedTuple):
    """What the forward half leaves for the backward half, besides its inputs."""

    log_decay: Tensor
    """[c, B, G, r, Q]: sum of dt A from the first token of the chunk to the token itself."""
    decay: Tensor
    """[c, B, G, r, Q, Q]: exp(log_decay[i] - log_decay[j]) for j <= i, 1 above the diagonal."""
    scores: Tensor
    """[c, B, G, 1, Q, Q]: C[i] . B[j] for j <= i, 0 above the diagonal."""
    states: Tensor
    """[c+1, B, G, r, P, N]."""
    B: Tensor
    """[c B G, Q, N], contiguous, in the dtype of the computation."""
    C: Tensor
    """[c B G, Q, N], likewise."""


class Gradients(NamedTuple):
    """What the backward half returns, each in the shape of the input of that name and the dtype of the computation."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    initial_state: Tensor


def chunk_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor, Saved | None]:
    """Outputs, final state and, if `save`, what the backward half needs.

    Shapes are those of `ssd`, with T a multiple of `chunk`. The dtype of `dt`, float32 or wider, is that of the
    computation and of the results; `A`, `D` and `initial_state` have it too.
    """
    batch, time, heads, width = x.shape
    groups, size = B.shape[2:]
    shared, chunks, exact = heads // groups, time // chunk, dt.dtype
    x_, dt_ = _by_head(x, chunk, groups), _by_head(dt, chunk, groups)
    B_, C_ = _by_group(B, chunk, exact), _by_group(C, chunk, exact)

    # A positive exponent (j > i) is made 0 before the exponential, so none can overflow; the scores are 0 there.
    # Results of elementwise operations inherit the strides of their inputs, hence `contiguous` and `out`.
    log_decay = torch.cumsum((dt_ * A.view(groups, shared, 1)).contiguous(), dim=-1)
    decay = log_decay[..., :, None] - log_decay[..., None, :]
    decay.clamp_(max=0).exp_()
    scores = torch.bmm(C_, B_.mT).tril_().view(chunks, batch, groups, 1, chunk, chunk)
    mixing = torch.mul(decay, scores, out=torch.empty_like(decay) if save else decay)
    entering = torch.mul(x_, dt_[..., None], out=torch.empty(x_.shape, dtype=exact, device=x.device))
    inside = torch.bmm(mixing.view(-1, chunk, chunk), entering.view(-1, chunk, width)).view(entering.shape)
    y = torch.empty(batch, time, heads, width, dtype=exact, device=x.device)
    y_ = _by_head(y, chunk, groups)
    if D is None:
        y_.copy_(inside)
    else:
        torch.addcmul(inside, x_, D.view(groups, shared, 1, 1), out=y_)

    # What each chunk adds to the state, then the carry from chunk to chunk.
    weight = torch.exp(log_decay[..., -1:] - log_decay).mul_(dt_)
    added = _token_view(entering)
    torch.mul(_swap(x_), _swap(weight[..., None]), out=added)
    states = torch.empty(chunks + 1, batch, groups, shared, width, size, dtype=exact, device=x.device)
    flat_states = states.view(chunks + 1, batch * groups, shared * width, size)
    torch.bmm(added.view(-1, chunk, shared * width).mT, B_, out=flat_states[1:].flatten(0, 1))
    first = _first_read(initial_state)
    if initial_state is None:
        states[0].zero_()
    else:
        states[0].copy_(initial_state.view(states[0].shape))
    through = log_decay[..., -1].exp()[..., None, None]
    for k in range(first, chunks):
        states[k + 1].addcmul_(states[k], through[k])

    if first < chunks:
        read = added[first:]
        before = flat_states[first:chunks].flatten(0, 1)
        torch.bmm(C_[first * batch * groups :], before.mT, out=read.view(-1, chunk, shared * width))
        y_[first:].addcmul_(_swap(read), log_decay[first:].exp()[..., None])

    final_state = states[chunks].reshape(batch, heads, width, size).clone()  # does not keep the others alive
    return y, final_state, Saved(log_decay, decay, scores, states, B_, C_) if save else None


def chunk_backward(
    dy: Tensor,
    d_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    D: Tensor | None,
    groups: int,
    has_initial_state: bool,
    saved: Saved,
) -> Gradients:
    """Gradients of all inputs, given those of the outputs and of the final state (None for zero)."""
    log_decay, decay, scores, states, B_, C_ = saved
    batch, time, heads, width = x.shape
    shared, exact = heads // groups, dt.dtype
    chunks, chunk, size = states.shape[0] - 1, log_decay.shape[-1], states.shape[-1]
    x_, dt_, dy_ = (_by_head(tensor, chunk, groups) for tensor in (x, dt, dy))

    # Inside the chunks. `pairs` becomes in turn the mixing matrix, its gradient, the latter times the decay, and times
    # the scores as well: then entry (i, j) is the gradient of the exponent log_decay[i] - log_decay[j].
    entering = torch.mul(x_, dt_[..., None], out=torch.empty(x_.shape, dtype=exact, device=x.device))
    d_inside = torch.empty_like(entering).copy_(dy_)
    pairs = decay * scores
    flat_pairs = pairs.view(-1, chunk, chunk)
    d_entering = torch.bmm(flat_pairs.mT, d_inside.view(-1, chunk, width)).view(entering.shape)
    torch.bmm(d_inside.view(-1, chunk, width), entering.view(-1, chunk, width).mT, out=flat_pairs)
    d_scores = pairs.mul_(decay).sum(dim=3).tril_().view(-1, chunk, chunk)
    dC = torch.bmm(d_scores, B_)
    dB = torch.bmm(d_scores.mT, C_)
    pairs.mul_(scores)
    # On the diagonal the exponent is 0 whatever dt is. Left in, it would cancel only up to rounding.
    pairs.diagonal(dim1=-2, dim2=-1).zero_()
    d_log = pairs.sum(dim=-1).sub_(pairs.sum(dim=-2))  # [c, B, G, r, Q]

    # Out of the states: y += exp(log_decay) C S, from chunk `first` on. From here the buffers of `entering` and
    # `d_inside` serve as scratch.
    first, rows = _first_read(states if has_initial_state else None), batch * groups
    scratch, scratch2 = _token_view(entering), _token_view(d_inside)
    flat_states = states.view(chunks + 1, rows, shared * width, size)
    d_states = torch.empty_like(flat_states)
    if first < chunks:
        scaled, read = scratch[first:], scratch2[first:]
        torch.mul(_swap(dy_[first:]), _swap(log_decay[first:].exp()[..., None]), out=scaled)
        before, flat_scaled = flat_states[first:chunks].flatten(0, 1), scaled.view(-1, chunk, shared * width)
        dC[first * rows :].baddbmm_(flat_scaled, before)
        torch.bmm(flat_scaled.mT, C_[first * rows :], out=d_states[first:chunks].flatten(0, 1))
        torch.bmm(C_[first * rows :], before.mT, out=read.view(-1, chunk, shared * width))
        d_log[first:] += read.mul_(scaled).sum(dim=-1).transpose(-1, -2)

    # The carry, backwards: d_states[k] is the gradient of the state before chunk k. That of the last is known to be
    # zero where nobody asked for the final state, so chunk `last` and its successors add to no state that matters.
    last = chunks if d_final is not None else chunks - 1
    if d_final is None:
        d_states[chunks].zero_()
    else:
        d_states[chunks].copy_(d_final.reshape(d_states[chunks].shape))
    through = log_decay[..., -1].exp().view(chunks, rows, shared, 1, 1)
    by_row = d_states.view(chunks + 1, rows, shared, width, size)
    for k in range(min(last, chunks - 1), first - 1, -1):
        by_row[k].addcmul_(by_row[k + 1], through[k])

    # Into the states: S += (x dt exp(total - log_decay))^T B, up to chunk `last`.
    if last > 0:
        to_end = torch.exp(log_decay[:last, ..., -1:] - log_decay[:last])
        d_after = d_states[1 : last + 1].flatten(0, 1)
        d_added, added = scratch2[:last], scratch[:last]
        torch.bmm(B_[: last * rows], d_after.mT, out=d_added.view(-1, chunk, shared * width))
        torch.mul(_swap(x_[:last]), _swap((to_end * dt_[:last])[..., None]), out=added)
        dB[: last * rows].baddbmm_(added.view(-1, chunk, shared * width), d_after)
        d_entering[:last].addcmul_(_swap(d_added), to_end[..., None])
        # The exponent of token j is total - log_decay[j]; the last token's is 0 whatever dt is.
        d_to_end = added.mul_(d_added).sum(dim=-1).transpose(-1, -2)[..., :-1]
        d_log[:last, ..., :-1] -= d_to_end
        d_log[:last, ..., -1] += d_to_end.sum(dim=-1)
    if first < last:
        # The exponent `total` also takes the state before the chunk through it.
        kept = torch.mul(flat_states[first:last], d_states[first + 1 : last + 1])
        kept = kept.view(last - first, batch, groups, shared, -1).sum(dim=-1)
        d_log[first:last, ..., -1].addcmul_(kept, log_decay[first:last, ..., -1].exp())

    d_exponent = d_log.flip(-1).cumsum(dim=-1).flip(-1)  # of dt A at each token, by the cumulative sum
    dA = (d_exponent * dt_).sum(dim=(0, 1, 4)).view(heads)
    dx = torch.empty(batch, time, heads, width, dtype=exact, device=x.device)
    torch.mul(d_entering, dt_[..., None], out=_by_head(dx, chunk, groups))
    ddt = d_entering.mul_(x_).sum(dim=-1).addcmul_(d_exponent, A.view(groups, shared, 1))
    dD = None
    if D is not None:
        dx.addcmul_(dy, D.view(heads, 1))
        dD = torch.mul(dy, x, out=scratch.view(dx.shape)).sum(dim=(0, 1, 3))
    return Gradients(
        x=dx,
        dt=ddt.permute(1, 0, 4, 2, 3).reshape(batch, time, heads),
        A=dA,
        B=dB.view(chunks, batch, groups, chunk, size).permute(1, 0, 3, 2, 4).reshape(batch, time, groups, size),
        C=dC.view(chunks, batch, groups, chunk, size).permute(1, 0, 3, 2, 4).reshape(batch, time, groups, size),
        D=dD,
        initial_state=d_states[0].view(batch, heads, width, size),
    )


def _first_read(initial_state: Tensor | None) -> int:
    """The first chunk whose entering state is not known to be zero."""
    return 1 if initial_state is None else 0


def _by_head(tensor: Tensor, chunk: int, groups: int) -> Tensor:
    """[B, T, H, ...] seen as [c, B, G, r, Q, ...]."""
    batch, time, heads = tensor.shape[:3]
    split = tensor.view(batch, time // chunk, chunk, groups, heads // groups, *tensor.shape[3:])
    return split.permute(1, 0, 3, 4, 2, *range(5, split.dim()))


def _by_group(tensor: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    """[B, T, G, N] copied to [c B G, Q, N]."""
    batch, time, groups, size = tensor.shape
    split = tensor.view(batch, time // chunk, chunk, groups, size).permute(1, 0, 3, 2, 4)
    return split.to(dtype, memory_format=torch.contiguous_format).reshape(-1, chunk, size)


def _token_view(by_head: Tensor) -> Tensor:
    """The memory of a contiguous by-head tensor as a by-token tensor; the values have no meaning."""
    chunks, batch, groups, shared, chunk, width = by_head.shape
    return by_head.view(chunks, batch, groups, chunk, shared, width)


def _swap(tensor: Tensor) -> Tensor:
    """By head seen as by token, or the reverse."""
    return tensor.transpose(3, 4)
