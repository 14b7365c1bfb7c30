"""Comparison of tensors for all tests."""

import torch


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
