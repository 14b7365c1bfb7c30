"""The kernel in C: its arguments as ctypes, and its two calls."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lengthwise.native import load, parallel
from lengthwise.shapes import Tensor

_SPAN = 64  # channels of a unit of work, as in native.c
_SMALL = 1 << 13  # numbers of a call that other threads would not make faster
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class _Grid(ctypes.Structure):
    _fields_ = [("data", _POINTER), ("row", _INT), ("token", _INT)]

    @classmethod
    def of(cls, tensor: Tensor) -> _Grid:
        return cls(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


class _Inputs(ctypes.Structure):
    _fields_ = [
        ("time", _INT),
        ("width", _INT),
        ("x", _Grid),
        ("input_gate", _Grid),
        ("recurrence_gate", _Grid),
        ("rate", _POINTER),
        ("initial", _POINTER),
        ("reset", _POINTER),
        ("lengths", _POINTER),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, None where it cannot be had."""
    return load(
        Path(__file__).with_name("native.c"),
        {
            "rglru_forward": [_INT, _INT, *[_POINTER] * 3],
            "rglru_backward": [_INT, _INT, *[_POINTER] * 9],
        },
    )


@dataclass(frozen=True)
class Inputs:
    """Tensors as the kernel reads them: float32, channels consecutive in memory."""

    x: Tensor
    input_gate: Tensor
    recurrence_gate: Tensor
    rate: Tensor
    initial_state: Tensor | None
    reset: Tensor | None
    lengths: Tensor | None

    @classmethod
    def of(
        cls,
        x: Tensor,
        input_gate: Tensor,
        recurrence_gate: Tensor,
        rate: Tensor,
        initial_state: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> Inputs:
        """Converted where needed."""
        return cls(
            x=_consecutive(x),
            input_gate=_consecutive(input_gate),
            recurrence_gate=_consecutive(recurrence_gate),
            rate=rate.contiguous(),
            initial_state=None if initial_state is None else initial_state.contiguous(),
            reset=None if reset is None else reset.contiguous(),
            lengths=None if lengths is None else lengths.to(torch.int64).contiguous(),
        )

    def record(self) -> _Inputs:
        """The same as a C structure; valid as long as the tensors live."""
        _, time, width = self.x.shape
        return _Inputs(
            time,
            width,
            _Grid.of(self.x),
            _Grid.of(self.input_gate),
            _Grid.of(self.recurrence_gate),
            self.rate.data_ptr(),
            _pointer(self.initial_state),
            _pointer(self.reset),
            _pointer(self.lengths),
        )


def forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The states [B, T, D] and the final one [B, D]."""
    batch, time, width = inputs.x.shape
    h, final_state = inputs.x.new_empty(batch, time, width), inputs.x.new_empty(batch, width)
    record = inputs.record()
    _run("rglru_forward", inputs, ctypes.byref(record), h.data_ptr(), final_state.data_ptr())
    return h, final_state


def backward(
    inputs: Inputs, h: Tensor, dy: Tensor | None, d_final: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the two gates, the rate and the initial state, all float32."""
    batch, time, width = inputs.x.shape
    dy = None if dy is None else _consecutive(dy)
    d_final = None if d_final is None else d_final.contiguous()
    dx, d_input_gate, d_recurrence_gate = (inputs.x.new_empty(batch, time, width) for _ in range(3))
    d_rate, d_initial = inputs.x.new_empty(batch, width), inputs.x.new_empty(batch, width)
    record, grid = inputs.record(), None if dy is None else _Grid.of(dy)
    _run(
        "rglru_backward",
        inputs,
        ctypes.byref(record),
        h.data_ptr(),
        None if grid is None else ctypes.byref(grid),
        _pointer(d_final),
        *(gradient.data_ptr() for gradient in (dx, d_input_gate, d_recurrence_gate, d_rate, d_initial)),
    )
    return dx, d_input_gate, d_recurrence_gate, d_rate.sum(dim=0), d_initial


def _run(name: str, inputs: Inputs, *arguments: Any) -> None:
    function = getattr(library(), name)
    batch, _, width = inputs.x.shape
    units = batch * -(-width // _SPAN)
    if inputs.x.numel() < _SMALL:
        function(0, units, *arguments)
    else:
        parallel(lambda begin, end: function(begin, end, *arguments), units)


def _consecutive(tensor: Tensor) -> Tensor:
    tensor = tensor.to(torch.float32)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
