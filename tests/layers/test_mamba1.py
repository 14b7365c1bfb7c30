"""The Mamba-1 mixer against its definition in naive operations: outputs, next state, and every gradient."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close

from lengthwise.layers.base import Place
from lengthwise.layers.configs import Mamba1Config
from lengthwise.layers.mamba1 import Mamba1, Mamba1State
from lengthwise.ops.conv import causal_conv_naive
from lengthwise.ops.selective_scan import selective_scan_naive
from lengthwise.ops.selective_scan.native import library
from lengthwise.seeds import generator

WIDTH = 12
# float64: rounding. float32: sums of some hundred terms, through four projections.
TOLERANCE = {"torch": 1e-11, "native": 1e-5}


@pytest.fixture(params=["torch", "native"])
def backend(request):
    """The form of the scan; the kernel only where it can be compiled."""
    if request.param == "native" and library() is None:
        pytest.skip("no C compiler found")
    return request.param


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def build(dtype=torch.float64, backend="auto", **changes):
    mixer = Mamba1(WIDTH, Mamba1Config(**{"d_state": 5, **changes})).to(dtype)
    mixer.backend = backend
    random = generator(1, "test")
    mixer.reset_parameters(random, Place(0, 2, 2))
    with torch.no_grad():
        for parameter in (mixer.D, mixer.A_log, mixer.dt_proj.bias):  # nothing shall hide behind a one or a pattern
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    return mixer


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed, "inputs"), dtype=torch.float32).to(dtype)


def defined(mixer, u, state=None, lengths=None):
    """The mixer as the paper has it, one token after the other."""
    config = mixer.config
    x, z = mixer.in_proj(u).chunk(2, dim=-1)
    x, conv = causal_conv_naive(
        x, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, state.conv if state else None, lengths=lengths
    )
    x = F.silu(x)
    dt, B, C = mixer.x_proj(x).split([mixer.dt_rank, config.d_state, config.d_state], dim=-1)
    y, ssm = selective_scan_naive(
        x,
        F.softplus(mixer.dt_proj(dt)),
        -torch.exp(mixer.A_log),
        B,
        C,
        mixer.D,
        state.ssm if state else None,
        lengths=lengths,
    )
    return mixer.out_proj(y * F.silu(z)), Mamba1State(ssm=ssm, conv=conv)


def run(function, mixer, u, state, lengths, through):
    """Results, and gradients of a fixed random functional of those named in `through`, in the dtype of the mixer."""
    dtype = mixer.D.dtype
    u = u.to(dtype).clone().requires_grad_()
    if state is not None:
        state = Mamba1State(
            ssm=state.ssm.to(dtype).clone().requires_grad_(), conv=state.conv.to(dtype).clone().requires_grad_()
        )
    y, new = function(u, state, lengths)
    if lengths is not None:
        y = y * (torch.arange(u.shape[1]) < lengths[:, None])[..., None]
    results = {"y": y, "ssm": new.ssm, "conv": new.conv}
    mixer.zero_grad()
    sum((results[name] * normal(*results[name].shape, seed=9)).sum() for name in through).backward()
    gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    gradients |= {"u": u.grad} | ({"state.ssm": state.ssm.grad, "state.conv": state.conv.grad} if state else {})
    return results, gradients


def compare(backend, batch=3, time=11, *, state=True, lengths=None, through=("y", "ssm", "conv"), **changes):
    """Assert that the layer equals the definition in float64; the kernel runs in float32."""
    exact = build(**changes)
    mixer = build(torch.float64 if backend == "torch" else torch.float32, backend, **changes)
    mixer.load_state_dict(exact.state_dict())
    u, carried = normal(batch, time, WIDTH, seed=2), None
    if state:
        zero = exact.init_state(batch)
        carried = Mamba1State(ssm=normal(*zero.ssm.shape, seed=5), conv=normal(*zero.conv.shape, seed=6))
    expected, expected_gradients = run(lambda *a: defined(exact, *a), exact, u, carried, lengths, through)
    actual, gradients = run(mixer, mixer, u, carried, lengths, through)
    for name, value in expected.items():
        assert_close(name, actual[name], value, TOLERANCE[backend])
    for name, value in expected_gradients.items():
        if value is None or not value.any():
            assert gradients[name] is None or not gradients[name].any(), f"{name}: a gradient where none should be"
        else:
            assert gradients[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", gradients[name], value, TOLERANCE[backend])


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 13, 33])
def test_equals_the_definition_at_every_length(time, state, backend):
    compare(backend, time=time, state=state)


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": True},
        {"conv_bias": False},
        {"d_conv": 2},
        {"dt_rank": 3},
        {"expand": 3, "d_state": 16},
        {"A_init_scale": 0.01, "dt_scale": 2.0},
    ],
    ids=str,
)
def test_every_option(changes, backend):
    compare(backend, **changes)


@pytest.mark.parametrize("through", [("y",), ("ssm",), ("conv",)], ids=str)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradients_through_one_result_alone(state, through, backend):
    compare(backend, state=state, through=through)


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_lengths(state, backend):
    compare(backend, batch=4, state=state, lengths=torch.tensor([0, 1, 6, 11]))


def test_the_layer_hands_its_backend_on(monkeypatch):
    from lengthwise.layers import mamba1

    seen = []
    real = mamba1.selective_scan
    monkeypatch.setattr(mamba1, "selective_scan", lambda *a, **k: seen.append(k["backend"]) or real(*a, **k))
    build(backend="torch")(normal(1, 3, WIDTH, seed=2))
    assert seen == ["torch"]


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16-weights"])
def test_bfloat16_keeps_the_state_in_float32(model_dtype):
    exact = build(torch.float32)
    u = normal(2, 40, WIDTH, seed=2, dtype=torch.float32)
    expected, state = exact(u)
    mixer = build(torch.float32).to(model_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model_dtype == torch.float32):
        actual, new = mixer(u.to(model_dtype))
        actual.float().square().sum().backward()
    assert new.ssm.dtype == mixer.init_state(1).ssm.dtype == torch.float32
    assert actual.dtype == new.conv.dtype == torch.bfloat16
    # Five projections in a row round to bfloat16, one part in 2^9 each.
    assert_close("y", actual.float(), expected, 2**-5)
    assert_close("ssm", new.ssm, state.ssm, 2**-5)
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


@torch.no_grad()
def test_official_initialisation():
    mixer = Mamba1(256, Mamba1Config(A_init_scale=0.5))
    mixer.reset_parameters(generator(1, "test"), Place(0, 4, 4))
    assert mixer.dt_rank == 16
    assert_close("A", mixer.A_log.exp(), 0.5 * torch.arange(1.0, 17).expand(512, 16), 1e-6)
    assert mixer.D.eq(1).all()
    dt = F.softplus(mixer.dt_proj.bias)
    assert 0.99e-3 <= float(dt.min()) < 1.2e-3
    assert 0.08 < float(dt.max()) <= 0.101
    assert abs(float(dt.log().mean()) - 0.5 * (torch.tensor(1e-4).log())) < 0.2  # the middle of the logarithms
    for weight, bound in (
        (mixer.in_proj.weight, 256**-0.5),
        (mixer.x_proj.weight, 512**-0.5),
        (mixer.dt_proj.weight, 16**-0.5),
        (mixer.conv1d.weight, 4**-0.5),
        (mixer.conv1d.bias, 4**-0.5),
        (mixer.out_proj.weight, 512**-0.5 / 2),
    ):
        assert 0.98 * bound < float(weight.abs().max()) <= bound * 1.001


def test_parameters_are_named_as_in_published_checkpoints():
    shapes = {name: tuple(parameter.shape) for name, parameter in Mamba1(32, Mamba1Config()).named_parameters()}
    assert shapes == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (34, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }
