"""The torch form: chunks cut into halves again and again, forward and backward; the README derives it.

Every decay is a product of decays between 0 and 1, and every product is made of factors that are part of it. Nothing is
divided, and no difference of sums is taken, so that no size of a decay can overflow, vanish or cancel.

Layouts, private to this package: n chunks of C tokens, C a power of two, come before the rows, and heads before tokens.

    q, k, log_decay    [n, B, H, C, K]
    v, y               [n, B, H, C, V]
    u                  [H, K] or None
    states             [n + 1, B, H, K, V]: before each chunk, and after the last

Everything inside the chunks is done for a group of them at once, few enough to stay in cache from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from lengthwise.shapes import Tensor

# Tokens a group, all heads counted: the fastest of 512 to 16384 on one thread of a core with 1 MB of cache.
GROUP_TOKENS = 4096


class Gradients(NamedTuple):
    """What the backward half returns: the gradient of each input, in its layout."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    u: Tensor | None
    initial_state: Tensor


class Saved(NamedTuple):
    """What the forward half leaves for the backward half, besides its inputs."""

    states: Tensor
    read: Tensor
    """[n, B, H, C, K]: queries times the decay since the start of the chunk."""
    through: Tensor
    """[n, B, H, 1, K]: decay of each chunk as a whole."""


class Level(NamedTuple):
    """A block of 2 m tokens seen as two halves: later tokens read what earlier ones wrote. z blocks in all."""

    q: Tensor
    """[z, m, K]: queries of the later half, times the decay since the middle."""
    k: Tensor
    """[z, m, K]: keys of the earlier half, times the decay to the middle."""
    decay: Tensor
    """[z, 2, 1, K]: of each half as a whole."""


