"""SSD in chunks: matrix products inside a chunk, a short loop that carries the state from chunk to chunk.

The gradient is written by hand (`_chunks.py`; derivation in the README), because what automatic differentiation would
keep and read again costs more time than the arithmetic.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lengthwise.errors import InputError
from lengthwise.native import Backend, usable
from lengthwise.ops.checks import check_chunk_size, check_shapes
from lengthwise.ops.padding import Padding, check_lengths, emptied
from lengthwise.ops.ssd._chunks import Saved, chunk_backward, chunk_forward, from_chunks, to_chunks
from lengthwise.ops.ssd.native import library, ssd_native
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
    backend: Backend = "auto",
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
        chunk_size: tokens a chunk; changes speed and rounding, not the result. The native form takes 256 at most.
        backend: "native" for the kernel in C (CPU, float32 and narrower), "torch", or "auto" for the former where it
            can run.

    All arithmetic is in float32 or wider, whatever the dtype of the inputs, under autocast as well. The gradient cannot
    be differentiated again.

    Returns:
        ``y`` in the dtype of `x`, and the final state in float32 or wider. Gradients flow into every input,
        `initial_state` included, and out of both results. Outputs at padding have no meaning.

    Raises:
        InputError: where a shape, a length or the chunk size does not fit, or the backend cannot run.
    """
    batch, time, heads, width = x.shape
    state_size = B.shape[3]
    _check(x, dt, A, B, C, D, initial_state, chunk_size)
    exact = torch.promote_types(x.dtype, torch.float32)
    dt = dt.to(exact)
    if lengths is not None:
        check_lengths(lengths, batch, time, padding)
        x, dt, B, C = emptied(lengths, padding, x, dt, B, C)
    if batch == 0 or time == 0:
        empty = x.new_zeros(batch, heads, width, state_size, dtype=exact)
        return x, empty if initial_state is None else initial_state.to(exact)

    A = A.to(exact)
    D = None if D is None else D.to(exact)
    initial_state = None if initial_state is None else initial_state.to(exact)
    if usable(backend, x.device, exact, library):
        return ssd_native(x, dt, A, B, C, D, initial_state, chunk_size)
    chunk = min(chunk_size, time)
    whole = time - time % chunk
    y, state = _Chunked.apply(x[:, :whole], dt[:, :whole], A, B[:, :whole], C[:, :whole], D, initial_state, chunk)  # type: ignore[no-untyped-call]
    if whole < time:  # the rest is a chunk of its own
        rest, state = _Chunked.apply(  # type: ignore[no-untyped-call]
            x[:, whole:], dt[:, whole:], A, B[:, whole:], C[:, whole:], D, state, time - whole
        )
        y = torch.cat([y, rest], dim=1)
    return y, state


class _Chunked(torch.autograd.Function):
    """`chunk_forward` and `chunk_backward` as one node of the graph; T is a multiple of `chunk`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        initial_state: Tensor | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        save = any(ctx.needs_input_grad)
        inputs = [to_chunks(tensor, chunk, dt.dtype) for tensor in (x, dt, B, C)]
        x_, dt_, B_, C_ = inputs
        with torch.autocast(x.device.type, enabled=False):
            y, final_state, saved = chunk_forward(x_, dt_, A, B_, C_, D, initial_state, save)
        if saved is not None:
            ctx.save_for_backward(A, D, *inputs, *saved)
            ctx.has_initial_state, ctx.dtypes = initial_state is not None, (x.dtype, B.dtype, C.dtype)
            ctx.set_materialize_grads(False)
        return from_chunks(y).to(x.dtype), final_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        A, D, x, dt, B, C, *saved = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else to_chunks(dy, x.shape[3], x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            grads = chunk_backward(dy, d_final, x, dt, A, B, C, D, ctx.has_initial_state, Saved(*saved))
        dtype_x, dtype_B, dtype_C = ctx.dtypes
        return (
            from_chunks(grads.x).to(dtype_x),
            from_chunks(grads.dt),
            grads.A,
            from_chunks(grads.B).to(dtype_B),
            from_chunks(grads.C).to(dtype_C),
            grads.D,
            grads.initial_state,
            None,
        )


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> None:
    batch, time, heads, width = x.shape
    groups, state_size = B.shape[2:]
    wanted = {
        "dt": (dt, (batch, time, heads)),
        "A": (A, (heads,)),
        "B": (B, (batch, time, groups, state_size)),
        "C": (C, (batch, time, groups, state_size)),
        "D": (D, (heads,)),
        "initial_state": (initial_state, (batch, heads, width, state_size)),
    }
    check_shapes("ssd", wanted, x=x)
    if heads % groups:
        raise InputError(
            expected="a number of heads that the groups divide",
            got=f"{heads} heads and {groups} groups",
            where="ssd",
            fix="change ngroups or the number of heads",
        )
    check_chunk_size("ssd", chunk_size, DEFAULT_CHUNK_SIZE)
