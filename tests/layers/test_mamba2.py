"""The Mamba-2 mixer against its definition in naive operations: outputs, next state, and every gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close

from lengthwise.layers import _mamba2_inner
from lengthwise.layers.base import Place
from lengthwise.layers.mamba2 import Mamba2, Mamba2State
from lengthwise.models.config import Mamba2Config
from lengthwise.ops.conv import causal_conv_naive
from lengthwise.ops.ssd import ssd_naive
from lengthwise.seeds import generator

WIDTH = 12
TOLERANCE = 1e-11


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def build(dtype=torch.float64, **changes):
    sizes = {"d_state": 5, "headdim": 4, "chunk_size": 4, **changes}
    mixer = Mamba2(WIDTH, Mamba2Config(**sizes)).to(dtype)
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
    return Mamba2State(ssm=normal(*zero.ssm.shape, seed=5), conv=normal(*zero.conv.shape, seed=6, dtype=dtype))


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
    sum((results[name] * normal(*results[name].shape, seed=9)).sum() for name in through).backward()
    gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    gradients |= {"u": u.grad} | ({"state.ssm": state.ssm.grad, "state.conv": state.conv.grad} if state else {})
    return results, gradients


def compare(mixer, batch=3, time=11, *, state=True, lengths=None, through=("y", "ssm", "conv")):
    u = normal(batch, time, WIDTH, seed=2)
    carried = random_state(mixer, batch) if state else None
    expected, expected_gradients = run(lambda *a: defined(mixer, *a), mixer, u, carried, lengths, through)
    actual, gradients = run(mixer, mixer, u, carried, lengths, through)
    for name, value in expected.items():
        assert_close(name, actual[name], value, TOLERANCE)
    for name, value in expected_gradients.items():
        if value is None or not value.any():
            assert gradients[name] is None or not gradients[name].any(), f"{name}: a gradient where none should be"
        else:
            assert gradients[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", gradients[name], value, TOLERANCE)


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 8, 13])
def test_equals_the_definition_at_every_length(time, state):
    compare(build(), time=time, state=state)


@pytest.mark.parametrize(
    "changes",
    [
        {"ngroups": 2, "headdim": 2},
        {"dt_limit": (0.02, 0.2)},
        {"bias": True},
        {"conv_bias": False},
        {"d_conv": 2},
        {"chunk_size": 64},
        {"chunk_size": 1},
    ],
    ids=str,
)
def test_every_option(changes):
    compare(build(**changes))


@pytest.mark.parametrize("through", [("y",), ("ssm",), ("conv",)], ids=str)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradients_through_one_result_alone(state, through):
    compare(build(), state=state, through=through)


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_lengths(state):
    compare(build(), batch=4, state=state, lengths=torch.tensor([0, 1, 6, 11]))


@pytest.mark.parametrize("lengths", [None, torch.tensor([11, 2, 7])], ids=["full", "lengths"])
@pytest.mark.parametrize("tokens", [1, 4, 8, 11, 22])
def test_tiles_change_nothing(monkeypatch, tokens, lengths):
    # 3 rows of 11 tokens: tiles of one chunk, of two, of a row, of two rows.
    monkeypatch.setattr(_mamba2_inner, "TILE_TOKENS", tokens)
    for state in (True, False):
        compare(build(), state=state, lengths=lengths)


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


def test_results_without_gradient_are_the_same():
    mixer, u = build(), normal(2, 9, WIDTH, seed=2)
    with_graph = mixer(u)
    with torch.no_grad():
        without = mixer(u)
    assert torch.equal(with_graph[0], without[0])
    assert torch.equal(with_graph[1].ssm, without[1].ssm)


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16-weights"])
def test_bfloat16_keeps_the_state_in_float32(model_dtype):
    exact = build(torch.float32)
    u = normal(2, 40, WIDTH, seed=2, dtype=torch.float32)
    expected, state = exact(u)
    mixer = build(torch.float32).to(model_dtype)
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
    compare(build(dt_limit=(0.0, 1e9)))
