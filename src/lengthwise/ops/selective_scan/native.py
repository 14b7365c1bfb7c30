"""The selective scan in C (`native.c`), float32 on a CPU, as one node of the graph."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lengthwise.native import load, parallel
from lengthwise.shapes import Tensor

_GROUP, _TOGETHER, _LANES = 128, 4, 16  # as in native.c; the widest vector
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_SIZES = ("time", "channels", "states", "chunk", "padded_channels")
_STRIDED = ("x", "dt", "B", "C", "z")
_STRIDES = tuple(f"{name}_{which}" for name in _STRIDED for which in ("row", "step"))
_PLAIN = ("A", "D", "dt_bias", "initial", "real", "y", "final", "kept", "dy", "d_final")
_GRADIENTS = ("dx", "d_dt", "dz", "dA", "d_initial", "dD", "d_bias", "dB", "dC")


class _Scan(ctypes.Structure):
    """`Scan` in native.c."""

    _fields_ = (
        *((name, _INT) for name in _SIZES),
        *((name, _POINTER) for name in _STRIDED),
        *((name, _INT) for name in _STRIDES),
        *((name, _POINTER) for name in _PLAIN),
        ("dy_row", _INT),
        ("dy_step", _INT),
        *((name, _POINTER) for name in _GRADIENTS),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None where it cannot be made."""
    functions = {
        "scan_forward": [_INT, _INT, ctypes.POINTER(_Scan), _POINTER],
        "scan_backward": [_INT, _INT, ctypes.POINTER(_Scan), _INT, _POINTER],
    }
    return load(Path(__file__).with_name("native.c"), functions)


def native_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    dt_bias: Tensor | None,
    z: Tensor | None,
    real: Tensor,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` for float32 tensors on the CPU.

    Args:
        x, dt, A, B, C, D, initial_state, dt_bias, z: as of `selective_scan`, T at least 1.
        real: [B, 2], the first real token of each row and the one behind the last.
        chunk: tokens between the states that are kept.
        save: whether there will be a backward pass.
    """
    tensors = (x, dt, A, B, C, D, initial_state, dt_bias, z)
    return _Native.apply(*tensors, real, chunk, save)  # type: ignore[no-untyped-call]


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, real, chunk, save = arguments
        inputs = _laid_out(tensors)
        x, A = _given(inputs["x"]), _given(inputs["A"])
        (batch, time, channels), states = x.shape, A.shape[1]
        chunk = min(chunk, time)
        y, final = x.new_empty(batch, time, channels), x.new_empty(batch, channels, states)
        kept = None
        if save:
            kept = x.new_empty(batch, -(-time // chunk), states, -(-channels // _LANES) * _LANES)
            ctx.save_for_backward(*inputs.values(), real, kept)
            ctx.chunk = chunk
            ctx.set_materialize_grads(False)
        scan = _described(inputs, real, chunk, y=y, final=final, kept=kept)
        size = 2 * _GROUP * states + (5 + _TOGETHER) * chunk * _LANES
        code = library()
        assert code is not None

        def task(begin: int, end: int) -> None:
            scratch = x.new_empty(size)
            code.scan_forward(begin, end, scan, scratch.data_ptr())

        parallel(task, batch * -(-channels // _GROUP))
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        *saved, real, kept = ctx.saved_tensors
        inputs = dict(zip(_NAMES, saved, strict=True))
        x, A, z, chunk = inputs["x"], inputs["A"], inputs["z"], ctx.chunk
        (batch, time, channels), states, groups = x.shape, A.shape[1], -(-x.shape[2] // _GROUP)
        dy = x.new_zeros(1, 1, channels).expand(x.shape) if dy is None else _unit_stride(dy)
        out = {
            "dx": x.new_empty(batch, time, channels),
            "d_dt": x.new_empty(batch, time, channels),
            "dz": None if z is None else x.new_empty(batch, time, channels),
            "dA": x.new_empty(batch, channels, states),
            "d_initial": x.new_empty(batch, channels, states),
            "dD": x.new_empty(batch, channels),
            "d_bias": x.new_empty(batch, channels),
            "dB": x.new_empty(groups, batch, time, states),
            "dC": x.new_empty(groups, batch, time, states),
        }
        d_final = None if d_final is None else d_final.contiguous()
        scan = _described(inputs, real, chunk, kept=kept, dy=dy, d_final=d_final, **out)
        scan.dy_row, scan.dy_step = dy.stride(0), dy.stride(1)
        size = (3 * _GROUP + _LANES) * states + 2 * _GROUP + (2 * states + 10 + 2 * _TOGETHER) * chunk * _LANES
        code = library()
        assert code is not None

        def task(begin: int, end: int) -> None:
            scratch = x.new_empty(size)
            code.scan_backward(begin, end, scan, batch, scratch.data_ptr())

        parallel(task, batch * groups)
        return (
            out["dx"],
            out["d_dt"],
            out["dA"].sum(dim=0),
            out["dB"].sum(dim=0),
            out["dC"].sum(dim=0),
            None if inputs["D"] is None else out["dD"].sum(dim=0),
            None if inputs["initial"] is None else out["d_initial"],
            None if inputs["dt_bias"] is None else out["d_bias"].sum(dim=0),
            out["dz"],
            None,
            None,
            None,
        )


_NAMES = ("x", "dt", "A", "B", "C", "D", "initial", "dt_bias", "z")


def _laid_out(tensors: list[Tensor | None]) -> dict[str, Tensor | None]:
    """The inputs by name, as native.c wants them: neighbouring channels or states side by side, parameters packed."""
    return {
        name: None if tensor is None else _unit_stride(tensor) if name in _STRIDED else tensor.contiguous()
        for name, tensor in zip(_NAMES, tensors, strict=True)
    }


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _described(inputs: dict[str, Tensor | None], real: Tensor, chunk: int, **others: Tensor | None) -> _Scan:
    """The call in the form of native.c. It holds addresses, not tensors: the caller keeps these alive."""
    x, A = _given(inputs["x"]), _given(inputs["A"])
    channels = x.shape[2]
    scan = _Scan(x.shape[1], channels, A.shape[1], chunk, -(-channels // _LANES) * _LANES)
    for name, tensor in {**inputs, "real": real, **others}.items():
        setattr(scan, name, None if tensor is None else tensor.data_ptr())
        if tensor is not None and name in _STRIDED:
            setattr(scan, f"{name}_row", tensor.stride(0))
            setattr(scan, f"{name}_step", tensor.stride(1))
    return scan
