"""The linear layer in C against torch in float64: values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close, need_form, threads

from lengthwise.layers.linear import Linear, linear

# Sums of up to 1100 terms in float32.
TOLERANCE = 2e-6


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(function, inputs, dtype):
    leaves = [None if tensor is None else tensor.to(dtype).detach().requires_grad_() for tensor in inputs]
    y = function(*leaves)
    (y.double() * normal(*y.shape, seed=99)).sum().backward()
    return [y, *(leaf.grad for leaf in leaves if leaf is not None)]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    ("shape", "columns"),
    [
        ((64, 1), 1),
        ((65, 7), 5),
        ((2, 50, 16), 16),
        ((96, 64), 64),
        ((193, 65), 129),
        ((70, 1100), 40),
        ((3, 33, 40), 250),
    ],
)
def test_values_and_gradients(shape, columns, bias):
    need_form("native")
    inputs = [normal(*shape, seed=1), normal(columns, shape[-1], seed=2), normal(columns, seed=3) if bias else None]
    expected = run(F.linear, inputs, torch.float64)
    actual = run(lambda *a: linear(*a, backend="native"), inputs, torch.float32)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_close("output" if index == 0 else f"gradient of argument {index}", a, e, TOLERANCE)


def test_the_number_of_threads_changes_no_bit():
    need_form("native")
    x, weight, bias = (
        tensor.float() for tensor in (normal(333, 70, seed=1), normal(90, 70, seed=2), normal(90, seed=3))
    )
    found = []
    for count in (1, 2, 3):
        with threads(count):
            leaf = x.clone().requires_grad_()
            y = linear(leaf, weight, bias, backend="native")
            found.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        assert torch.equal(other[1], found[0][1])


def test_strided_inputs():
    need_form("native")
    wide, weight = normal(100, 40, seed=1).float(), normal(40, 30, seed=2).float()
    actual = linear(wide[:, ::2], weight.t()[:, :20], backend="native")
    assert_close("y", actual, wide[:, ::2].double() @ weight.t()[:, :20].double().t(), TOLERANCE)


@pytest.mark.parametrize("rows", [0, 1, 63])
def test_few_rows_are_those_of_torch(rows):
    x, weight = normal(rows, 8, seed=1).float(), normal(6, 8, seed=2).float()
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_other_dtypes_and_autocast_are_those_of_torch():
    x, weight = normal(100, 8, seed=1), normal(6, 8, seed=2)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert torch.equal(linear(x.bfloat16(), weight.bfloat16()), F.linear(x.bfloat16(), weight.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = linear(x.float(), weight.float())
    assert y.dtype == torch.bfloat16


def test_the_layer_is_a_linear_layer():
    need_form("native")
    layer = Linear(8, 6)
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == {
        "weight": (6, 8),
        "bias": (6,),
    }
    x = normal(100, 8, seed=1).float()
    layer.backend = "torch"
    expected = layer(x)
    assert torch.equal(expected, F.linear(x, layer.weight, layer.bias))
    layer.backend = "native"
    assert_close("y", layer(x), expected, TOLERANCE)
