"""Both forms of the selective scan against the sequential oracle: outputs, final state, and every gradient."""

import pytest
import torch
from tests.helpers import assert_close

from lengthwise.errors import InputError
from lengthwise.ops.selective_scan import chunked as chunked_form
from lengthwise.ops.selective_scan import scan as choosing
from lengthwise.ops.selective_scan import selective_scan, selective_scan_naive
from lengthwise.ops.selective_scan.native import library

# Without the shape checks of the test suite, which would come before our own.
unchecked = getattr(selective_scan, "__wrapped__", selective_scan)
# float64 against float64: rounding only. float32 against the float64 oracle: sums of some hundred terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6}

native = pytest.param("native", torch.float32, id="native")
FORMS = [pytest.param("torch", torch.float64, id="torch"), pytest.param("torch", torch.float32, id="torch32"), native]
forms = pytest.mark.parametrize(("backend", "dtype"), FORMS, indirect=["backend"])
narrow_forms = pytest.mark.parametrize(("backend", "dtype"), FORMS[1:], indirect=["backend"])
kernel = pytest.mark.parametrize(("backend", "dtype"), [native], indirect=["backend"])
fast_forms = pytest.mark.parametrize(("backend", "dtype"), [FORMS[0], native], indirect=["backend"])


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def backend(request):
    """The form under test; the kernel only where it can be compiled."""
    if request.param == "native" and library() is None:
        pytest.skip("no C compiler found")
    return request.param


