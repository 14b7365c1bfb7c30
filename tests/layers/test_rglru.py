"""Griffin's recurrent block against the definition: outputs, state, and the gradient of everything it reads."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close

from lengthwise.layers.base import Place
from lengthwise.layers.configs import RGLRUConfig
from lengthwise.layers.rglru import RecurrentBlock, RGLRUState
from lengthwise.native.compiler import compiler
from lengthwise.ops.conv import causal_conv_naive
from lengthwise.ops.rglru import rglru_naive
from lengthwise.seeds import generator

WIDTH, TOLERANCE = 6, 1e-12
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def build(dtype=torch.float64, **changes):
    mixer = RecurrentBlock(WIDTH, RGLRUConfig(**{"num_heads": 3, "lru_width": 9, **changes})).to(dtype)
    random = generator(1, "test")
    mixer.reset_parameters(random, Place(0, 2, 4))
    with torch.no_grad():
        for parameter in mixer.parameters():  # nothing shall hide behind a zero
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    return mixer


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed, "inputs"), dtype=torch.float32).to(dtype)


def random_state(mixer, position):
    zero = mixer.init_state(len(position))
    return RGLRUState(
        lru=normal(*zero.lru.shape, seed=5), conv=normal(*zero.conv.shape, seed=6), position=torch.tensor(position)
    )


def defined(mixer, u, state=None, lengths=None):
    """The block as the paper and Griffin's own code have it."""
    gate = mixer.linear_y(u)
    gate = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    x, conv = causal_conv_naive(
        mixer.linear_x(u),
        mixer.conv_1d.weight[:, 0],
        mixer.conv_1d.bias,
        state.conv if state else None,
        lengths=lengths,
    )
    lru, heads = mixer.rg_lru, mixer.config.num_heads

    def by_block(weight, bias):
        return torch.cat([part @ weight[h] + bias[h] for h, part in enumerate(x.chunk(heads, dim=-1))], dim=-1)

    position = state.position if state else torch.zeros(len(u), dtype=torch.long)
    reset = (position[:, None] + torch.arange(u.shape[1])) == 0
    h, new = rglru_naive(
        x,
        by_block(lru.input_gate_weight, lru.input_gate_bias),
        by_block(lru.recurrent_gate_weight, lru.recurrent_gate_bias),
        lru.recurrent_param,
        state.lru if state else None,
        reset=reset if mixer.config.reset_at_start else None,
        lengths=lengths,
    )
    read = torch.full((len(u),), u.shape[1]) if lengths is None else lengths
    return mixer.linear_out(h * gate), RGLRUState(lru=new, conv=conv, position=position + read)


def run(function, mixer, u, state, lengths, through):
    """Results, and gradients of a fixed random functional of those named in `through`."""
    u = u.clone().requires_grad_()
    if state is not None:
        state = state.with_tensors(lru=state.lru.clone().requires_grad_(), conv=state.conv.clone().requires_grad_())
    y, new = function(u, state, lengths)
    if lengths is not None:
        y = y * (torch.arange(u.shape[1]) < lengths[:, None])[..., None]
    results = {"y": y, "lru": new.lru, "conv": new.conv}
    mixer.zero_grad()
    sum((results[name] * normal(*results[name].shape, seed=9)).sum() for name in through).backward()
    gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    gradients |= {"u": u.grad} | ({"state.lru": state.lru.grad, "state.conv": state.conv.grad} if state else {})
    return results, gradients, new.position


def compare(mixer, time=11, *, position=(0, 4, 9), lengths=None, through=("y", "lru", "conv")):
    u = normal(3, time, WIDTH, seed=2)
    state = None if position is None else random_state(mixer, position)
    expected, expected_gradients, read = run(lambda *a: defined(mixer, *a), mixer, u, state, lengths, through)
    actual, gradients, position_after = run(mixer, mixer, u, state, lengths, through)
    assert torch.equal(position_after, read)
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        if value.numel():  # filters of one tap have no buffer
            assert_close(name, actual[name], value, TOLERANCE)
    for name, value in expected_gradients.items():
        if value is None or not value.any():
            assert gradients[name] is None or not gradients[name].any(), f"{name}: a gradient where none should be"
        else:
            assert gradients[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", gradients[name], value, TOLERANCE)


@pytest.mark.parametrize("position", [None, (0, 4, 9)], ids=["from-zero", "from-state"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 13])
def test_equals_the_definition_at_every_length(time, position):
    compare(build(), time, position=position)


@pytest.mark.parametrize(
    "changes",
    [{"num_heads": 1}, {"num_heads": 9}, {"lru_width": None}, {"d_conv": 2}, {"d_conv": 1}, {"reset_at_start": False}],
    ids=str,
)
def test_every_option(changes):
    compare(build(**changes))
    compare(build(**changes), position=None)


@pytest.mark.parametrize("through", [("y",), ("lru",), ("conv",)], ids=str)
def test_gradients_through_one_result_alone(through):
    compare(build(), through=through)


@pytest.mark.parametrize("lengths", [(0, 1, 11), (11, 0, 2)], ids=str)
@pytest.mark.parametrize("position", [None, (0, 4, 0)], ids=["from-zero", "from-state"])
def test_lengths(position, lengths):
    compare(build(), position=position, lengths=torch.tensor(lengths))


@torch.no_grad()
def test_at_position_0_the_state_that_is_passed_in_is_forgotten():
    mixer, u = build(), normal(2, 5, WIDTH, seed=2)
    state = random_state(mixer, (0, 1))
    other = state.with_tensors(lru=state.lru + 1)
    first, second = mixer(u, state)[0], mixer(u, other)[0]
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])
    keeping = build(reset_at_start=False)
    keeping.load_state_dict(mixer.state_dict())
    assert not torch.allclose(keeping(u, state)[0][0], keeping(u, other)[0][0])