def to_chunks(tensor: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    """[B, T, H, X] copied to [n, B, H, C, X], zeros behind the last token."""
    batch, time, heads, width = tensor.shape
    chunks, rest = -(-time // chunk), time % chunk
    out = torch.empty(chunks, batch, heads, chunk, width, dtype=dtype, device=tensor.device)
    whole = time - rest
    view = tensor[:, :whole].unflatten(1, (-1, chunk)) if whole else tensor.new_empty(batch, 0, chunk, heads, width)
    out[: whole // chunk].copy_(view.permute(1, 0, 3, 2, 4))
    if rest:
        out[-1, :, :, :rest].copy_(tensor[:, whole:].transpose(1, 2))
        out[-1, :, :, rest:] = 0
    return out


def from_chunks(tensor: Tensor, time: int) -> Tensor:
    """[n, B, H, C, X] copied to [B, T, H, X]."""
    chunks, batch, heads, chunk, width = tensor.shape
    return tensor.permute(1, 0, 3, 2, 4).reshape(batch, chunks * chunk, heads, width)[:, :time]


def chunk_forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, u: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Saved]:
    """Outputs [n, B, H, C, V], and what the backward half needs. All tensors have one dtype."""
    chunks, batch, heads, chunk, keys = q.shape
    y, read, added = torch.empty_like(v), torch.empty_like(q), v.new_empty(chunks, batch, heads, keys, v.shape[-1])
    through = q.new_empty(chunks, batch, heads, 1, keys)
    for group in _groups(q):
        q_, k_, v_, y_, read_, decay = q[group], k[group], v[group], y[group], read[group], _decays(log_decay[group])
        torch.mul(v_, _own_weight(q_, k_, u), out=y_)
        if u is None:
            torch.mul(q_, decay, out=read_)
        else:
            read_.copy_(q_)
        written = k_.clone()
        through[group], _ = _halve(read_, written, decay, v_, y_)
        torch.matmul(written.mT, v_, out=added[group])
    states = _carry(added, through, initial_state)
    flat = y.view(-1, chunk, v.shape[-1])
    flat.baddbmm_(read.view(-1, chunk, keys), states[:-1].view(-1, keys, v.shape[-1]))
    return y, Saved(states, read, through)


def chunk_backward(
    dy: Tensor,
    d_final: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    u: Tensor | None,
    saved: Saved,
) -> Gradients:
    """Gradients of all inputs, given those of the outputs and of the final state (None for zero)."""
    # What each chunk read of the state before it, and the carry backwards.
    states, read, through = saved
    d_states = torch.empty_like(states)
    d_states[-1] = 0 if d_final is None else d_final
    torch.matmul(read.mT, dy, out=d_states[:-1])
    for c in reversed(range(len(q))):
        d_states[c].addcmul_(d_states[c + 1], through[c].mT)

    dq, dk, dv, d_log_decay = (torch.empty_like(tensor) for tensor in (q, k, v, log_decay))
    du = None if u is None else torch.zeros_like(u)
    for group in _groups(q):
        q_, k_, v_, dy_ = q[group], k[group], v[group], dy[group]
        before, d_after = states[:-1][group], d_states[1:][group]
        dq_, dk_, dv_ = dq[group], dk[group], dv[group]
        decay = _decays(log_decay[group])
        written = k_.clone()
        _, levels = _halve(q_ * decay if u is None else q_.clone(), written, decay)
        torch.matmul(dy_, before.mT, out=dq_)
        torch.matmul(v_, d_after.mT, out=dk_)
        torch.matmul(written, d_after, out=dv_)
        of_chunk = (before * d_after).sum(dim=-1).unsqueeze(-2).mul_(through[group])
        d_log = _halve_backward(dq_, dk_, dv_, of_chunk, v_, dy_, levels)
        if u is None:
            dq_ *= decay
            d_log.addcmul_(dq_, q_)
        d_log_decay[group] = d_log

        # Each token's own weight.
        dv_.addcmul_(dy_, _own_weight(q_, k_, u))
        d_own = (dy_ * v_).sum(dim=-1, keepdim=True)
        bonus = None if u is None else u[:, None]
        dq_.addcmul_(d_own, k_ if bonus is None else bonus * k_)
        dk_.addcmul_(d_own, q_ if bonus is None else bonus * q_)
        if du is not None:
            du += (d_own * q_ * k_).sum(dim=(0, 1, 3))
    return Gradients(dq, dk, dv, d_log_decay, du, d_states[0])


def _groups(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of chunks and rows that cover [n, B, ...]: some chunks of all rows, or one chunk of some rows."""
    chunks, batch, heads, chunk, _ = q.shape
    if q.device.type != "cpu":
        yield slice(0, chunks), slice(0, batch)
        return
    together = max(1, GROUP_TOKENS // (batch * heads * chunk))
    rows = batch if together > 1 else max(1, min(batch, GROUP_TOKENS // (heads * chunk)))
    for c in range(0, chunks, together):
        for b in range(0, batch, rows):
            yield slice(c, c + together), slice(b, b + rows)


def _halve(
    q: Tensor, k: Tensor, decay: Tensor, v: Tensor | None = None, y: Tensor | None = None
) -> tuple[Tensor, list[Level]]:
    """Build blocks of 2, 4, ... C tokens from their halves; afterwards the chunks are the blocks.

    Args:
        q: queries [..., C, K], times the token's own decay where that comes before the read-out; overwritten by the
            queries times the decay since the start of the chunk.
        k: keys, overwritten by the keys times the decay to the end of the chunk.
        decay: of each token.
        v, y: where given, what queries read of earlier tokens of the chunk is added to `y`.

    Returns:
        The decay of the chunks as a whole [..., 1, K], and, where no `y` is given, all levels.
    """
    shape, keys = decay.shape, decay.shape[-1]
    levels = []
    half = 1
    while half < shape[-2]:
        decays = decay.view(-1, 2, 1, keys)
        later, earlier = _halves(q, half)[:, 1], _halves(k, half)[:, 0]
        if v is not None and y is not None:
            _add_product(_halves(y, half)[:, 1], torch.bmm(later, earlier.mT), _halves(v, half)[:, 0])
        else:
            levels.append(Level(later.clone(), earlier.clone(), decays))
        _without_tiny(later * decays[:, 0], out=later)
        _without_tiny(earlier * decays[:, 1], out=earlier)
        decay = _without_tiny(decays[:, 0] * decays[:, 1])
        half *= 2
    return decay.view(*shape[:-2], 1, keys), levels


def _halve_backward(
    dq: Tensor, dk: Tensor, dv: Tensor, d_log: Tensor, v: Tensor, dy: Tensor, levels: list[Level]
) -> Tensor:
    """From the chunks down to the tokens.

    Args:
        dq, dk: gradients of the decayed queries and keys; overwritten by those of the inputs of `_halve`.
        dv: gradient of the values, added to.
        d_log: of the log decay of the chunks as a whole, [..., 1, K].
        v, dy, levels: values, gradient of the outputs, and what `_halve` returned.

    Returns:
        The gradient of the log decay of each token, [..., C, K].
    """
    shape = dq.shape
    for level in reversed(levels):
        half = level.q.shape[1]
        dq_, dk_, dv_, dy_, v_ = (_halves(tensor, half) for tensor in (dq, dk, dv, dy, v))
        dq_[:, 1] *= level.decay[:, 0]
        dk_[:, 0] *= level.decay[:, 1]
        d_log = d_log.view(-1, 1, shape[-1])
        first = d_log + (dq_[:, 1] * level.q).sum(dim=1, keepdim=True)
        second = d_log + (dk_[:, 0] * level.k).sum(dim=1, keepdim=True)
        d_log = torch.stack([first, second], dim=1)
        scores, d_scores = torch.bmm(level.q, level.k.mT), torch.bmm(dy_[:, 1], v_[:, 0].mT)
        _add_product(dq_[:, 1], d_scores, level.k)
        _add_product(dk_[:, 0], d_scores.mT, level.q)
        _add_product(dv_[:, 0], scores.mT, dy_[:, 1])
    return d_log.view(shape)


def _add_product(to: Tensor, scores: Tensor, rows: Tensor) -> None:
    """Add ``scores @ rows`` of many small matrices, [z, m, m] and [z, m, X]; torch is slow at the smallest."""
    if scores.shape[2] > 2:
        to += torch.bmm(scores, rows)
        return
    for j in range(scores.shape[2]):
        to.addcmul_(scores[:, :, j : j + 1], rows[:, j : j + 1])


def _halves(tensor: Tensor, half: int) -> Tensor:
    """[..., C, X] seen as [z, 2, half, X]."""
    return tensor.view(-1, 2, half, tensor.shape[-1])


def _own_weight(q: Tensor, k: Tensor, u: Tensor | None) -> Tensor:
    """How strongly a token reads its own value, [..., H, C, 1]."""
    return ((q if u is None else q * u[:, None]) * k).sum(dim=-1, keepdim=True)


def _carry(added: Tensor, through: Tensor, initial_state: Tensor | None) -> Tensor:
    """The states before each chunk and after the last, from what each chunk adds, [n, B, H, K, V]."""
    states = torch.empty(len(added) + 1, *added.shape[1:], dtype=added.dtype, device=added.device)
    states[0] = 0 if initial_state is None else initial_state
    for c in range(len(added)):
        torch.addcmul(added[c], states[c], through[c].mT, out=states[c + 1])
    return states


def _decays(log_decay: Tensor) -> Tensor:
    return _without_tiny(torch.exp(log_decay))


def _without_tiny(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Zero where x is below 1e-30 (in float32).

    It is nothing beside a rounding error, and numbers below 1e-38 are multiplied up to 200 times more slowly on a CPU.
    """
    least = torch.finfo(x.dtype).tiny ** 0.8
    return torch.hardshrink(x, least) if out is None else torch.hardshrink(x, least, out=out)