def make(batch=2, time=11, channels=7, states=5, *, state=True, fused=True, rate=1.0, dtype=torch.float64, seed=0):
    """Random inputs by name; `rate` scales the decay exponents; `fused` adds the bias before and the gate behind."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    steps = torch.rand(batch, time, channels, generator=random, dtype=torch.float64)
    inputs = {
        "x": normal(batch, time, channels),
        "dt": normal(batch, time, channels) if fused else steps,
        "A": -rate * (0.1 + torch.rand(channels, states, generator=random, dtype=torch.float64)),
        "B": normal(batch, time, states),
        "C": normal(batch, time, states),
        "D": normal(channels),
        "initial_state": normal(batch, channels, states) if state else None,
        "dt_bias": normal(channels) if fused else None,
        "z": normal(batch, time, channels) if fused else None,
    }
    return {name: value if value is None else value.to(dtype) for name, value in inputs.items()}


def run(op, inputs, *, through=("y", "final_state"), dtype=None, **options):
    """Results, and gradients of a fixed random functional of the results named in `through`."""
    leaves = {
        name: value if value is None else value.to(dtype or value.dtype).detach().requires_grad_()
        for name, value in inputs.items()
    }
    y, final_state = op(**leaves, **options)
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
    """Mask of real tokens, [B, T, 1], written independently of the package."""
    position = torch.arange(time)
    rows = [
        position >= time - n if options.get("padding") == "left" else position < n for n in options["lengths"].tolist()
    ]
    return torch.stack(rows)[..., None].double()


def compare(inputs, backend, dtype, *, chunk_size=4, through=("y", "final_state"), **options):
    """Assert that `selective_scan` in `dtype` equals the float64 oracle."""
    tolerance = TOLERANCE[dtype]
    expected, expected_grads = run(selective_scan_naive, inputs, through=through, dtype=torch.float64, **options)
    options = {**options, "chunk_size": chunk_size, "backend": backend}
    actual, grads = run(selective_scan, inputs, through=through, dtype=dtype, **options)
    for name in expected:
        a, e = actual[name], expected[name]
        if name == "y" and options.get("lengths") is not None:
            mask = real(options, a.shape[1])
            a, e = a * mask, e * mask
        assert_close(name, a, e, tolerance)
    for name, gradient in expected_grads.items():
        if gradient is None or not gradient.any():
            assert grads[name] is None or not grads[name].any(), f"{name}: a gradient where the oracle has none"
        else:
            assert grads[name] is not None, f"{name}: no gradient"
            assert grads[name].dtype == dtype
            assert_close(f"gradient of {name}", grads[name], gradient, tolerance)


@forms
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 3, 7, 8, 9, 16, 17, 23])
def test_equals_the_oracle_at_every_length(time, state, backend, dtype):
    compare(make(time=time, state=state), backend, dtype, chunk_size=8)


@fast_forms
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 13, 64])
def test_equals_the_oracle_at_every_chunk_size(chunk_size, backend, dtype):
    compare(make(time=13), backend, dtype, chunk_size=chunk_size)


# Channels: below, at and above a vector of any machine and a unit of work (128); states: with and without a rest of 4.
@fast_forms
@pytest.mark.parametrize(
    ("channels", "states"), [(1, 1), (3, 2), (4, 4), (16, 16), (17, 6), (33, 3), (128, 4), (131, 9), (260, 1)]
)
def test_every_size(channels, states, backend, dtype):
    compare(make(2, 6, channels, states), backend, dtype)


@fast_forms
@pytest.mark.parametrize("through", ["y", "final_state"])
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [4, 11])
def test_gradients_through_one_result_alone(time, state, through, backend, dtype):
    compare(make(time=time, state=state), backend, dtype, through=(through,))


@fast_forms
@pytest.mark.parametrize("left_out", [("D",), ("dt_bias",), ("z",), ("D", "dt_bias", "z", "initial_state")], ids=str)
def test_without_optional_inputs(left_out, backend, dtype):
    inputs = make()
    if "dt_bias" in left_out:
        inputs["dt"] = inputs["dt"].abs()
    compare({name: None if name in left_out else value for name, value in inputs.items()}, backend, dtype)


@fast_forms
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_lengths_on_either_side(padding, state, fused, backend, dtype):
    lengths = torch.tensor([0, 1, 6, 11])
    compare(make(batch=4, state=state, fused=fused), backend, dtype, lengths=lengths, padding=padding)


@narrow_forms
@pytest.mark.parametrize("rate", [1e-6, 1.0, 20.0])
def test_weak_and_strong_decays_in_float32(rate, backend, dtype):
    # A decay errs by one part in 2^24 of its exponent; exponents that are large enough to matter belong to decays that
    # are not. So the tolerance is that of every other test.
    compare(make(time=23, rate=rate, fused=False), backend, dtype, chunk_size=8)


@narrow_forms
@pytest.mark.parametrize("rate", [1e3, 1e6])
def test_decays_beyond_the_range_of_float32(rate, backend, dtype):
    inputs = make(time=23, rate=rate, fused=False)
    expected, expected_grads = run(selective_scan_naive, inputs)
    actual, grads = run(selective_scan, inputs, dtype=dtype, chunk_size=8, backend=backend)
    for name, value in {**expected, **expected_grads}.items():
        # Where every decay vanishes, so do the gradients of A and of the state: down to 1e-30, float32 must follow.
        value, found = value.detach(), {**actual, **grads}[name].detach().double()
        assert float((found - value).abs().max()) <= 1e-30 + 1e-5 * float(value.abs().max()), name


@narrow_forms
def test_each_decay_has_its_digits(backend, dtype):
    rates = torch.linspace(-69, 0, 6901, dtype=dtype)[:, None]  # 2^-100 to 1
    none, one = torch.zeros(1, 1, len(rates), dtype=dtype), torch.ones(1, 1, 1, dtype=dtype)
    _, decay = selective_scan(none, none + 1, rates, one, one, None, torch.ones(1, *rates.shape), backend=backend)
    expected = rates.double().exp()
    # Rounding the exponent costs one part in 2^24 of it, twice; the rest is the series.
    error = (decay[0].double() - expected).abs() / expected
    assert (error <= 2**-23 * (1 + rates.abs())).all()


@narrow_forms
def test_each_step_size_has_its_digits(backend, dtype):
    raw = torch.linspace(-60, 60, 12001, dtype=dtype).requires_grad_()
    one = torch.ones(1, 1, 1, dtype=dtype)
    _, dt = selective_scan(
        torch.ones(1, 1, len(raw)),
        raw[None, None],
        torch.zeros(len(raw), 1),
        one,
        one,
        dt_bias=torch.zeros_like(raw),
        backend=backend,
    )
    dt.sum().backward()
    exact = raw.detach().double()
    expected, slope = torch.log1p(exact.exp()), torch.sigmoid(exact)
    assert ((dt[0, :, 0].double() - expected).abs() <= 2**-21 * expected).all()
    assert ((raw.grad.double() - slope).abs() <= 2**-21 * slope).all()


@forms
def test_steps_of_zero_keep_the_state(backend, dtype):
    inputs = make(time=9, fused=False, dtype=dtype)
    inputs["dt"] = torch.zeros_like(inputs["dt"])
    _, final_state = selective_scan(**inputs, chunk_size=4, backend=backend)
    assert torch.equal(final_state, inputs["initial_state"])


@fast_forms
@pytest.mark.parametrize("cut", [1, 5, 8, 14])
def test_two_pieces_equal_one(cut, backend, dtype):
    inputs = make(time=15, dtype=dtype)
    y, final_state = selective_scan(**inputs, chunk_size=4, backend=backend)
    over_time = ("x", "dt", "B", "C", "z")
    first = {name: value[:, :cut] if name in over_time else value for name, value in inputs.items()}
    second = {name: value[:, cut:] if name in over_time else value for name, value in inputs.items()}
    y1, second["initial_state"] = selective_scan(**first, chunk_size=4, backend=backend)
    y2, end = selective_scan(**second, chunk_size=4, backend=backend)
    # The sums of a token do not depend on where its piece begins.
    assert_close("y", torch.cat([y1, y2], dim=1), y, 1e-15 if dtype == torch.float64 else 1e-7)
    assert_close("final_state", end, final_state, 1e-15 if dtype == torch.float64 else 1e-7)


@forms
def test_no_tokens(backend, dtype):
    inputs = make(time=0, dtype=dtype)
    y, final_state = selective_scan(**inputs, backend=backend)
    assert y.shape == inputs["x"].shape
    assert torch.equal(final_state, inputs["initial_state"])
    inputs["initial_state"] = None
    assert not selective_scan(**inputs, backend=backend)[1].any()


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradcheck(state):
    inputs = {k: v if v is None else v.requires_grad_() for k, v in make(1, 5, 2, 2, state=state).items()}
    assert torch.autograd.gradcheck(
        lambda *a: selective_scan(**dict(zip(inputs, a, strict=True)), chunk_size=2), tuple(inputs.values())
    )


@pytest.mark.parametrize("tile", [1, 100, 200, 10_000])
def test_tiles_of_rows_change_nothing(monkeypatch, tile):
    # 3 rows of 4 tokens by 35 numbers: one row at a time, one, one, all.
    monkeypatch.setattr(chunked_form, "TILE", tile)
    compare(make(batch=3), "torch", torch.float64)


@fast_forms
def test_inputs_may_be_strided_views(backend, dtype):
    inputs = make(dtype=dtype)
    packed = torch.cat([inputs[name] for name in ("x", "z", "dt", "B", "C")], dim=-1)
    pieces = packed.split([7, 7, 7, 5, 5], dim=-1)
    views = {**inputs, **dict(zip(("x", "z", "dt", "B", "C"), pieces, strict=True))}
    views["A"] = inputs["A"].T.contiguous().T
    views["initial_state"] = inputs["initial_state"].mT.contiguous().mT
    steep = {**inputs, "x": inputs["x"].mT.contiguous().mT, "B": inputs["B"].mT.contiguous().mT}
    expected, expected_grads = run(selective_scan, inputs, backend=backend)
    for given in (views, steep):
        actual, grads = run(selective_scan, given, backend=backend)
        for name, value in {**expected, **expected_grads}.items():
            # torch's products take another order of sums for other strides.
            assert_close(name, {**actual, **grads}[name], value, 1e-14 if backend == "torch" else 0)


@kernel
def test_gradients_that_are_no_plain_tensors(backend, dtype):
    # The gradient of a sum is one number spread out; that of a transpose is strided.
    inputs = {k: v.requires_grad_() for k, v in make(dtype=dtype).items()}
    y, state = selective_scan(**inputs, backend=backend)
    actual = torch.autograd.grad([y.sum(), (state.mT * torch.ones(5, 7)).sum()], list(inputs.values()))
    y, state = selective_scan(**inputs, backend=backend)
    expected = torch.autograd.grad([y, state], list(inputs.values()), [torch.ones_like(y), torch.ones_like(state)])
    for name, a, e in zip(inputs, actual, expected, strict=True):
        assert torch.equal(a, e), name


@kernel
def test_the_number_of_threads_changes_no_result(backend, dtype):
    inputs, before, results = make(3, 40, 300, 5, dtype=dtype), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(selective_scan, inputs, backend=backend))
    finally:
        torch.set_num_threads(before)
    for outputs, grads in results[1:]:
        for name, value in {**outputs, **grads}.items():
            assert torch.equal(value, {**results[0][0], **results[0][1]}[name]), name


@narrow_forms
def test_bfloat16_inputs_keep_the_state_in_float32(backend, dtype):
    inputs = make(time=200, channels=8, states=8, rate=0.01, dtype=torch.float32)
    low = {k: v.bfloat16() if k in ("x", "B", "C", "D", "z", "dt") else v for k, v in inputs.items()}
    exactly = {k: v.double() for k, v in low.items()}
    expected, expected_grads = run(selective_scan_naive, exactly)
    results, grads = run(selective_scan, low, backend=backend)
    assert results["y"].dtype == torch.bfloat16
    assert results["final_state"].dtype == torch.float32
    # 2^-9 is the rounding of one bfloat16 result. The state is never rounded, although it sums 200 steps.
    assert_close("y", results["y"], expected["y"], 2**-8)
    assert_close("final_state", results["final_state"], expected["final_state"], 1e-5)
    for name, gradient in expected_grads.items():
        assert grads[name].dtype == low[name].dtype, name
        # The gradient that comes in is rounded to bfloat16 with y.
        assert_close(f"gradient of {name}", grads[name], gradient, 2**-7)


@narrow_forms
def test_autocast_does_not_reach_inside(backend, dtype):
    inputs = make(time=20, dtype=dtype)
    expected = run(selective_scan, inputs, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run(selective_scan, inputs, backend=backend)
    for a, e in zip(actual, expected, strict=True):
        for name in e:
            assert torch.equal(a[name], e[name]), name


@forms
def test_results_without_gradient_are_the_same(backend, dtype):
    inputs = make(time=20, dtype=dtype)
    expected = run(selective_scan, inputs, backend=backend)[0].values()
    for a, e in zip(selective_scan(**inputs, backend=backend), expected, strict=True):
        assert torch.equal(a, e)


@forms
def test_nothing_is_kept_where_no_gradient_is_wanted(backend, dtype, monkeypatch):
    inputs = {k: v.requires_grad_() for k, v in make(dtype=dtype).items()}
    kept = []
    monkeypatch.setattr(torch.autograd.function.FunctionCtx, "save_for_backward", lambda ctx, *tensors: kept.append(1))
    with torch.no_grad():
        selective_scan(**inputs, backend=backend)
    assert not kept
    selective_scan(**inputs, backend=backend)
    assert kept


@fast_forms
def test_gradient_is_not_differentiable_again(backend, dtype):
    inputs = {k: v.requires_grad_() for k, v in make(time=4, dtype=dtype).items()}
    y, _ = selective_scan(**inputs, backend=backend)
    (gradient,) = torch.autograd.grad(y.square().sum(), inputs["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_auto_takes_the_kernel_for_float32_alone(monkeypatch):
    if library() is None:
        pytest.skip("no C compiler found")
    monkeypatch.delenv("LENGTHWISE_BACKEND", raising=False)
    used = []
    monkeypatch.setattr(choosing, "native_scan", lambda *a: used.append(1) or (a[0], a[0]))
    unchecked(**make(dtype=torch.float64))
    assert not used
    unchecked(**make(dtype=torch.float32))
    assert used == [1]
    unchecked(**make(dtype=torch.float32), backend="torch")
    assert used == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt": torch.zeros(2, 11, 3)}, "expected dt of shape (2, 11, 7); got shape (2, 11, 3)"),
        ({"initial_state": torch.zeros(2, 5, 7)}, "expected initial_state of shape (2, 7, 5); got shape (2, 5, 7)"),
        ({"B": torch.zeros(2, 11, 4)}, "expected B of shape (2, 11, 5); got shape (2, 11, 4)"),
        ({"dt_bias": torch.zeros(5)}, "expected dt_bias of shape (7,); got shape (5,)"),
        ({"z": torch.zeros(2, 10, 7)}, "expected z of shape (2, 11, 7); got shape (2, 10, 7)"),
    ],
    ids=["dt", "initial_state", "B", "dt_bias", "z"],
)
def test_wrong_shapes_are_named(change, message):
    with pytest.raises(InputError) as caught:
        unchecked(**{**make(), **change})
    where = "; in selective_scan; match it to x of shape (2, 11, 7) and A of shape (7, 5)"
    assert str(caught.value) == message + where


def test_chunk_size_of_zero_is_named():
    with pytest.raises(InputError) as caught:
        selective_scan(**make(), chunk_size=0)
    assert str(caught.value) == "expected a chunk size of at least 1; got 0; in selective_scan chunk_size; use 32"


@pytest.mark.parametrize("lengths", [[1, 12], [-1, 3]])
def test_wrong_lengths_are_named(lengths):
    with pytest.raises(
        InputError, match=r"expected integer lengths of shape \(2,\) between 0 and 11; got .*in lengths"
    ):
        unchecked(**make(), lengths=torch.tensor(lengths))


def test_native_in_float64_is_refused():
    with pytest.raises(InputError, match="float64"):
        selective_scan(**make(), backend="native")