@torch.no_grad()
def test_a_row_that_read_nothing_still_resets_later():
    mixer, u = build(), normal(2, 4, WIDTH, seed=2)
    _, state = mixer(u, random_state(mixer, (0, 3)), torch.tensor([0, 4]))
    assert state.position.tolist() == [0, 7]
    expected, _ = mixer(u[:1], mixer.init_state(1).with_tensors(conv=state.conv[:1]))
    assert_close("row 0", mixer(u, state)[0][:1], expected, TOLERANCE)


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=needs_compiler)])
def test_both_forms_in_float32(backend):
    exact, u = build(), normal(2, 30, WIDTH, seed=2)
    mixer = build(torch.float32)
    mixer.load_state_dict(exact.state_dict())
    mixer.backend = backend
    expected, gradients, _ = run(exact, exact, u, None, None, ("y", "lru"))
    actual, low, _ = run(mixer, mixer, u.float(), None, None, ("y", "lru"))
    for name in ("y", "lru"):
        assert_close(name, actual[name], expected[name], 1e-5)
    for name, gradient in gradients.items():
        assert_close(f"gradient of {name}", low[name], gradient, 1e-5)


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16-weights"])
def test_bfloat16_keeps_the_state_in_float32(model_dtype):
    exact = build(torch.float32)
    u = normal(2, 40, WIDTH, seed=2, dtype=torch.float32)
    expected, state = exact(u)
    mixer = build(torch.float32).to(model_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model_dtype == torch.float32):
        actual, new = mixer(u.to(model_dtype))
        actual.float().square().sum().backward()
    assert new.lru.dtype == torch.float32
    assert actual.dtype == new.conv.dtype == torch.bfloat16
    # The projections and the gates' products round to bfloat16, one part in 2^9, several times in a row.
    assert_close("y", actual.float(), expected, 2**-5)
    assert_close("lru", new.lru, state.lru, 2**-5)
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


@torch.no_grad()
def test_published_initialisation():
    mixer = RecurrentBlock(512, RGLRUConfig(num_heads=4, lru_width=1024))
    mixer.reset_parameters(generator(0, "test"), Place(3, 10, 20))
    radius = torch.exp(-F.softplus(mixer.rg_lru.recurrent_param.double()))
    assert 0.9 <= float(radius.min()) < 0.902
    assert 0.998 < float(radius.max()) <= 0.999
    # Uniform by area: the mean of the squares lies half-way, where that of the radii would not.
    assert float(radius.square().mean()) == pytest.approx((0.9**2 + 0.999**2) / 2, abs=3e-3)
    deviations = {
        "linear_x.weight": 512**-0.5,
        "linear_y.weight": 512**-0.5,
        "linear_out.weight": (2 / 10 / 1024) ** 0.5,
        "conv_1d.weight": (0.01 / 4) ** 0.5,
        "rg_lru.input_gate_weight": 256**-0.5,
        "rg_lru.recurrent_gate_weight": 256**-0.5,
    }
    for name, parameter in mixer.named_parameters():
        if name in deviations:
            assert float(parameter.std()) == pytest.approx(deviations[name], rel=0.03), name
        elif name != "rg_lru.recurrent_param":
            assert not parameter.any(), name


def test_parameters_have_the_published_names_and_shapes():
    shapes = {name: tuple(parameter.shape) for name, parameter in build().named_parameters()}
    assert shapes == {
        "linear_x.weight": (9, 6),
        "linear_x.bias": (9,),
        "linear_y.weight": (9, 6),
        "linear_y.bias": (9,),
        "conv_1d.weight": (9, 1, 4),
        "conv_1d.bias": (9,),
        "rg_lru.recurrent_param": (9,),
        "rg_lru.input_gate_weight": (3, 3, 3),
        "rg_lru.input_gate_bias": (3, 3),
        "rg_lru.recurrent_gate_weight": (3, 3, 3),
        "rg_lru.recurrent_gate_bias": (3, 3),
        "linear_out.weight": (6, 9),
        "linear_out.bias": (6,),
    }
