"""The form in C (`native.c`), for float32 on a CPU: the recurrence itself, one head of one row after the other."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lengthwise.native import load, parallel
from lengthwise.ops._vector_decay.halving import Gradients
from lengthwise.shapes import Tensor

_INT, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_SIZES = [_INT, _INT, _INT, _INT, _INT, _INT, _FLOAT]  # begin, end, T, H, K, V, scale


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, None where they cannot be had."""
    functions: dict[str, list[Any]] = {
        "vector_decay_sizes": [_INT, _INT, _POINTER],
        "vector_decay_forward": [*_SIZES, *[_POINTER] * 10],
        "vector_decay_backward": [*_SIZES, *[_POINTER] * 15],
    }
    return load(Path(__file__).with_name("native.c"), functions)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    u: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs [B, T, H, V], final state [B, H, K, V] and, if `save`, the states that `backward` starts from.

    Inputs are float32 in the layout of the operation.
    """
    q, k, v, log_decay = (tensor.contiguous() for tensor in (q, k, v, log_decay))
    u = None if u is None else u.contiguous()
    initial_state = None if initial_state is None else initial_state.contiguous()
    batch, time, heads, keys = q.shape
    values = v.shape[-1]
    scratch_size, segment = _sizes(keys, values)
    y, final = torch.empty_like(v), v.new_empty(batch, heads, keys, values)
    kept = v.new_empty(batch, heads, -(-time // segment), keys, values) if save else None
    tensors = (q, k, v, log_decay, u, initial_state, y, final, kept)
    _call("vector_decay_forward", tensors, scratch_size, (time, heads, keys, values), scale, batch * heads)
    return y, final, kept


def backward(
    dy: Tensor,
    d_final: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    u: Tensor | None,
    kept: Tensor,
    scale: float,
) -> Gradients:
    """Gradients of all inputs, given those of the outputs and of the final state (None for zero)."""
    dy, q, k, v, log_decay = (tensor.contiguous() for tensor in (dy, q, k, v, log_decay))
    u = None if u is None else u.contiguous()
    d_final = None if d_final is None else d_final.contiguous()
    batch, time, heads, keys = q.shape
    values = v.shape[-1]
    scratch_size, _ = _sizes(keys, values)
    dq, dk, dv, d_log_decay = (torch.empty_like(tensor) for tensor in (q, k, v, log_decay))
    du = None if u is None else q.new_empty(batch, heads, keys)
    d_initial = v.new_empty(batch, heads, keys, values)
    tensors = (q, k, v, log_decay, u, kept, dy, d_final, dq, dk, dv, d_log_decay, du, d_initial)
    _call("vector_decay_backward", tensors, scratch_size, (time, heads, keys, values), scale, batch * heads)
    return Gradients(dq, dk, dv, d_log_decay, None if du is None else du.sum(dim=0), d_initial)


@cache
def _sizes(keys: int, values: int) -> tuple[int, int]:
    """Floats of scratch memory a thread, and tokens a segment."""
    kernels, sizes = library(), (ctypes.c_int64 * 2)()
    assert kernels is not None
    kernels.vector_decay_sizes(keys, values, ctypes.addressof(sizes))
    return sizes[0], sizes[1]


def _call(
    name: str,
    tensors: tuple[Tensor | None, ...],
    scratch_size: int,
    sizes: tuple[int, int, int, int],
    scale: float,
    count: int,
) -> None:
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    function = getattr(library(), name)

    def task(begin: int, end: int) -> None:
        scratch = torch.empty(scratch_size)
        function(begin, end, *sizes, scale, *pointers, scratch.data_ptr())

    parallel(task, count)
