"""The RG-LRU in both forms against the sequential oracle: outputs, final state, and every gradient."""

import math

import pytest
import torch
from tests.helpers import assert_close

from lengthwise.errors import InputError
from lengthwise.native.compiler import compiler
from lengthwise.ops.rglru import native, rglru, rglru_naive
from lengthwise.ops.rglru.naive import clipped_sqrt
from lengthwise.ops.rglru.operation import scan

# Without the shape checks of the test suite, which would come before our own.
unchecked_rglru = getattr(rglru, "__wrapped__", rglru)
# float64 against float64: rounding only. float32 against the float64 oracle: sums of some dozen terms, and gates whose
# exponentials are good to two units in the last place.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6}

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")
FORMS = [
    pytest.param("torch", torch.float64, id="torch-float64"),
    pytest.param("torch", torch.float32, id="torch-float32"),
    pytest.param("native", torch.float32, id="native-float32", marks=needs_compiler),
]
BACKENDS = ["torch", pytest.param("native", marks=needs_compiler)]


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def make(batch=2, time=11, width=7, *, state=True, Lambda=-2.0, dtype=torch.float64, seed=0):
    """Random inputs by name; softplus(Lambda) is the scale of the decays, 0.13 by default."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    inputs = {
        "x": normal(batch, time, width),
        "input_gate": normal(batch, time, width),
        "recurrence_gate": 2 * normal(batch, time, width),
        "Lambda": Lambda + normal(width),
        "initial_state": normal(batch, width) if state else None,
    }
    return {name: value if value is None else value.to(dtype) for name, value in inputs.items()}


def run(op, inputs, *, through=("y", "final_state"), dtype=None, **options):
    """Results, and gradients of a fixed random functional of the results named in `through`."""
    leaves = {
        name: value if value is None else value.to(dtype or value.dtype).detach().requires_grad_()
        for name, value in inputs.items()
    }
    results = dict(zip(("y", "final_state"), op(*leaves.values(), **options), strict=True))
    random = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=torch.float64)
    for name, result in results.items():
        weight = torch.randn(result.shape, generator=random, dtype=torch.float64)
        if options.get("lengths") is not None and name == "y":
            weight = weight * real(options, result.shape[1])
        if name in through:
            loss = loss + (result.double() * weight).sum()
    loss.backward()
    return results, {name: leaf.grad for name, leaf in leaves.items() if leaf is not None}


def real(options, time):
    """Mask of real tokens, [B, T, 1], written independently of the package."""
    position = torch.arange(time)
    rows = [
        position >= time - n if options.get("padding") == "left" else position < n for n in options["lengths"].tolist()
    ]
    return torch.stack(rows)[..., None].double()


def compare(inputs, *, backend, dtype, through=("y", "final_state"), tolerance=None, **options):
    """Assert that `rglru` in `dtype` equals the float64 oracle."""
    tolerance = tolerance or TOLERANCE[dtype]
    expected, expected_grads = run(rglru_naive, inputs, through=through, dtype=torch.float64, **options)
    actual, grads = run(rglru, inputs, through=through, dtype=dtype, backend=backend, **options)
    for name in expected:
        a, e = actual[name], expected[name]
        if name == "y" and options.get("lengths") is not None:
            a, e = a * real(options, a.shape[1]), e * real(options, a.shape[1])
        assert_close(name, a, e, tolerance)
    for name, gradient in expected_grads.items():
        if gradient is None or not gradient.any():
            assert grads[name] is None or not grads[name].any(), f"{name}: a gradient where the oracle has none"
        else:
            assert grads[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", grads[name], gradient, tolerance)


def some_resets(batch, time):
    """A first token, a last one, two in a row; the second row has none."""
    reset = torch.zeros(batch, time, dtype=torch.bool)
    reset[0, [0, time // 2, min(time // 2 + 1, time - 1), time - 1]] = True
    return reset


@pytest.mark.parametrize(("backend", "dtype"), FORMS)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 9, 10, 16, 17, 23, 31])
def test_equals_the_oracle_at_every_length(time, state, backend, dtype):
    # The scan cuts T into spans of its root, rounded up: exact squares, one more, primes.
    compare(make(time=time, state=state), backend=backend, dtype=dtype)


@pytest.mark.parametrize(("backend", "dtype"), FORMS)
@pytest.mark.parametrize("width", [1, 15, 64, 65, 130])
def test_equals_the_oracle_at_every_width(width, backend, dtype):
    # The kernel works on 64 channels at a time, in vectors of up to 16.
    compare(make(batch=3, time=5, width=width), backend=backend, dtype=dtype)


@pytest.mark.parametrize(("backend", "dtype"), FORMS)
@pytest.mark.parametrize("through", ["y", "final_state"])
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradients_through_one_result_alone(state, through, backend, dtype):
    compare(make(time=6, state=state), through=(through,), backend=backend, dtype=dtype)


@pytest.mark.parametrize(("backend", "dtype"), FORMS)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 12])
def test_resets(time, state, backend, dtype):
    compare(make(time=time, state=state), reset=some_resets(2, time), backend=backend, dtype=dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reset_forgets_the_state_and_takes_the_input_whole(backend):
    inputs = make(time=1, dtype=torch.float32)
    y, final_state = rglru(*inputs.values(), reset=torch.tensor([[True], [False]]), backend=backend)
    whole = torch.sigmoid(inputs["input_gate"][0]) * inputs["x"][0]
    assert_close("y", y[0], whole, 1e-6)
    assert torch.equal(final_state, y[:, -1])
    assert not torch.allclose(y[1], torch.sigmoid(inputs["input_gate"][1]) * inputs["x"][1])


@pytest.mark.parametrize(("backend", "dtype"), FORMS)
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_lengths_on_either_side(padding, state, backend, dtype):
    options = {"lengths": torch.tensor([0, 1, 6, 11]), "padding": padding}
    compare(make(batch=4, state=state), backend=backend, dtype=dtype, **options)
    reset = torch.zeros(4, 11, dtype=torch.bool)
    reset[:, [0, 5, 10]] = True  # at padding too, where it must mean nothing
    compare(make(batch=4, state=state), reset=reset, backend=backend, dtype=dtype, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("Lambda", "tolerance"), [(-14.0, 3e-6), (6.0, 3e-6), (40.0, 3e-5)])
def test_weak_and_strong_decays_in_float32(Lambda, tolerance, backend):
    # From decays of 1 - 1e-6 a step, where 1 - a^2 as a difference has no digit left, to e^-300, which float32 has not.
    # An exponent of 300 is good to one part in 2^24, its exponential to 300 times that.
    compare(make(time=23, Lambda=Lambda), backend=backend, dtype=torch.float32, tolerance=tolerance)


@pytest.mark.parametrize(("backend", "dtype"), FORMS)
def test_a_decay_of_one_keeps_the_state_and_its_gradient_finite(backend, dtype):
    inputs = make(time=5)
    inputs["Lambda"] = torch.full_like(inputs["Lambda"], -800.0)  # softplus is 0: a is 1, the multiplier 0
    results, grads = run(rglru, inputs, dtype=dtype, backend=backend)
    assert torch.equal(results["final_state"], inputs["initial_state"].to(dtype))
    assert all(torch.isfinite(gradient).all() for gradient in grads.values())


@pytest.mark.parametrize(("backend", "dtype"), FORMS)
def test_the_slope_of_the_square_root_is_cut_at_1000(backend, dtype):
    # A single token from a zero state, so that only the multiplier depends on Lambda. softplus(Lambda) = rate.
    for rate, limited in ((1e-9, True), (1e-6, False)):
        Lambda = torch.full((1,), math.log(math.expm1(rate)), dtype=torch.float64)
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        inputs = {"x": one, "input_gate": 0 * one, "recurrence_gate": 0 * one, "Lambda": Lambda, "initial_state": None}
        _, grads = run(rglru, inputs, through=("y",), dtype=dtype, backend=backend)
        weight = torch.randn(1, 1, 1, generator=torch.Generator().manual_seed(99), dtype=torch.float64).item()
        # y = sqrt(1 - a^2) / 2 with log a = -4 rate; d(1 - a^2) = 8 a^2 d rate, d rate = sigmoid(Lambda) d Lambda.
        slope = 1000 if limited else 1 / (2 * math.sqrt(-math.expm1(-8 * rate)))
        expected = weight / 2 * slope * 8 * math.exp(-8 * rate) / (1 + math.exp(-Lambda.item()))
        assert grads["Lambda"].item() == pytest.approx(expected, rel=1e-5)


def test_the_oracles_square_root_has_the_slope_of_the_published_code():
    x = torch.tensor([0.0, 1e-8, 1 / 2000**2 * 0.99, 1 / 2000**2 * 1.01, 0.3, 1.0], dtype=torch.float64)
    x.requires_grad_()
    clipped_sqrt(x).sum().backward()
    published = 1 / torch.sqrt((4 * x.detach()).clamp(min=1 / 1000**2))
    assert torch.allclose(clipped_sqrt(x), x.sqrt(), rtol=1e-15)
    assert torch.allclose(x.grad, published, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [1, 5, 14])
def test_two_pieces_equal_one(cut, backend):
    inputs = make(time=15, dtype=torch.float32)
    y, final_state = rglru(*inputs.values(), backend=backend)
    over_time = ("x", "input_gate", "recurrence_gate")
    first = {name: value[:, :cut] if name in over_time else value for name, value in inputs.items()}
    second = {name: value[:, cut:] if name in over_time else value for name, value in inputs.items()}
    y1, second["initial_state"] = rglru(*first.values(), backend=backend)
    y2, end = rglru(*second.values(), backend=backend)
    assert_close("y", torch.cat([y1, y2], dim=1), y, 1e-6)
    assert_close("final_state", end, final_state, 1e-6)


def test_no_tokens():
    inputs = make(time=0)
    y, final_state = rglru(*inputs.values())
    assert y.shape == inputs["x"].shape
    assert torch.equal(final_state, inputs["initial_state"])


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradcheck(state):
    inputs = {k: v if v is None else v.requires_grad_() for k, v in make(1, 5, 2, state=state).items()}
    assert torch.autograd.gradcheck(rglru, tuple(inputs.values()))


@pytest.mark.parametrize("time", [1, 2, 9, 10, 50])
def test_the_scan_is_the_recurrence(time):
    random = torch.Generator().manual_seed(time)
    a, b = torch.rand(2, time, 3, generator=random), torch.randn(2, time, 3, generator=random)
    kept = a.clone(), b.clone()
    h, expected = torch.ones(2, 3), []
    for t in range(time):
        h = a[:, t] * h + b[:, t]
        expected.append(h)
    assert_close("h", scan(a, b, torch.ones(2, 3)), torch.stack(expected, dim=1), 1e-6)
    assert torch.equal(a, kept[0]), "the scan changed its input"
    assert torch.equal(b, kept[1]), "the scan changed its input"


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_may_be_strided_views(backend):
    inputs = make(time=10, width=6, dtype=torch.float32)
    packed = torch.cat([inputs["x"], inputs["input_gate"], inputs["recurrence_gate"]], dim=-1)
    views = dict(zip(("x", "input_gate", "recurrence_gate"), packed.split(6, dim=-1), strict=True))
    turned = {name: value.transpose(1, 2).contiguous().transpose(1, 2) for name, value in views.items()}
    expected = rglru(*inputs.values(), backend=backend)
    for changed in (views, turned):
        results = rglru(*{**inputs, **changed}.values(), backend=backend)
        for name, actual, wanted in zip(("y", "final_state"), results, expected, strict=True):
            assert_close(name, actual, wanted, 1e-6)  # torch takes other paths through other strides


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_outputs_may_be_strided_views(backend):
    inputs, grads = make(time=10, width=6, dtype=torch.float32), []
    for weight in (torch.ones(2, 10, 6), torch.ones(1).expand(2, 10, 6)):  # the second has strides of 0
        leaf = inputs["x"].clone().requires_grad_()
        y, _ = rglru(leaf, *list(inputs.values())[1:], backend=backend)
        grads += torch.autograd.grad(y, leaf, weight)
    assert_close("gradient of x", grads[1], grads[0], 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_inputs_keep_gates_and_state_in_float32(backend):
    inputs = make(time=200, width=8, Lambda=-5.0, dtype=torch.float32)
    low = {k: v.bfloat16() if k in ("x", "input_gate", "recurrence_gate") else v for k, v in inputs.items()}
    expected, expected_grads = run(rglru_naive, {k: v.double() for k, v in low.items()})
    results, grads = run(rglru, low, backend=backend)
    assert results["y"].dtype == torch.bfloat16
    assert results["final_state"].dtype == torch.float32
    # 2^-9 is the rounding of one bfloat16 result. The state is never rounded, although it sums 200 steps.
    assert_close("y", results["y"], expected["y"], 2**-8)
    assert_close("final_state", results["final_state"], expected["final_state"], 1e-5)
    for name, gradient in expected_grads.items():
        assert grads[name].dtype == low[name].dtype, name
        # The gradient that comes in is rounded to bfloat16 with y.
        assert_close(f"gradient of {name}", grads[name], gradient, 2**-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_reach_inside(backend):
    inputs = make(time=20, dtype=torch.float32)
    expected = rglru(*inputs.values(), backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = rglru(*inputs.values(), backend=backend)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_without_gradient_are_the_same(backend):
    inputs = make(time=20, dtype=torch.float32)
    expected = run(rglru, inputs, backend=backend)[0].values()
    for a, e in zip(rglru(*inputs.values(), backend=backend), expected, strict=True):
        assert torch.equal(a, e)


@needs_compiler
def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(native, "_SMALL", 0)
    inputs, before, results = make(batch=3, time=9, width=150, dtype=torch.float32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outputs, grads = run(rglru, inputs, backend="native")
            results.append([*outputs.values(), *grads.values()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_is_not_differentiable_again(backend):
    inputs = {k: v.requires_grad_() for k, v in make(time=4, dtype=torch.float32).items()}
    y, _ = rglru(*inputs.values(), backend=backend)
    (gradient,) = torch.autograd.grad(y.square().sum(), inputs["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            {"recurrence_gate": torch.zeros(2, 11, 6)},
            {},
            "expected recurrence_gate of shape (2, 11, 7); got shape (2, 11, 6); in rglru; "
            "match it to x of shape (2, 11, 7)",
        ),
        (
            {"initial_state": torch.zeros(7)},
            {},
            "expected initial_state of shape (2, 7); got shape (7,); in rglru; match it to x of shape (2, 11, 7)",
        ),
        (
            {},
            {"reset": torch.zeros(2, 10, dtype=torch.bool)},
            "expected reset of shape (2, 11); got shape (2, 10); in rglru; match it to x of shape (2, 11, 7)",
        ),
        (
            {},
            {"reset": torch.zeros(2, 11)},
            "expected a boolean mask [B, T]; got dtype torch.float32; in rglru reset; pass reset.bool()",
        ),
        (
            {},
            {"lengths": torch.tensor([1, 12])},
            "expected integer lengths of shape (2,) between 0 and 11; got values 1..12; in lengths; "
            "pass the number of real tokens of each row",
        ),
    ],
    ids=["gate", "initial_state", "reset-shape", "reset-dtype", "lengths"],
)
def test_wrong_inputs_are_named(unchecked, arguments, options, message):
    with pytest.raises(InputError) as caught:
        unchecked_rglru(*{**make(), **arguments}.values(), **options)
    assert str(caught.value) == message


def test_the_kernel_refuses_float64():
    with pytest.raises(InputError, match="float64"):
        rglru(*make().values(), backend="native")
