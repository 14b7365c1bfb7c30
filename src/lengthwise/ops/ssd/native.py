"""Chunked SSD by the kernel in C (`native.c`), as one node of the graph, in float32."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lengthwise.native import Team, load, team
from lengthwise.shapes import Tensor

MAX_CHUNK = 256
"""Larger chunks are cut to this: a chunk's matrices, pairs of its tokens, shall stay in the cache of a core."""
PIECES = 8
"""A batch of fewer rows and groups than this is cut further, along heads, so that threads can share it."""

_FLOATS = (torch.float32, torch.bfloat16)


class _Stream(ctypes.Structure):
    """`stream` of `native.c`."""

    _fields_ = (("at", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "time", "half")))


class _Job(ctypes.Structure):
    """`ssd_job` of `native.c`."""

    _fields_ = (
        ("by", Team),
        *((n, ctypes.c_int64) for n in ("batch", "time", "heads", "width", "groups", "size", "chunk", "parts")),
        *((name, _Stream) for name in ("x", "B", "C")),
        *((name, ctypes.c_void_p) for name in ("dt", "A", "D", "initial")),
        ("y", _Stream),
        *((name, ctypes.c_void_p) for name in ("final", "states")),
        *((name, _Stream) for name in ("dy", "dx")),
        *((name, ctypes.c_void_p) for name in ("d_final", "d_dt", "d_initial", "dA", "dD", "dB", "dC", "scratch")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, compiled when first asked for; None where they cannot be."""
    job = ctypes.POINTER(_Job)
    return load(
        Path(__file__).with_name("native.c"),
        {
            "ssd_sizes": [job, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)],
            "ssd_forward": [job],
            "ssd_backward_all": [job],
        },
    )


def ssd_native(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """As `ssd` for T >= 1; dt, A, D and the state in float32."""
    x_, B_, C_ = (tensor if tensor.dtype in _FLOATS else tensor.float() for tensor in (x, B, C))
    y, final = _Native.apply(x_, dt, A, B_, C_, D, initial_state, min(chunk_size, MAX_CHUNK))  # type: ignore[no-untyped-call]
    return y.to(x.dtype), final


class _Native(torch.autograd.Function):
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
        x, B, C = (_packed(tensor) for tensor in (x, B, C))
        dt, A = dt.contiguous(), A.contiguous()
        D, initial_state = (None if tensor is None else tensor.contiguous() for tensor in (D, initial_state))
        job = _describe(x, dt, A, B, C, D, initial_state, chunk)
        scratch, row = _sizes(job, backward=False)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        final = _floats(job.batch, job.heads, job.width, job.size)
        room = _floats(scratch)
        job.y, job.final, job.scratch = _stream(y), final.data_ptr(), room.data_ptr()
        if any(ctx.needs_input_grad):
            before = -(-job.time // job.chunk) - (initial_state is None)
            states = _floats(job.batch, before, job.heads, job.size, row)
            job.states = states.data_ptr()
            ctx.save_for_backward(x, dt, A, B, C, D, states)
            ctx.chunk, ctx.has_initial_state = chunk, initial_state is not None
            ctx.set_materialize_grads(False)
        _compiled().ssd_forward(job)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, states = ctx.saved_tensors
        dy = torch.zeros(x.shape, dtype=x.dtype) if dy is None else _packed(dy)
        d_final = None if d_final is None else d_final.contiguous()
        job = _describe(x, dt, A, B, C, D, states if ctx.has_initial_state else None, ctx.chunk)
        scratch, _ = _sizes(job, backward=True)
        dx, d_dt = torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(dt)
        state_shape = (job.batch, job.heads, job.width, job.size)
        d_initial = _floats(*state_shape) if ctx.has_initial_state else None
        dA, dD = (_floats(job.batch, job.heads) for _ in range(2))
        dB, dC = (_floats(job.parts, job.batch, job.time, job.groups, job.size) for _ in range(2))
        room = _floats(scratch)
        job.states, job.dy, job.dx, job.scratch = states.data_ptr(), _stream(dy), _stream(dx), room.data_ptr()
        job.d_final = None if d_final is None else d_final.data_ptr()
        job.d_initial = None if d_initial is None else d_initial.data_ptr()
        job.d_dt, job.dA, job.dD, job.dB, job.dC = (t.data_ptr() for t in (d_dt, dA, dD, dB, dC))
        _compiled().ssd_backward_all(job)
        d_skip = None if D is None else dD[0]
        return dx, d_dt, dA[0], dB[0].to(B.dtype), dC[0].to(C.dtype), d_skip, d_initial, None


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


def _packed(tensor: Tensor) -> Tensor:
    """[B, T, X, Y] with the last two dimensions contiguous, as they are in a slice of a larger last one."""
    fits = tensor.stride(3) == 1 and tensor.stride(2) == tensor.shape[3]
    return tensor if fits else tensor.contiguous()


def _stream(tensor: Tensor) -> _Stream:
    return _Stream(tensor.data_ptr(), tensor.stride(0), tensor.stride(1), tensor.dtype == torch.bfloat16)


def _describe(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None, chunk: int
) -> _Job:
    """A job without results and scratch. It points to the tensors and does not keep them alive."""
    batch, time, heads, width = x.shape
    groups, size = B.shape[2:]
    by = team()
    if x.numel() < 1 << 13:  # threads would cost more than they save
        by.threads = 1
    return _Job(
        by=by,
        batch=batch,
        time=time,
        heads=heads,
        width=width,
        groups=groups,
        size=size,
        chunk=min(chunk, time),
        parts=max(1, min(heads // groups, PIECES // (batch * groups))),
        x=_stream(x),
        B=_stream(B),
        C=_stream(C),
        dt=dt.data_ptr(),
        A=A.data_ptr(),
        D=None if D is None else D.data_ptr(),
        initial=None if initial_state is None else initial_state.data_ptr(),
    )


def _sizes(job: _Job, *, backward: bool) -> tuple[int, int]:
    """Numbers of scratch, and of one row of a kept state."""
    sizes = (ctypes.c_int64 * 2)()
    _compiled().ssd_sizes(job, backward, sizes)
    return sizes[0], sizes[1]


def _compiled() -> ctypes.CDLL:
    compiled = library()
    assert compiled is not None, "the caller checks for a compiler"
    return compiled
