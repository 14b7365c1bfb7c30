"""Comparison of tensors for all tests, and the forms an op comes in."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lengthwise.native import resolve_backend
from lengthwise.runs import RunFolder, write_failure

# An op's forms by the name of a test: in float64 to the last bits, in float32 by torch and by the kernel in C.
FORMS = {
    "float64": (torch.float64, "torch"),
    "float32": (torch.float32, "torch"),
    "native": (torch.float32, "native"),
}


def need_form(backend: str) -> None:
    """Skip where the form cannot run."""
    if backend == "native" and resolve_backend("auto", torch.device("cpu")) == "torch":
        pytest.skip("no C compiler on this machine, or LENGTHWISE_BACKEND=torch")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """That many threads, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def relative_rms(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference as a share of the root mean square of what was expected."""
    difference = (actual.detach().double() - expected.detach().double()).square().mean().sqrt()
    scale = expected.detach().double().square().mean().sqrt()
    return float(difference / scale) if scale > 0 else float(difference)


def assert_close(name: str, actual: torch.Tensor, expected: torch.Tensor, rel_rms: float) -> None:
    """Assert equal shapes, no NaN or infinity on either side, and a relative RMS error of at most `rel_rms`."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    assert torch.isfinite(expected).all(), f"{name}: the expected values are not finite"
    assert torch.isfinite(actual).all(), f"{name}: {int((~torch.isfinite(actual)).sum())} values are not finite"
    error = relative_rms(actual, expected)
    assert error <= rel_rms, f"{name}: relative RMS error {error:.3g} above {rel_rms:.3g}"


def fill_disk(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The device is full from the line `at` of metrics or samples on, counted from 0: nothing more can be written."""
    count = 0
    whole = RunFolder._append

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def append(self: RunFolder, name: str, record: dict[str, Any]) -> None:
        nonlocal count
        if count >= at:
            monkeypatch.setattr(os, "fsync", full)
            raise write_failure(OSError(errno.ENOSPC, "No space left on device"), self.path / name, 100)
        count += 1
        whole(self, name, record)

    monkeypatch.setattr(RunFolder, "_append", append)
