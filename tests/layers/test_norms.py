"""The norms against their definitions, differentiated automatically."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close

from lengthwise.layers.norms import gated_rms_norm, rms_norm

EPS = 1e-5
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def defined(x, weight, groups):
    parts = x.unflatten(-1, (groups, -1))
    return (parts / (parts.square().mean(dim=-1, keepdim=True) + EPS).sqrt()).flatten(-2) * weight


def defined_gated(y, z, weight, groups):
    return defined(y * F.silu(z), weight, groups)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(function, inputs, dtype):
    leaves = [tensor.to(dtype).detach().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    (out.double() * normal(*out.shape, seed=99)).sum().backward()
    return [out, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_values_and_gradients(gated, shape, groups, dtype):
    inputs = [normal(*shape, seed=1), *([normal(*shape, seed=2)] if gated else []), normal(12, seed=3)]
    ours, theirs = (gated_rms_norm, defined_gated) if gated else (rms_norm, defined)
    expected = run(lambda *a: theirs(*a, groups), inputs, torch.float64)
    actual = run(lambda *a: ours(*a, EPS, groups), inputs, dtype)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_close("output" if index == 0 else f"gradient of argument {index}", a, e, TOLERANCE[dtype])


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_gradcheck(gated):
    inputs = [normal(2, 6, seed=seed).requires_grad_() for seed in range(1 + gated)]
    weight = normal(6, seed=9).requires_grad_()
    function = gated_rms_norm if gated else rms_norm
    assert torch.autograd.gradcheck(lambda *a: function(*a, EPS, 2), (*inputs, weight))


def test_strided_inputs():
    wide = normal(4, 20, seed=1)
    weight = normal(10, seed=2)
    assert torch.equal(rms_norm(wide[:, :10], weight, EPS), rms_norm(wide[:, :10].contiguous(), weight, EPS))


def test_bfloat16_is_rounded_once():
    x, weight = normal(3, 64, seed=1).bfloat16(), normal(64, seed=2).bfloat16()
    actual = rms_norm(x, weight, EPS)
    assert actual.dtype == torch.bfloat16
    assert_close("output", actual, defined(x.double(), weight.double(), 1), 2**-9)


def test_zero_input_has_finite_gradient():
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    rms_norm(x, torch.ones(4, dtype=torch.float64), EPS).sum().backward()
    assert_close("gradient", x.grad, torch.full((2, 4), EPS**-0.5, dtype=torch.float64), 1e-12)
