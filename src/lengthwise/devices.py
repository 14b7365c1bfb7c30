"""Where a model runs: the one place that turns a name into a device."""

from __future__ import annotations

import os

import torch

from lengthwise.errors import InputError


def choose_device(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N as a device; under torchrun, cuda is the GPU of this process's local rank.

    Raises InputError where it is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    problem = "no such device type"
    try:
        device = torch.device(name)
        if device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_available()):
            return device
        problem = "this machine or this build of torch has none"
    except RuntimeError:
        pass
    raise InputError(
        expected="device auto, cpu or cuda", got=f"{name!r} ({problem})", where="device", fix="use cpu or auto"
    )
