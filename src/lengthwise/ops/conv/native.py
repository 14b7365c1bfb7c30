"""The causal convolution by the kernel in C (`native.c`), as one node of the graph, with sums in float32."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lengthwise.native import Team, load, team
from lengthwise.shapes import Tensor

_FLOATS = (torch.float32, torch.bfloat16)


class _Job(ctypes.Structure):
    """`conv_job` of `native.c`."""

    _fields_ = (
        ("by", Team),
        *((n, ctypes.c_int64) for n in ("batch", "time", "channels", "taps", "x_batch", "x_time", "half", "silu")),
        *((n, ctypes.c_void_p) for n in ("x", "state", "weight", "bias", "y", "dy", "dx", "d_state", "sums")),
        ("scratch", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, compiled when first asked for; None where they cannot be."""
    job = ctypes.POINTER(_Job)
    return load(
        Path(__file__).with_name("native.c"),
        {
            "conv_sizes": [job, ctypes.POINTER(ctypes.c_int64)],
            "conv_forward": [job],
            "conv_backward": [job],
        },
    )


def conv_native(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """The outputs of `causal_conv`, T >= 1."""
    given = x if x.dtype in _FLOATS else x.float()
    exact = (None if tensor is None else tensor.float() for tensor in (weight, bias, state))
    y: Tensor = _Native.apply(given, *exact, silu)  # type: ignore[no-untyped-call]
    return y.to(x.dtype)


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
        x = x if x.stride(2) == 1 else x.contiguous()
        taps = weight.t().contiguous()
        bias, state = (None if tensor is None else tensor.contiguous() for tensor in (bias, state))
        job, scratch, _ = _describe(x, taps, bias, state, silu)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        job.y = y.data_ptr()
        _compiled().conv_forward(job)
        del scratch  # held until here
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, taps, bias, state)
            ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, bias, state = ctx.saved_tensors
        dy = dy.contiguous()
        job, scratch, pieces = _describe(x, taps, bias, state, ctx.silu)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        d_state = None if state is None else torch.empty_like(state)
        sums = torch.empty(pieces, job.taps + 1, job.channels, dtype=torch.float32, device=x.device)
        job.dy, job.dx, job.sums = dy.data_ptr(), dx.data_ptr(), sums.data_ptr()
        job.d_state = None if d_state is None else d_state.data_ptr()
        _compiled().conv_backward(job)
        del scratch
        return dx, sums[0, :-1].t(), None if bias is None else sums[0, -1], d_state, None


def _describe(
    x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[_Job, Tensor, int]:
    """A job without results, its scratch, and the number of pieces of work."""
    by = team()
    if x.numel() < 1 << 15:  # threads would cost more than they save
        by.threads = 1
    job = _Job(
        by=by,
        batch=x.shape[0],
        time=x.shape[1],
        channels=x.shape[2],
        taps=taps.shape[0],
        x_batch=x.stride(0),
        x_time=x.stride(1),
        half=x.dtype == torch.bfloat16,
        silu=silu,
        x=x.data_ptr(),
        state=None if state is None else state.data_ptr(),
        weight=taps.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
    )
    sizes = (ctypes.c_int64 * 2)()
    _compiled().conv_sizes(job, sizes)
    scratch = torch.empty(sizes[0], dtype=torch.float32)
    job.scratch = scratch.data_ptr()
    return job, scratch, sizes[1]


def _compiled() -> ctypes.CDLL:
    compiled = library()
    assert compiled is not None, "the caller checks for a compiler"
    return compiled
