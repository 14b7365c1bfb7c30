"""The recurrence behind `gla` and `rwkv6` as one operation: checks, padding, the choice of the form, the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lengthwise.native import Backend, usable
from lengthwise.ops._vector_decay import native
from lengthwise.ops._vector_decay.halving import Saved, chunk_backward, chunk_forward, from_chunks, to_chunks
from lengthwise.ops.checks import check_chunk_size, check_shapes
from lengthwise.ops.padding import Padding, check_lengths, emptied
from lengthwise.shapes import Float, Int, Tensor

DEFAULT_CHUNK_SIZE = 64


def vector_decay(
    op: str,
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    u: Float[Tensor, "H K"] | None,
    initial_state: Float[Tensor, "B H K V"] | None,
    *,
    scale: float,
    lengths: Int[Tensor, " B"] | None,
    padding: Padding,
    chunk_size: int,
    backend: Backend,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """``S[t] = diag(exp(log_decay[t])) S[t-1] + k[t] v[t]^T``, read inclusively or exclusively.

    Without `u`, ``o[t] = scale S[t]^T q[t]``. With it, ``o[t] = scale (S[t-1]^T q[t] + (q[t] . u k[t]) v[t])``.
    See `gla` and `rwkv6` for the arguments; `op` is the name in messages.
    """
    batch, time, heads, keys = q.shape
    _check(op, q, k, v, log_decay, u, initial_state, chunk_size)
    exact = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.promote_types(v.dtype, torch.float32))
    exact = torch.promote_types(exact, log_decay.dtype)
    log_decay = log_decay.to(exact)
    u = None if u is None else u.to(exact)
    initial_state = None if initial_state is None else initial_state.to(exact)
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        q, k, v, log_decay = emptied(lengths, padding, q, k, v, log_decay)
    if batch == 0 or time == 0:
        empty = v.new_zeros(batch, heads, keys, v.shape[-1], dtype=exact)
        return v, empty if initial_state is None else initial_state
    if usable(backend, q.device, exact, native.library):
        return _Native.apply(q, k, v, log_decay, u, initial_state, scale)  # type: ignore[no-untyped-call]
    chunk = min(_power_of_two(chunk_size), _power_of_two(time))
    whole = time - time % chunk
    y, state = _Halving.apply(  # type: ignore[no-untyped-call]
        q[:, :whole], k[:, :whole], v[:, :whole], log_decay[:, :whole], u, initial_state, scale, chunk
    )
    if whole < time:  # the rest is a chunk of its own
        chunk = _power_of_two(time - whole)
        rest, state = _Halving.apply(  # type: ignore[no-untyped-call]
            q[:, whole:], k[:, whole:], v[:, whole:], log_decay[:, whole:], u, state, scale, chunk
        )
        y = torch.cat([y, rest], dim=1)
    return y, state


class _Halving(torch.autograd.Function):
    """The torch form as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        u: Tensor | None,
        initial_state: Tensor | None,
        scale: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        q_, k_, v_, log_decay_ = (to_chunks(tensor, chunk, log_decay.dtype) for tensor in (q, k, v, log_decay))
        with torch.autocast(q.device.type, enabled=False):
            y, saved = chunk_forward(q_.mul_(scale), k_, v_, log_decay_, u, initial_state)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q_, k_, v_, log_decay_, u, *saved)
            ctx.has_initial_state, ctx.scale, ctx.time = initial_state is not None, scale, q.shape[1]
            ctx.dtypes = (q.dtype, k.dtype, v.dtype)
            ctx.set_materialize_grads(False)
        return from_chunks(y, q.shape[1]).to(v.dtype), saved.states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, u, *saved = ctx.saved_tensors
        dy = torch.zeros_like(v) if dy is None else to_chunks(dy, v.shape[3], v.dtype)
        with torch.autocast(q.device.type, enabled=False):
            grads = chunk_backward(dy, d_final, q, k, v, log_decay, u, Saved(*saved))
        dtype_q, dtype_k, dtype_v = ctx.dtypes
        return (
            from_chunks(grads.q.mul_(ctx.scale), ctx.time).to(dtype_q),
            from_chunks(grads.k, ctx.time).to(dtype_k),
            from_chunks(grads.v, ctx.time).to(dtype_v),
            from_chunks(grads.log_decay, ctx.time),
            grads.u,
            grads.initial_state if ctx.has_initial_state else None,
            None,
            None,
        )


class _Native(torch.autograd.Function):
    """The form in C as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        u: Tensor | None,
        initial_state: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        save = any(ctx.needs_input_grad)
        y, final, kept = native.forward(q.float(), k.float(), v.float(), log_decay, u, initial_state, scale, save)
        if save:
            ctx.save_for_backward(q, k, v, log_decay, u, kept)
            ctx.has_initial_state, ctx.scale = initial_state is not None, scale
            ctx.set_materialize_grads(False)
        return y.to(v.dtype), final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, u, kept = ctx.saved_tensors
        dy = torch.zeros_like(v, dtype=log_decay.dtype) if dy is None else dy.float()
        grads = native.backward(dy, d_final, q.float(), k.float(), v.float(), log_decay, u, kept, ctx.scale)
        return (
            grads.q.to(q.dtype),
            grads.k.to(k.dtype),
            grads.v.to(v.dtype),
            grads.log_decay,
            grads.u,
            grads.initial_state if ctx.has_initial_state else None,
            None,
        )


def _power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _check(
    op: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    u: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> None:
    batch, time, heads, keys = q.shape
    wanted = {
        "k": (k, (batch, time, heads, keys)),
        "v": (v, (batch, time, heads, v.shape[-1])),
        "log_decay": (log_decay, (batch, time, heads, keys)),
        "u": (u, (heads, keys)),
        "initial_state": (initial_state, (batch, heads, keys, v.shape[-1])),
    }
    check_shapes(op, wanted, queries=q)
    check_chunk_size(op, chunk_size, DEFAULT_CHUNK_SIZE)
