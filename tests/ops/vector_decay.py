"""Tests of every recurrence with one decay for each key channel; `test_gla.py` and `test_rwkv6.py` run them."""

import contextlib
import io
import types
import warnings

import pytest
import torch
from tests.helpers import assert_close, relative_rms

from lengthwise.errors import InputError
from lengthwise.native.compiler import compiler
from lengthwise.ops._vector_decay import halving, native

# float64 against float64: rounding only. float32 against the float64 oracle: sums of some hundred terms. No decay adds
# to it, however strong, because decays are only ever multiplied.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}
# Gradients of a decay below this cannot be held in float32, and are nothing beside any other.
NOTHING = 1e-25

FORMS = [("torch", torch.float64), ("torch", torch.float32), ("native", torch.float32)]
every_form = pytest.mark.parametrize(
    ("backend", "dtype"), FORMS, ids=[f"{backend}-{str(dtype)[6:]}" for backend, dtype in FORMS]
)
OVER_TIME = ("q", "k", "v", "log_decay")


def need(backend):
    """Skip where the backend cannot run."""
    if backend == "native" and compiler() is None:
        pytest.skip("no C compiler on this machine")


def make(batch=2, time=11, heads=3, keys=5, values=3, *, bonus, state=True, rate=1.0, dtype=torch.float64, seed=0):
    """Random inputs by name; `rate` scales the log decays."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    inputs = {
        "q": normal(batch, time, heads, keys),
        "k": normal(batch, time, heads, keys),
        "v": normal(batch, time, heads, values),
        "log_decay": -rate * torch.rand(batch, time, heads, keys, generator=random, dtype=torch.float64),
        **({"u": normal(heads, keys)} if bonus else {}),
        "initial_state": normal(batch, heads, keys, values) if state else None,
    }
    return {name: value if value is None else value.to(dtype) for name, value in inputs.items()}


def run(op, inputs, *, through=("o", "final_state"), dtype=None, **options):
    """Results, and gradients of a fixed random functional of the results named in `through`."""
    leaves = {
        name: value if value is None else value.to(dtype or value.dtype).detach().clone().requires_grad_()
        for name, value in inputs.items()
    }
    o, final_state = op(*leaves.values(), **options)
    results = {"o": o, "final_state": final_state}
    random = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=torch.float64)
    for name, result in results.items():
        weight = torch.randn(result.shape, generator=random, dtype=torch.float64)
        if options.get("lengths") is not None and name == "o":
            weight = weight * real(options, result.shape[1])
        if name in through:
            loss = loss + (result.double() * weight).sum()
    loss.backward()
    return results, {name: leaf.grad for name, leaf in leaves.items() if leaf is not None}


def real(options, time):
    """Mask of real tokens, [B, T, 1, 1], written independently of the package."""
    position = torch.arange(time)
    rows = [
        position >= time - n if options.get("padding") == "left" else position < n for n in options["lengths"].tolist()
    ]
    return torch.stack(rows)[..., None, None].double()


class VectorDecay:
    """The tests. A subclass names the operation, its oracle, and whether there is a bonus for the current token."""

    op: staticmethod
    naive: staticmethod
    bonus: bool
    name: str

    @pytest.fixture(autouse=True)
    def _uninitialised_memory_is_nan(self):
        """What is read before it is written becomes visible."""
        torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
        yield
        torch.use_deterministic_algorithms(False)

    def make(self, *sizes, **options):
        return make(*sizes, bonus=self.bonus, **options)

    def compare(self, inputs, backend, dtype, *, chunk_size=8, tolerance=None, through=("o", "final_state"), **options):
        """Assert that the operation in `dtype` equals the float64 oracle."""
        need(backend)
        tolerance = tolerance or TOLERANCE[dtype]
        # What is compared is arithmetic; rounding the inputs first leaves nothing else.
        inputs = {name: value if value is None else value.to(dtype).double() for name, value in inputs.items()}
        expected, expected_grads = run(self.naive, inputs, through=through, dtype=torch.float64, **options)
        fast = {"backend": backend, "chunk_size": chunk_size, **options}
        actual, grads = run(self.op, inputs, through=through, dtype=dtype, **fast)
        for name in expected:
            a, e = actual[name], expected[name]
            if name == "o" and options.get("lengths") is not None:
                mask = real(options, a.shape[1])
                a, e = a * mask, e * mask
            assert_close(name, a, e, tolerance)
        for name, gradient in expected_grads.items():
            if gradient is None or gradient.abs().max() < NOTHING:
                assert grads[name] is None or grads[name].abs().max() < NOTHING, f"gradient of {name} out of nothing"
            else:
                assert grads[name] is not None, f"{name}: no gradient"
                assert_close(f"gradient of {name}", grads[name], gradient, tolerance)

    @every_form
    @pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
    @pytest.mark.parametrize("time", [1, 2, 3, 7, 8, 9, 16, 17, 23, 31])
    def test_equals_the_oracle_at_every_length(self, time, state, backend, dtype):
        self.compare(self.make(time=time, state=state), backend, dtype)

    @pytest.mark.parametrize("time", [63, 64, 65, 127, 128, 129, 197])
    def test_segments_of_the_native_form(self, time):
        self.compare(self.make(1, time, 2), "native", torch.float32)

    @every_form
    @pytest.mark.parametrize(
        ("keys", "values"),
        [(1, 1), (3, 1), (1, 20), (4, 16), (16, 16), (7, 33), (40, 24), (64, 64), (20, 130)],
        ids=str,
    )
    def test_sizes(self, keys, values, backend, dtype):
        self.compare(self.make(1, 13, 2, keys, values), backend, dtype)

    @every_form
    @pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 16, 1000])
    def test_chunk_sizes(self, chunk_size, backend, dtype):
        self.compare(self.make(time=21), backend, dtype, chunk_size=chunk_size)

    @pytest.mark.parametrize("tokens", [1, 24, 30, 100])
    def test_groups_of_chunks_change_nothing(self, tokens, monkeypatch):
        monkeypatch.setattr(halving, "GROUP_TOKENS", tokens)
        self.compare(self.make(3, 21, 2), "torch", torch.float64, chunk_size=4)

    @every_form
    @pytest.mark.parametrize("through", [("o",), ("final_state",)], ids=str)
    @pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
    def test_gradients_through_one_result_alone(self, state, through, backend, dtype):
        self.compare(self.make(time=19, state=state), backend, dtype, through=through)

    @every_form
    @pytest.mark.parametrize("rate", [0.0, 1e-6, 0.1, 5.0, 20.0, 80.0, 1e3, 1e30])
    def test_any_strength_of_decay(self, rate, backend, dtype):
        self.compare(self.make(1, 150, 2, rate=rate), backend, dtype, chunk_size=64)

    @every_form
    @pytest.mark.parametrize("strong", [-20.0, -90.0, -1e4, float("-inf")])
    def test_a_strong_decay_now_and_then_costs_no_precision(self, strong, backend, dtype):
        inputs = self.make(1, 150, 2, rate=0.1)
        random = torch.Generator().manual_seed(7)
        inputs["log_decay"][torch.rand(inputs["log_decay"].shape, generator=random) < 0.1] = strong
        self.compare(inputs, backend, dtype, chunk_size=64)

    @every_form
    def test_gradients_of_strong_decays_are_exact_one_by_one(self, backend, dtype):
        # A decay of e^-20 has a gradient of that size, beside others of size 1. As a difference of sums it would drown.
        need(backend)
        inputs = self.make(1, 70, 2)
        strong = torch.rand(inputs["log_decay"].shape, generator=torch.Generator().manual_seed(7)) < 0.5
        inputs["log_decay"][strong] = -20.0
        inputs = {name: value.to(dtype).double() for name, value in inputs.items()}
        _, expected = run(self.naive, inputs)
        _, actual = run(self.op, inputs, dtype=dtype, backend=backend)
        error = relative_rms(actual["log_decay"][strong], expected["log_decay"][strong])
        assert error < TOLERANCE[dtype]

    @every_form
    def test_a_decay_of_one_forgets_nothing(self, backend, dtype):
        need(backend)
        inputs = self.make(time=100, dtype=dtype)
        inputs |= {"log_decay": torch.zeros_like(inputs["log_decay"]), "k": torch.zeros_like(inputs["k"])}
        _, final_state = self.op(*inputs.values(), backend=backend)
        assert torch.equal(final_state, inputs["initial_state"])

    @every_form
    @pytest.mark.parametrize("padding", ["right", "left"])
    @pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
    def test_lengths_on_either_side(self, padding, state, backend, dtype):
        lengths = torch.tensor([0, 1, 6, 11])
        self.compare(self.make(batch=4, state=state), backend, dtype, lengths=lengths, padding=padding)

    @every_form
    @pytest.mark.parametrize("cut", [1, 5, 8, 14])
    def test_two_pieces_equal_one(self, cut, backend, dtype):
        need(backend)
        inputs = self.make(time=15, dtype=dtype)
        options = {"chunk_size": 4, "backend": backend}
        o, final_state = self.op(*inputs.values(), **options)
        first = {name: value[:, :cut] if name in OVER_TIME else value for name, value in inputs.items()}
        second = {name: value[:, cut:] if name in OVER_TIME else value for name, value in inputs.items()}
        o1, second["initial_state"] = self.op(*first.values(), **options)
        o2, end = self.op(*second.values(), **options)
        assert_close("o", torch.cat([o1, o2], dim=1), o, TOLERANCE[dtype])
        assert_close("final_state", end, final_state, TOLERANCE[dtype])

    @every_form
    def test_no_tokens(self, backend, dtype):
        need(backend)
        inputs = self.make(time=0, dtype=dtype)
        o, final_state = self.op(*inputs.values(), backend=backend)
        assert o.shape == inputs["v"].shape
        assert torch.equal(final_state, inputs["initial_state"])

    @pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
    def test_gradcheck(self, state):
        inputs = {k: v if v is None else v.requires_grad_() for k, v in self.make(1, 5, 2, 2, 2, state=state).items()}
        assert torch.autograd.gradcheck(lambda *a: self.op(*a, chunk_size=2), tuple(inputs.values()))

    @every_form
    def test_inputs_and_gradients_may_be_strided_views(self, backend, dtype):
        need(backend)
        inputs = self.make(time=10, heads=2, dtype=dtype)
        packed = torch.cat([inputs[name].flatten(2) for name in OVER_TIME], dim=-1)
        parts = packed.split([10, 10, 6, 10], dim=-1)
        views = {**inputs, **{n: p.unflatten(-1, (2, -1)) for n, p in zip(OVER_TIME, parts, strict=True)}}
        views["initial_state"] = inputs["initial_state"].mT.contiguous().mT
        for actual, expected in zip(
            self.op(*views.values(), backend=backend), self.op(*inputs.values(), backend=backend), strict=True
        ):
            assert torch.equal(actual, expected)
        # The gradient of a sum is one number seen as a whole tensor.
        grads = []
        for spread in (False, True):
            leaves = [value.detach().clone().requires_grad_() for value in inputs.values()]
            results = self.op(*leaves, backend=backend)
            ones = [torch.ones(()).to(dtype).expand_as(x) if spread else torch.ones_like(x) for x in results]
            torch.autograd.backward(results, ones)
            grads.append([leaf.grad for leaf in leaves])
        for actual, expected in zip(*grads, strict=True):
            assert torch.equal(actual, expected)

    @pytest.mark.parametrize("backend", ["torch", "native"])
    def test_bfloat16_inputs_keep_decays_and_states_in_float32(self, backend):
        need(backend)
        inputs = self.make(time=200, heads=2, keys=8, values=8, rate=0.02, dtype=torch.float32)
        low = {k: v.bfloat16() if k in ("q", "k", "v") else v for k, v in inputs.items()}
        exactly = {k: v.double() for k, v in low.items()}
        expected, expected_grads = run(self.naive, exactly)
        results, grads = run(self.op, low, backend=backend)
        assert results["o"].dtype == torch.bfloat16
        assert results["final_state"].dtype == torch.float32
        # 2^-9 is the rounding of one bfloat16 result. The state is never rounded, although it sums 200 steps.
        assert_close("o", results["o"], expected["o"], 2**-8)
        assert_close("final_state", results["final_state"], expected["final_state"], 1e-6)
        for name, gradient in expected_grads.items():
            assert grads[name].dtype == low[name].dtype, name
            # The gradient that comes in is rounded to bfloat16 with o.
            assert_close(f"gradient of {name}", grads[name], gradient, 2**-7)

    @pytest.mark.parametrize("backend", ["torch", "native"])
    def test_autocast_does_not_reach_inside(self, backend):
        need(backend)
        inputs = self.make(time=20, dtype=torch.float32)
        expected, expected_grads = run(self.op, inputs, backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual, grads = run(self.op, inputs, backend=backend)
        for name, value in expected.items():
            assert torch.equal(actual[name], value)
        for name, value in expected_grads.items():
            assert torch.equal(grads[name], value)

    @every_form
    def test_results_without_gradient_are_the_same(self, backend, dtype):
        need(backend)
        inputs = self.make(time=70, dtype=dtype)
        expected = run(self.op, inputs, backend=backend)[0].values()
        for a, e in zip(self.op(*inputs.values(), backend=backend), expected, strict=True):
            assert torch.equal(a, e)

    def test_threads_change_no_bit_of_the_native_form(self):
        need("native")
        inputs, before, seen = self.make(2, 70, 3, 20, 20, dtype=torch.float32), torch.get_num_threads(), []
        try:
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                results, grads = run(self.op, inputs, backend="native")
                seen.append([*results.values(), *grads.values()])
        finally:
            torch.set_num_threads(before)
        for other in seen[1:]:
            assert all(torch.equal(a, e) for a, e in zip(other, seen[0], strict=True))

    def test_where_the_kernel_does_not_compile_torch_takes_over(self, monkeypatch):
        inputs = self.make(dtype=torch.float32)
        expected = self.op(*inputs.values(), backend="torch")
        monkeypatch.setattr(native, "library", lambda: None)
        for a, e in zip(self.op(*inputs.values(), backend="auto"), expected, strict=True):
            assert torch.equal(a, e)

    @every_form
    def test_the_gradient_is_not_differentiable_again(self, backend, dtype):
        need(backend)
        inputs = {k: v.requires_grad_() for k, v in self.make(time=4, dtype=dtype).items()}
        o, _ = self.op(*inputs.values(), backend=backend)
        (gradient,) = torch.autograd.grad(o.square().sum(), inputs["q"], create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    @pytest.mark.parametrize(
        ("name", "shape", "wanted"),
        [
            ("k", (2, 11, 2, 5), (2, 11, 3, 5)),
            ("v", (2, 10, 3, 3), (2, 11, 3, 3)),
            ("log_decay", (2, 11, 3, 1), (2, 11, 3, 5)),
            ("initial_state", (2, 3, 3, 5), (2, 3, 5, 3)),
        ],
    )
    def test_wrong_shapes_are_named(self, name, shape, wanted, unchecked):
        inputs = {**self.make(), name: torch.zeros(shape)}
        with pytest.raises(InputError) as caught:
            self.op(*inputs.values())
        assert str(caught.value) == (
            f"expected {name} of shape {wanted}; got shape {shape}; in {self.name}; "
            "match it to queries of shape (2, 11, 3, 5)"
        )

    def test_chunk_size_of_zero_is_named(self):
        with pytest.raises(InputError) as caught:
            self.op(*self.make().values(), chunk_size=0)
        message = f"expected a chunk size of at least 1; got 0; in {self.name} chunk_size; use 64"
        assert str(caught.value) == message

    @pytest.mark.parametrize("lengths", [[1, 12], [-1, 3]])
    def test_wrong_lengths_are_named(self, lengths, unchecked):
        with pytest.raises(
            InputError, match=r"expected integer lengths of shape \(2,\) between 0 and 11; got .*lengths"
        ):
            self.op(*self.make().values(), lengths=torch.tensor(lengths))

    def test_the_native_form_refuses_float64(self):
        with pytest.raises(InputError, match="native backend; got float64 numbers; in backend"):
            self.op(*self.make().values(), backend="native")


def fla_module(name: str) -> types.ModuleType:
    """A module of flash-linear-attention; skips where that is not installed. What it prints and warns of is dropped."""
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason="flash-linear-attention is not installed", exc_type=ImportError)
