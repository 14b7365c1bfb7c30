"""Which form of an op runs: an explicit choice, never a function of the length of the text."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Literal

import torch

from lengthwise.errors import InputError
from lengthwise.native.compiler import compiler

Backend = Literal["auto", "torch", "native"]

_VARIABLE = "LENGTHWISE_BACKEND"


def resolve_backend(
    requested: Backend, device: torch.device, dtype: torch.dtype = torch.float32
) -> Literal["torch", "native"]:
    """The form that will run.

    Args:
        requested: "auto" takes the kernels in C where they can run (a CPU, numbers of float32 or narrower, a C
            compiler), unless the environment variable LENGTHWISE_BACKEND names a form; the others insist.
        device: of the inputs.
        dtype: of the inputs; float64 is always computed by torch.

    Raises:
        InputError: where the form asked for cannot run.
    """
    insisted = requested if requested != "auto" else os.environ.get(_VARIABLE, "auto")
    if insisted not in ("auto", "torch", "native"):
        raise InputError(
            expected="auto, torch or native",
            got=repr(insisted),
            where=_VARIABLE if requested == "auto" else "backend",
            fix="use one of these",
        )
    if insisted == "torch":
        return "torch"
    obstacle = None
    if device.type != "cpu":
        obstacle = f"tensors on {device.type}"
    elif dtype == torch.float64:
        obstacle = "float64 numbers"
    elif compiler() is None:
        obstacle = "no C compiler that makes code for this machine"
    if obstacle is None:
        return "native"
    if requested == "native":
        raise InputError(
            expected="a CPU, float32 or bfloat16 numbers and a C compiler for the native backend",
            got=obstacle,
            where="backend",
            fix="install gcc or clang, or use backend auto or torch",
        )
    return "torch"


def usable(
    requested: Backend, device: torch.device, dtype: torch.dtype, library: Callable[[], ctypes.CDLL | None]
) -> bool:
    """Whether a kernel in C does the work; torch does it otherwise.

    Args:
        requested, device, dtype: see `resolve_backend`.
        library: gives the compiled kernel, None where its file does not compile; asked only where one could run.

    Raises:
        InputError: where "native" was asked for and cannot run.
    """
    if resolve_backend(requested, device, dtype) != "native":
        return False
    if library() is not None:
        return True
    if requested == "native":
        raise InputError(
            expected="a kernel that compiles, for the native backend",
            got="a C compiler that fails for it",
            where=f"backend, {library.__module__}",
            fix="see the warning with the compiler's words, or use backend auto or torch",
        )
    return False
