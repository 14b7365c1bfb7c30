"""The mixings of RWKV-6 against their definitions in naive operations: outputs, next state, and every gradient."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close
from tests.layers.definition import WIDTH, compare_with, fill, normal

from lengthwise.layers.base import Place
from lengthwise.layers.configs import RWKV6ChannelMixConfig, RWKV6Config
from lengthwise.layers.rwkv6 import RWKV6ChannelMix, RWKV6ChannelState, RWKV6State, RWKV6TimeMix
from lengthwise.native.compiler import compiler
from lengthwise.ops.rwkv6 import rwkv6_naive
from lengthwise.seeds import generator


def build(kind="time", dtype=torch.float64, **changes):
    if kind == "time":
        sizes = {"head_size": 4, "mix_rank": 3, "decay_rank": 5, "chunk_size": 4}
        mixer = RWKV6TimeMix(WIDTH, RWKV6Config(**{**sizes, **changes}))
    else:
        mixer = RWKV6ChannelMix(WIDTH, RWKV6ChannelMixConfig(**{"width": 20, **changes}))
    return fill(mixer, dtype)


def before_and_last(x, state, lengths):
    """The token before each token, and the last real one of each row, by loops."""
    batch, time, width = x.shape
    first = x.new_zeros(batch, width) if state is None else state.shift
    previous = torch.stack([first, *x.unbind(1)][:time], dim=1)
    ends = [time] * batch if lengths is None else lengths.tolist()
    return previous, torch.stack([first[b] if end == 0 else x[b, end - 1] for b, end in enumerate(ends)])


def defined(mixer, x, state=None, lengths=None):
    """The mixing as published."""
    previous, shift = before_and_last(x, state, lengths)
    if isinstance(mixer, RWKV6ChannelMix):
        x_k, x_r = ((1 - mu) * x + mu * previous for mu in (mixer.time_maa_k, mixer.time_maa_r))
        key = torch.relu(mixer.key(x_k)) ** 2
        return torch.sigmoid(mixer.receptance(x_r)) * mixer.value(key), {"shift": shift}
    d = previous - x
    low = torch.tanh((x + d * mixer.time_maa_x) @ mixer.time_maa_w1)
    mixed = {}
    for index, name in enumerate("wkvrg"):
        rank = mixer.config.mix_rank
        m = low[..., index * rank : (index + 1) * rank] @ mixer.time_maa_w2[index]
        mixed[name] = x + d * (getattr(mixer, f"time_maa_{name}") + m)
    w = mixer.time_decay + torch.tanh(mixed["w"] @ mixer.time_decay_w1) @ mixer.time_decay_w2
    split = (mixer.num_heads, -1)
    r, k, v = mixer.receptance(mixed["r"]), mixer.key(mixed["k"]), mixer.value(mixed["v"])
    o, wkv = rwkv6_naive(
        r.unflatten(-1, split),
        k.unflatten(-1, split),
        v.unflatten(-1, split),
        torch.log(torch.exp(-torch.exp(w))).unflatten(-1, split),
        mixer.time_faaaa,
        None if state is None else state.wkv,
        lengths=lengths,
    )
    eps = 1e-5 * mixer.config.head_size_divisor**2
    normed = F.group_norm(o.flatten(2).flatten(0, 1), mixer.num_heads, mixer.ln_x.weight, mixer.ln_x.bias, eps)
    y = mixer.output(normed.view_as(x) * F.silu(mixer.gate(mixed["g"])))
    return y, {"wkv": wkv, "shift": shift}


compare = partial(compare_with, defined)
both = pytest.mark.parametrize("kind", ["time", "channel"])


@both
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 8, 13])
def test_equals_the_definition_at_every_length(kind, time, state):
    compare(build(kind), time=time, state=state)


@pytest.mark.parametrize(
    "changes",
    [{"head_size": 12}, {"head_size": 3}, {"mix_rank": 1}, {"head_size_divisor": 100}, {"chunk_size": 64}],
    ids=str,
)
def test_every_option(changes):
    compare(build(**changes))


@pytest.mark.parametrize("through", [("y",), ("wkv",), ("shift",)], ids=str)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradients_through_one_result_alone(state, through):
    compare(build(), state=state, through=through)


@both
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_lengths(kind, state):
    compare(build(kind), batch=4, state=state, lengths=torch.tensor([0, 1, 6, 11]))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_backends_in_float32(backend):
    if backend == "native" and compiler() is None:
        pytest.skip("no C compiler on this machine")
    mixer = build(dtype=torch.float32)
    mixer.backend = backend
    # Sums of some dozen float32 terms, and a norm that divides by them.
    compare(mixer, time=20, tolerance=1e-5)


def test_the_backend_is_passed_on(monkeypatch):
    seen = []
    monkeypatch.setattr("lengthwise.layers.rwkv6.rwkv6", lambda *a, backend, **_: seen.append(backend) or (a[2], a[5]))
    mixer = build()
    mixer.backend = "torch"
    mixer(normal(1, 3, WIDTH, seed=2), mixer.init_state(1))
    assert seen == ["torch"]


def test_very_fast_decays():
    # exp(-exp(8)): every step forgets all it can.
    mixer = build(dtype=torch.float32)
    with torch.no_grad():
        mixer.time_decay.fill_(8.0)
    x = normal(2, 30, WIDTH, seed=2, dtype=torch.float32)
    y, state = mixer(x)
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())
    # Only the last token is left in the state.
    _, last = mixer(x[:, -1:], RWKV6State(wkv=torch.zeros_like(state.wkv), shift=x[:, -2]))
    assert_close("wkv", state.wkv, last.wkv, 1e-6)


def test_states_are_records_of_what_is_carried():
    assert [(name, kind, tuple(t.shape)) for name, kind, t in build().init_state(2).tensors()] == [
        ("wkv", "recurrent", (2, 3, 4, 4)),
        ("shift", "short", (2, 12)),
    ]
    channel = build("channel").init_state(2)
    assert isinstance(channel, RWKV6ChannelState)
    assert [(name, kind, tuple(t.shape)) for name, kind, t in channel.tensors()] == [("shift", "short", (2, 12))]


def test_parameters_have_the_published_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    assert shapes == {
        **{f"time_maa_{name}": (1, 1, 12) for name in "xwkvrg"},
        "time_maa_w1": (12, 15),
        "time_maa_w2": (5, 3, 12),
        "time_decay": (1, 1, 12),
        "time_decay_w1": (12, 5),
        "time_decay_w2": (5, 12),
        "time_faaaa": (3, 4),
        **{f"{name}.weight": (12, 12) for name in ("receptance", "key", "value", "gate", "output")},
        "ln_x.weight": (12,),
        "ln_x.bias": (12,),
    }
    shapes = {name: tuple(value.shape) for name, value in build("channel").state_dict().items()}
    assert shapes == {
        "time_maa_k": (1, 1, 12),
        "time_maa_r": (1, 1, 12),
        "key.weight": (20, 12),
        "receptance.weight": (12, 12),
        "value.weight": (12, 20),
    }


@pytest.mark.parametrize(("layer", "layers"), [(0, 4), (2, 4), (3, 4), (0, 1)])
def test_official_initialisation(layer, layers):
    mixer = build(dtype=torch.float32).requires_grad_(False)
    mixer.reset_parameters(generator(0, "test"), Place(layer, layers, 2 * layers))
    depth, height = layer / max(1, layers - 1), 1 - layer / layers
    for i in range(WIDTH):
        share = i / WIDTH
        wanted = {
            "x": 1 - share**height,
            "w": 1 - share**height,
            "k": 1 - share**height,
            "v": 1 - (share**height + 0.3 * depth),
            "r": 1 - share ** (0.5 * height),
            "g": 1 - share ** (0.5 * height),
        }
        for name, value in wanted.items():
            assert float(getattr(mixer, f"time_maa_{name}")[0, 0, i]) == pytest.approx(value, abs=1e-6), name
        decay = -6 + 5 * (i / (WIDTH - 1)) ** (0.7 + 1.3 * depth)
        bonus = depth * (1 - i / (WIDTH - 1)) + ((i + 1) % 3 - 1) * 0.1
        assert float(mixer.time_decay[0, 0, i]) == pytest.approx(decay, abs=1e-5)
        assert float(mixer.time_faaaa.flatten()[i]) == pytest.approx(bonus, abs=1e-6)
    eye = torch.eye(WIDTH)
    for linear, gain in ((mixer.receptance, 1), (mixer.value, 1), (mixer.key, 0.1), (mixer.gate, 0.1)):
        assert torch.allclose(linear.weight @ linear.weight.T, gain**2 * eye, atol=1e-5)
    for zero in (mixer.output.weight, mixer.time_maa_w1, mixer.time_decay_w1, mixer.ln_x.bias):
        assert not zero.any()
    for small in (mixer.time_maa_w2, mixer.time_decay_w2):
        assert 0.005 < float(small.abs().max()) <= 0.01
    assert torch.allclose(mixer.ln_x.weight, torch.tensor(((1 + layer) / layers) ** 0.7))

    channel = build("channel", dtype=torch.float32).requires_grad_(False)
    channel.reset_parameters(generator(0, "test"), Place(layer, layers, 2 * layers))
    assert torch.equal(channel.time_maa_k, mixer.time_maa_k)
    assert torch.equal(channel.time_maa_r, mixer.time_maa_k)
    assert torch.allclose(channel.key.weight.T @ channel.key.weight, eye, atol=1e-5)
    assert not channel.receptance.weight.any()
    assert not channel.value.weight.any()


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16-weights"])
@both
def test_bfloat16_keeps_the_state_in_float32(kind, model_dtype):
    x = normal(2, 40, WIDTH, seed=2, dtype=torch.float32)
    expected, state = build(kind, torch.float32)(x)
    mixer = build(kind, torch.float32).to(model_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model_dtype == torch.float32):
        actual, new = mixer(x.to(model_dtype))
        actual.float().square().sum().backward()
    assert actual.dtype == torch.bfloat16
    # Mixes, projections and decays round to bfloat16, one part in 2^9, and the norm divides by sums of such numbers.
    assert_close("y", actual.float(), expected, 2**-4)
    if kind == "time":
        assert new.wkv.dtype == torch.float32
        assert_close("wkv", new.wkv, state.wkv, 2**-5)
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())
