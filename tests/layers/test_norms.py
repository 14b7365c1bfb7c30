"""The norms against their definitions, differentiated automatically."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import FORMS, assert_close, need_form, threads

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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12), (200, 96)])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_values_and_gradients(gated, shape, groups, form):
    dtype, backend = FORMS[form]
    need_form(backend)
    width = shape[-1]
    inputs = [normal(*shape, seed=1), *([normal(*shape, seed=2)] if gated else []), normal(width, seed=3)]
    theirs = defined_gated if gated else defined
    ours = gated_rms_norm if gated else partial(rms_norm, backend=backend)
    expected = run(lambda *a: theirs(*a, groups), inputs, torch.float64)
    actual = run(lambda *a: ours(*a, EPS, groups), inputs, dtype)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_close("output" if index == 0 else f"gradient of argument {index}", a, e, TOLERANCE[dtype])


def test_the_number_of_threads_changes_no_bit():
    need_form("native")
    inputs = [normal(700, 100, seed=1), normal(100, seed=3)]
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(run(lambda *a: rms_norm(*a, EPS, 2, backend="native"), inputs, torch.float32))
    for results in found[1:]:
        for a, b in zip(results, found[0], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_gradcheck(gated):
    inputs = [normal(2, 6, seed=seed).requires_grad_() for seed in range(1 + gated)]
    weight = normal(6, seed=9).requires_grad_()
    function = gated_rms_norm if gated else rms_norm
    assert torch.autograd.gradcheck(lambda *a: function(*a, EPS, 2), (*inputs, weight))


@pytest.mark.parametrize("form", ["float64", "native"])
def test_strided_inputs(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    wide, weight = normal(4, 20, seed=1).to(dtype), normal(10, seed=2).to(dtype)
    whole = rms_norm(wide[:, :10].contiguous(), weight, EPS, backend=backend)
    assert torch.equal(rms_norm(wide[:, :10], weight, EPS, backend=backend), whole)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_bfloat16_is_rounded_once(backend):
    need_form(backend)
    x, weight = normal(3, 64, seed=1).bfloat16(), normal(64, seed=2).bfloat16()
    actual = rms_norm(x, weight, EPS, backend=backend)
    assert actual.dtype == torch.bfloat16
    assert_close("output", actual, defined(x.double(), weight.double(), 1), 2**-9)


def test_zero_input_has_finite_gradient():
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    rms_norm(x, torch.ones(4, dtype=torch.float64), EPS).sum().backward()
    assert_close("gradient", x.grad, torch.full((2, 4), EPS**-0.5, dtype=torch.float64), 1e-12)
