"""Chunked SSD against the sequential oracle: outputs, final state, and every gradient."""

import pytest
import torch
from tests.helpers import FORMS, assert_close, need_form, threads

from lengthwise.errors import InputError
from lengthwise.ops.ssd import ssd, ssd_naive

# Without the shape checks of the test suite, which would come before our own.
unchecked = getattr(ssd, "__wrapped__", ssd)
# float64 against float64: rounding only. float32 against the float64 oracle: sums of some hundred terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6}


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def make(
    batch=2,
    time=11,
    heads=4,
    width=3,
    groups=1,
    size=5,
    *,
    state=True,
    skip=True,
    rate=1.0,
    dtype=torch.float64,
    seed=0,
):
    """Random inputs by name; `rate` scales the decay exponents."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    inputs = {
        "x": normal(batch, time, heads, width),
        "dt": torch.rand(batch, time, heads, generator=random, dtype=torch.float64),
        "A": -rate * (0.1 + torch.rand(heads, generator=random, dtype=torch.float64)),
        "B": normal(batch, time, groups, size),
        "C": normal(batch, time, groups, size),
        "D": normal(heads) if skip else None,
        "initial_state": normal(batch, heads, width, size) if state else None,
    }
    return {name: value if value is None else value.to(dtype) for name, value in inputs.items()}


def run(op, inputs, *, through=("y", "final_state"), dtype=None, **options):
    """Results, and gradients of a fixed random functional of the results named in `through`."""
    leaves = {
        name: value if value is None else value.to(dtype or value.dtype).detach().requires_grad_()
        for name, value in inputs.items()
    }
    y, final_state = op(*leaves.values(), **options)
    results = {"y": y, "final_state": final_state}
    random = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=torch.float64)
    for name, result in results.items():
        weight = torch.randn(result.shape, generator=random, dtype=torch.float64)
        if options.get("lengths") is not None and name == "y":
            weight = weight * real(options, result.shape[1])
        if name in through:
            loss = loss + (result.double() * weight).sum()
    if loss.requires_grad:
        loss.backward()
    grads = {name: leaf.grad for name, leaf in leaves.items() if leaf is not None}
    return results, grads


def real(options, time):
    """Mask of real tokens, [B, T, 1, 1], written independently of the package."""
    position = torch.arange(time)
    rows = [
        position >= time - n if options.get("padding") == "left" else position < n for n in options["lengths"].tolist()
    ]
    return torch.stack(rows)[..., None, None].double()


def compare(inputs, *, chunk_size, through=("y", "final_state"), form="float64", tolerance=None, **options):
    """Assert that a form of `ssd` equals the float64 oracle."""
    dtype, backend = FORMS[form]
    need_form(backend)
    tolerance = tolerance or TOLERANCE[dtype]
    expected, expected_grads = run(ssd_naive, inputs, through=through, dtype=torch.float64, **options)
    actual, grads = run(ssd, inputs, through=through, dtype=dtype, chunk_size=chunk_size, backend=backend, **options)
    for name in expected:
        a, e = actual[name], expected[name]
        if name == "y" and options.get("lengths") is not None:
            mask = real(options, a.shape[1])
            a, e = a * mask, e * mask
        assert_close(name, a, e, tolerance)
    for name, gradient in expected_grads.items():
        if gradient is None:
            assert grads[name] is None or not grads[name].any(), f"{name}: a gradient where the oracle has none"
        else:
            assert grads[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", grads[name], gradient, tolerance)


exact_and_native = pytest.mark.parametrize("form", ["float64", "native"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 3, 7, 8, 9, 16, 17, 23, 31])
def test_equals_the_oracle_at_every_length(time, state, form):
    compare(make(time=time, state=state), chunk_size=8, form=form)


@exact_and_native
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 13, 64])
def test_equals_the_oracle_at_every_chunk_size(chunk_size, form):
    compare(make(time=13), chunk_size=chunk_size, form=form)


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize(
    ("time", "chunk_size"), [(15, 64), (16, 64), (17, 64), (33, 32), (63, 64), (65, 64), (130, 64)]
)
def test_whole_vectors_and_their_rests(time, chunk_size, state):
    # The kernel works on vectors of up to 16 tokens, of head widths and of state sizes.
    for width, size in ((16, 16), (20, 33)):
        compare(make(1, time, 2, width, 1, size, state=state), chunk_size=chunk_size, form="native", tolerance=1e-5)


def test_chunks_beyond_the_largest_of_the_kernel():
    compare(make(1, 600, 2, 4, 1, 3, rate=0.01), chunk_size=1000, form="native")


@exact_and_native
@pytest.mark.parametrize("through", ["y", "final_state"])
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [4, 12])
def test_gradients_through_one_result_alone(time, state, through, form):
    compare(make(time=time, state=state), chunk_size=4, through=(through,), form=form)


@exact_and_native
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 3), (3, 3), (5, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_groups_share_projections(batch, heads, groups, form):
    compare(make(batch, 10, heads, 7, groups, 3), chunk_size=4, form=form)


@exact_and_native
def test_without_skip_weight(form):
    compare(make(skip=False), chunk_size=4, form=form)


@pytest.mark.parametrize("form", ["float32", "native"])
@pytest.mark.parametrize(("rate", "tolerance"), [(1e-6, 3e-6), (30.0, 3e-5), (100.0, 1e-4)])
def test_strong_and_weak_decays_in_float32(rate, tolerance, form):
    # An exponent is a difference of sums over up to 8 steps; their rounding, one part in 2^24 of up to 8 * rate, is a
    # relative error of the decay. The gradient of A, a sum of terms of both signs, shows most of it.
    compare(make(time=23, rate=rate), chunk_size=8, form=form, tolerance=tolerance)


@pytest.mark.parametrize("form", ["float32", "native"])
def test_decays_beyond_the_range_of_float32(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    inputs = make(time=23, rate=1e5)
    expected, _ = run(ssd_naive, inputs)
    actual, grads = run(ssd, inputs, dtype=dtype, chunk_size=8, backend=backend)
    for name in expected:
        assert_close(name, actual[name], expected[name], 1e-3)
    for name, gradient in grads.items():
        assert torch.isfinite(gradient).all(), name


def test_tokens_after_a_step_that_forgets_all_keep_their_decays():
    need_form("native")
    inputs = make(time=23, heads=2, rate=0.01)
    inputs["dt"][:, ::5] = 1e9  # several such steps in a chunk
    # Each counts as -100 in the sum of exponents, which so stays above -400 and is rounded by at most 2e-5.
    compare(inputs, chunk_size=16, form="native", tolerance=3e-5)


def test_a_state_that_has_faded_leaves_no_trace():
    need_form("native")
    inputs = make(time=300, heads=1, rate=1.0)
    inputs["x"] = torch.zeros_like(inputs["x"])  # e^-150: below the smallest float32
    y, final_state = ssd(*(v.float() for v in inputs.values()), backend="native")
    assert torch.equal(final_state, torch.zeros_like(final_state))
    assert torch.isfinite(y).all()


@exact_and_native
def test_steps_of_zero_keep_the_state(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    inputs = {name: value.to(dtype) for name, value in make(time=9).items()}
    inputs["dt"] = torch.zeros_like(inputs["dt"])
    _, final_state = ssd(*inputs.values(), chunk_size=4, backend=backend)
    assert torch.equal(final_state, inputs["initial_state"])


@exact_and_native
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_lengths_on_either_side(padding, state, form):
    lengths = torch.tensor([0, 1, 6, 11])
    compare(make(batch=4, state=state), chunk_size=4, lengths=lengths, padding=padding, form=form)


@pytest.mark.parametrize(("batch", "groups"), [(1, 1), (1, 2), (3, 1), (9, 1)])
def test_the_number_of_threads_changes_no_bit(batch, groups):
    need_form("native")
    inputs = make(batch, 40, 8, 64, groups, 16, dtype=torch.float32)  # enough work for several threads
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(run(ssd, inputs, chunk_size=16, backend="native"))
    for results, gradients in found[1:]:
        for name, value in (results | gradients).items():
            assert torch.equal(value, (found[0][0] | found[0][1])[name]), name


@pytest.mark.parametrize("cut", [1, 5, 8, 14])
def test_two_pieces_equal_one(cut):
    inputs = make(time=15)
    y, final_state = ssd(*inputs.values(), chunk_size=4)
    over_time = ("x", "dt", "B", "C")
    first = {name: value[:, :cut] if name in over_time else value for name, value in inputs.items()}
    second = {name: value[:, cut:] if name in over_time else value for name, value in inputs.items()}
    y1, second["initial_state"] = ssd(*first.values(), chunk_size=4)
    y2, end = ssd(*second.values(), chunk_size=4)
    assert_close("y", torch.cat([y1, y2], dim=1), y, 1e-12)
    assert_close("final_state", end, final_state, 1e-12)


def test_no_tokens():
    inputs = make(time=0)
    y, final_state = ssd(*inputs.values())
    assert y.shape == inputs["x"].shape
    assert torch.equal(final_state, inputs["initial_state"])


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradcheck(state):
    inputs = {k: v if v is None else v.requires_grad_() for k, v in make(1, 5, 2, 2, 1, 2, state=state).items()}
    assert torch.autograd.gradcheck(lambda *a: ssd(*a, chunk_size=2), tuple(inputs.values()))


@exact_and_native
def test_inputs_may_be_strided_views(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    inputs = make(time=10, heads=2, width=3, size=5, dtype=dtype)
    packed = torch.cat([inputs["x"].flatten(2), inputs["B"].flatten(2), inputs["C"].flatten(2)], dim=-1)
    x, B, C = packed.split([6, 5, 5], dim=-1)
    views = {**inputs, "x": x.unflatten(-1, (2, 3)), "B": B.unflatten(-1, (1, 5)), "C": C.unflatten(-1, (1, 5))}
    options = {"chunk_size": 4, "backend": backend}
    for actual, expected in zip(ssd(*views.values(), **options), ssd(*inputs.values(), **options), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_bfloat16_inputs_keep_decay_and_carry_in_float32(backend):
    need_form(backend)
    inputs = make(time=200, heads=2, width=8, size=8, rate=0.01, dtype=torch.float32)
    low = {k: v.bfloat16() if k in ("x", "B", "C", "D") else v for k, v in inputs.items()}
    exactly = {k: v.double() for k, v in low.items()}
    expected, expected_grads = run(ssd_naive, exactly)
    y, final_state = (results := run(ssd, low, chunk_size=16, backend=backend))[0].values()
    assert y.dtype == torch.bfloat16
    assert final_state.dtype == torch.float32
    # 2^-9 is the rounding of one bfloat16 result. The state is never rounded, although it sums 200 steps.
    assert_close("y", y, expected["y"], 2**-8)
    assert_close("final_state", final_state, expected["final_state"], 1e-5)
    for name, gradient in expected_grads.items():
        assert results[1][name].dtype == low[name].dtype, name
        # The gradient that comes in is rounded to bfloat16 with y.
        assert_close(f"gradient of {name}", results[1][name], gradient, 2**-7)


def test_autocast_does_not_reach_inside():
    inputs = make(time=20, dtype=torch.float32)
    expected = ssd(*inputs.values(), chunk_size=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = ssd(*inputs.values(), chunk_size=8)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


@exact_and_native
def test_results_without_gradient_are_the_same(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    inputs = make(time=20, dtype=dtype)
    expected = run(ssd, inputs, chunk_size=8, backend=backend)[0].values()
    for a, e in zip(ssd(*inputs.values(), chunk_size=8, backend=backend), expected, strict=True):
        assert torch.equal(a, e)


@exact_and_native
def test_gradient_is_not_differentiable_again(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    inputs = {k: v.requires_grad_() for k, v in make(time=4, dtype=dtype).items()}
    y, _ = ssd(*inputs.values(), backend=backend)
    (gradient,) = torch.autograd.grad(y.square().sum(), inputs["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dt": torch.zeros(2, 11, 3)},
            "expected dt of shape (2, 11, 4); got shape (2, 11, 3); in ssd; match it to x of shape (2, 11, 4, 3)",
        ),
        (
            {"initial_state": torch.zeros(2, 4, 5, 3)},
            "expected initial_state of shape (2, 4, 3, 5); got shape (2, 4, 5, 3); in ssd; "
            "match it to x of shape (2, 11, 4, 3)",
        ),
        (
            {"D": torch.ones(1)},
            "expected D of shape (4,); got shape (1,); in ssd; match it to x of shape (2, 11, 4, 3)",
        ),
        (
            {"B": torch.zeros(2, 11, 3, 5), "C": torch.zeros(2, 11, 3, 5)},
            "expected a number of heads that the groups divide; got 4 heads and 3 groups; in ssd; "
            "change ngroups or the number of heads",
        ),
    ],
    ids=["dt", "initial_state", "D", "groups"],
)
def test_wrong_shapes_are_named(change, message):
    inputs = {**make(), **change}
    with pytest.raises(InputError) as caught:
        unchecked(*inputs.values())
    assert str(caught.value) == message


def test_chunk_size_of_zero_is_named():
    with pytest.raises(InputError) as caught:
        ssd(*make().values(), chunk_size=0)
    assert str(caught.value) == "expected a chunk size of at least 1; got 0; in ssd chunk_size; use 64"


def test_side_that_is_none_is_named():
    with pytest.raises(InputError, match=r"""expected "right" or "left"; got 'Left'; in padding"""):
        unchecked(*make().values(), lengths=torch.tensor([1, 2]), padding="Left")


@pytest.mark.parametrize("lengths", [[1, 12], [-1, 3]])
def test_wrong_lengths_are_named(lengths):
    with pytest.raises(
        InputError, match=r"expected integer lengths of shape \(2,\) between 0 and 11; got .*in lengths"
    ):
        unchecked(*make().values(), lengths=torch.tensor(lengths))
