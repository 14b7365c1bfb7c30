"""The Mamba-2 mixer against its definition in naive operations: outputs, next state, and every gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import FORMS, assert_close, need_form, threads

from lengthwise.layers import _mamba2_inner, _mamba2_native
from lengthwise.layers._mamba2_native import mamba2_inner_native
from lengthwise.layers.base import Place
from lengthwise.layers.mamba2 import Mamba2, Mamba2State
from lengthwise.models.config import Mamba2Config
from lengthwise.ops.conv import causal_conv_naive
from lengthwise.ops.ssd import ssd_naive
from lengthwise.seeds import generator

WIDTH = 12
# float64: rounding only. float32: two projections and a norm on top of the recurrence, whose own bound is 3e-6.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def build(dtype=torch.float64, width=WIDTH, **changes):
    sizes = {"d_state": 5, "headdim": 4, "chunk_size": 4, **changes}
    mixer = Mamba2(width, Mamba2Config(**sizes)).to(dtype)
    random = generator(1, "test")
    mixer.reset_parameters(random, Place(0, 2, 2))
    with torch.no_grad():
        for parameter in (mixer.D, mixer.norm.weight, mixer.dt_bias):  # nothing shall hide behind a one
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    return mixer


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed, "inputs"), dtype=torch.float32).to(dtype)


def random_state(mixer, batch, dtype=torch.float64):
    zero = mixer.init_state(batch)
    return Mamba2State(
        ssm=normal(*zero.ssm.shape, seed=5, dtype=torch.promote_types(dtype, torch.float32)),
        conv=normal(*zero.conv.shape, seed=6, dtype=dtype),
    )


def defined(mixer, u, state=None, lengths=None):
    """The mixer as the paper has it, one token after the other."""
    config = mixer.config
    z, xBC, dt = mixer.in_proj(u).split([mixer.d_inner, mixer.conv_width, mixer.num_heads], dim=-1)
    xBC, conv = causal_conv_naive(
        xBC, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, state.conv if state else None, lengths=lengths
    )
    bc_width = config.ngroups * config.d_state
    x, B, C = F.silu(xBC).split([mixer.d_inner, bc_width, bc_width], dim=-1)
    y, ssm = ssd_naive(
        x.unflatten(-1, (mixer.num_heads, -1)),
        F.softplus(dt + mixer.dt_bias).clamp(*config.dt_limit),
        -torch.exp(mixer.A_log),
        B.unflatten(-1, (config.ngroups, -1)),
        C.unflatten(-1, (config.ngroups, -1)),
        mixer.D,
        state.ssm if state else None,
        lengths=lengths,
    )
    gated = (y.flatten(2) * F.silu(z)).unflatten(-1, (config.ngroups, -1))
    normed = gated / (gated.square().mean(dim=-1, keepdim=True) + mixer.norm.eps).sqrt()
    return mixer.out_proj(normed.flatten(2) * mixer.norm.weight), Mamba2State(ssm=ssm, conv=conv)


def run(function, mixer, u, state, lengths, through):
    """Results, and gradients of a fixed random functional of those named in `through`."""
    u = u.clone().requires_grad_()
    if state is not None:
        state = Mamba2State(ssm=state.ssm.clone().requires_grad_(), conv=state.conv.clone().requires_grad_())
    y, new = function(u, state, lengths)
    if lengths is not None:
        y = y * (torch.arange(u.shape[1]) < lengths[:, None])[..., None]
    results = {"y": y, "ssm": new.ssm, "conv": new.conv}
    mixer.zero_grad()
    sum((results[name].double() * normal(*results[name].shape, seed=9)).sum() for name in through).backward()
    gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    gradients |= {"u": u.grad} | ({"state.ssm": state.ssm.grad, "state.conv": state.conv.grad} if state else {})
    return results, gradients


def compare(form="float64", batch=3, time=11, *, state=True, lengths=None, through=("y", "ssm", "conv"), **changes):
    dtype, backend = FORMS[form]
    need_form(backend)
    width, tolerance = changes.pop("width", WIDTH), changes.pop("tolerance", TOLERANCE[dtype])
    exact = build(width=width, **changes)
    mixer = build(width=width, **changes).to(dtype)
    mixer.backend = backend
    u = normal(batch, time, width, seed=2)
    carried = random_state(exact, batch) if state else None
    lower = None if carried is None else Mamba2State(ssm=carried.ssm.to(dtype), conv=carried.conv.to(dtype))
    expected, expected_gradients = run(lambda *a: defined(exact, *a), exact, u, carried, lengths, through)
    actual, gradients = run(mixer, mixer, u.to(dtype), lower, lengths, through)
    for name, value in expected.items():
        if value.numel() == 0:  # the buffer of a filter of width 1
            assert actual[name].shape == value.shape, name
        else:
            assert_close(name, actual[name], value, tolerance)
    for name, value in expected_gradients.items():
        if value is None or not value.any():
            assert gradients[name] is None or not gradients[name].any(), f"{name}: a gradient where none should be"
        else:
            assert gradients[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", gradients[name], value, tolerance)


exact_and_native = pytest.mark.parametrize("form", ["float64", "native"])


@exact_and_native
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 8, 13])
def test_equals_the_definition_at_every_length(time, state, form):
    compare(form, time=time, state=state)


@exact_and_native
@pytest.mark.parametrize(
    "changes",
    [
        {"ngroups": 2, "headdim": 2},
        {"dt_limit": (0.02, 0.2)},
        {"bias": True},
        {"conv_bias": False},
        {"d_conv": 1},
        {"d_conv": 2},
        {"d_conv": 6},
        {"chunk_size": 64},
        {"chunk_size": 1},
    ],
    ids=str,
)
def test_every_option(changes, form):
    compare(form, **changes)


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [31, 32, 33, 100])
def test_whole_vectors_and_their_rests(time, state):
    # The kernel works on vectors of up to 16 tokens, of head widths and of state sizes.
    compare("native", 2, time, state=state, width=32, headdim=16, d_state=16, chunk_size=32)
    compare("native", 1, time, state=state, width=40, headdim=20, d_state=33, chunk_size=32, ngroups=2)


@exact_and_native
@pytest.mark.parametrize("through", [("y",), ("ssm",), ("conv",)], ids=str)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradients_through_one_result_alone(state, through, form):
    compare(form, state=state, through=through)


@exact_and_native
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_lengths(state, form):
    compare(form, batch=4, state=state, lengths=torch.tensor([0, 1, 6, 11]))


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("batch", [1, 2, 3, 70])
def test_threads_change_no_bit(monkeypatch, batch, state):
    # One row and three are cut along heads, in spans of two chunks; two rows and seventy are not.
    need_form("native")
    monkeypatch.setattr(_mamba2_native, "SPAN_TOKENS", 16)
    mixer = build(torch.float32, 64, headdim=8, d_state=16, chunk_size=8, ngroups=2)
    carried = random_state(mixer, batch, torch.float32) if state else None
    # Without the projections: products of torch may depend on the number of threads.
    projected = normal(batch, 90, mixer.in_proj.out_features, seed=2, dtype=torch.float32)
    found = []
    for count in (1, 2, 4):
        with threads(count):
            leaves = [projected, *mixer.inner_parameters(torch.float32)]
            leaves += [None, None] if carried is None else [carried.conv, carried.ssm]
            leaves = [None if leaf is None else leaf.detach().clone().requires_grad_() for leaf in leaves]
            parameters = _mamba2_inner.Parameters(*leaves[1:7])
            results = mamba2_inner_native(leaves[0], parameters, *leaves[7:], None, mixer.sizes)
            wanted = [leaf for leaf in leaves if leaf is not None]
            weights = [normal(*result.shape, seed=9, dtype=torch.float32) for result in results]
            found.append([*results, *torch.autograd.grad(results, wanted, weights)])
    for others in found[1:]:
        for index, (actual, expected) in enumerate(zip(others, found[0], strict=True)):
            assert torch.equal(actual, expected), index


@pytest.mark.parametrize("form", ["float32", "native"])
@pytest.mark.parametrize(
    ("A_init_range", "tolerance"), [((1e-6, 1e-5), 1e-5), ((30.0, 100.0), 3e-5), ((3e3, 3e4), 3e-5)]
)
def test_strong_and_weak_decays(A_init_range, tolerance, form):
    # Step sizes are about 0.01 here, so a step decays by nothing, by e^-1, and by e^-30 to e^-300.
    for state in (True, False):
        compare(form, 2, 23, state=state, A_init_range=A_init_range, chunk_size=8, tolerance=tolerance)


@pytest.mark.parametrize("lengths", [None, torch.tensor([11, 2, 7])], ids=["full", "lengths"])
@pytest.mark.parametrize("tokens", [1, 4, 8, 11, 22])
def test_tiles_change_nothing(monkeypatch, tokens, lengths):
    # 3 rows of 11 tokens: tiles of one chunk, of two, of a row, of two rows.
    monkeypatch.setattr(_mamba2_inner, "TILE_TOKENS", tokens)
    for state in (True, False):
        compare(state=state, lengths=lengths)


@pytest.mark.parametrize("tokens", [1, 6, 40, 100, 1000])
@pytest.mark.parametrize("time", [1, 3, 4, 9, 64])
def test_tiles_cover_every_token_once_and_in_order(monkeypatch, time, tokens):
    monkeypatch.setattr(_mamba2_inner, "TILE_TOKENS", tokens)
    seen = torch.zeros(5, time, dtype=torch.long)
    for rows, span, chunk in _mamba2_inner.tiles(5, time, 4, torch.device("cpu")):
        assert (span.stop - span.start) % chunk == 0
        assert chunk <= 4
        assert not seen[rows, span].any(), "a token twice"
        assert seen[rows, : span.start].all(), "a token before its predecessor"
        seen[rows, span] += 1
    assert seen.all()


def test_tiles_keep_rows_whole_where_several_fit():
    cut = list(_mamba2_inner.tiles(40, 64, 64, torch.device("cpu")))
    rows = _mamba2_inner.TILE_TOKENS // 64
    assert [tile.rows.stop - tile.rows.start for tile in cut] == [rows] * (40 // rows) + [40 % rows] * (40 % rows > 0)
    assert all(tile.tokens == slice(0, 64) for tile in cut)


@exact_and_native
def test_results_without_gradient_are_the_same(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    mixer, u = build(dtype), normal(2, 9, WIDTH, seed=2, dtype=dtype)
    mixer.backend = backend
    with_graph = mixer(u)
    with torch.no_grad():
        without = mixer(u)
    assert torch.equal(with_graph[0], without[0])
    assert torch.equal(with_graph[1].ssm, without[1].ssm)


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16-weights"])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_bfloat16_keeps_the_state_in_float32(backend, model_dtype):
    need_form(backend)
    exact = build(torch.float32)
    u = normal(2, 40, WIDTH, seed=2, dtype=torch.float32)
    expected, state = exact(u)
    mixer = build(torch.float32).to(model_dtype)
    mixer.backend = backend
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model_dtype == torch.float32):
        actual, new = mixer(u.to(model_dtype))
        actual.float().square().sum().backward()
    assert new.ssm.dtype == torch.float32
    assert actual.dtype == new.conv.dtype == torch.bfloat16
    # The projections round to bfloat16, one part in 2^9, and the norm divides by sums of such numbers.
    assert_close("y", actual.float(), expected, 2**-5)
    assert_close("ssm", new.ssm, state.ssm, 2**-5)
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


def test_infinite_dt_limit_is_no_limit():
    assert build().config.dt_limit == (0.0, math.inf)
    compare(dt_limit=(0.0, 1e9))
