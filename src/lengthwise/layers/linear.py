"""Linear layers with products in C where these are faster than torch's own.

On x86 the products of `linear.c`, in float32, run near the peak of a core. torch leaves them to a library that does so
on some processors and stays a sixth below on others. Products in bfloat16, products of few rows and other processors
are torch's, and so is the gradient of the weight.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from lengthwise.native import Backend, Team, load, team, usable
from lengthwise.shapes import Float, Tensor

FEWEST_ROWS = 64
"""Below this, laying out the weight costs more than a faster product gains."""


def linear(
    x: Float[Tensor, "... K"],
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None = None,
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "... N"]:
    """``x W^T + bias``, by torch or in C; results agree up to rounding.

    In C the gradient cannot be differentiated again.
    """
    if _runs_native(x, weight, bias, backend):
        y: Tensor = _NativeLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` whose product is `linear`."""

    backend: Backend = "auto"
    """Which form of the product runs; see `lengthwise.native`."""

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        return linear(x, self.weight, self.bias, backend=self.backend)


def _runs_native(x: Tensor, weight: Tensor, bias: Tensor | None, backend: Backend) -> bool:
    exact = all(tensor is None or tensor.dtype == torch.float32 for tensor in (x, weight, bias))
    return (
        exact
        and x.numel() >= FEWEST_ROWS * x.shape[-1] > 0
        and not torch.is_autocast_enabled("cpu")
        and platform.machine() in ("x86_64", "AMD64")
        and usable(backend, x.device, x.dtype, _library)
    )


class _Job(ctypes.Structure):
    """`linear_job` of `linear.c`."""

    _fields_ = (
        ("by", Team),
        *((name, ctypes.c_int64) for name in ("rows", "depth", "columns")),
        ("left", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("left_row", "left_column")),
        ("right", ctypes.c_void_p),
        ("turned", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("bias", "result", "panels")),
    )


@cache
def _library() -> ctypes.CDLL | None:
    job = ctypes.POINTER(_Job)
    return load(
        Path(__file__).with_name("linear.c"),
        {"linear_sizes": [job, ctypes.POINTER(ctypes.c_int64)], "linear_product": [job]},
    )


def _product(left: Tensor, right: Tensor, *, turned: bool = False, bias: Tensor | None = None) -> Tensor:
    """``left @ right + bias``, or with ``right.T`` where turned; `left` with any strides, `right` contiguous."""
    columns = right.shape[0 if turned else 1]
    result = torch.empty(left.shape[0], columns, dtype=torch.float32)
    job = _Job(
        by=team(),
        rows=left.shape[0],
        depth=left.shape[1],
        columns=columns,
        left=left.data_ptr(),
        left_row=left.stride(0),
        left_column=left.stride(1),
        right=right.data_ptr(),
        turned=turned,
        bias=None if bias is None else bias.data_ptr(),
        result=result.data_ptr(),
    )
    library, sizes = _library(), (ctypes.c_int64 * 1)()
    assert library is not None, "the caller checks for a compiler"
    library.linear_sizes(job, sizes)
    panels = torch.empty(sizes[0], dtype=torch.float32)
    job.panels = panels.data_ptr()
    library.linear_product(job)
    return result


class _NativeLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(flat, weight)
            ctx.shape = x.shape
        y = _product(flat, weight.contiguous(), turned=True, bias=None if bias is None else bias.contiguous())
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = dy.reshape(-1, dy.shape[-1])
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(flat, weight.contiguous()).view(ctx.shape) if for_x else None,
            flat.t() @ x if for_weight else None,  # here the library is as fast
            flat.sum(dim=0) if for_bias else None,
        )
