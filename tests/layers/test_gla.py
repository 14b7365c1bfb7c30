"""The GLA mixer against its definition in naive operations: outputs, next state, and every gradient."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close
from tests.layers.definition import WIDTH, compare_with, fill, normal

from lengthwise.layers.base import Place
from lengthwise.layers.configs import GLAConfig
from lengthwise.layers.gla import GLA, ConvGLAState, GLAState
from lengthwise.native.compiler import compiler
from lengthwise.ops.conv import causal_conv_naive
from lengthwise.ops.gla import gla_naive
from lengthwise.seeds import generator

CONV = {"use_short_conv": True, "conv_bias": True}


def build(dtype=torch.float64, **changes):
    # The norm undoes the size of what one token alone reads, all but its eps; a large one keeps gradients there.
    sizes = {"num_heads": 2, "chunk_size": 4, "gate_low_rank_dim": 5, "norm_eps": 0.01, **changes}
    mixer = GLA(WIDTH, GLAConfig(**sizes))
    return fill(mixer, dtype)


def defined(mixer, u, state=None, lengths=None):
    """The mixer as published, one token after the other."""
    config = mixer.config
    parts, buffers = [], []
    before = None if state is None or not config.use_short_conv else state.conv.split(list(mixer.widths), dim=-1)
    for index, name in enumerate(("q", "k", "v")):
        x = getattr(mixer, f"{name}_proj")(u)
        if config.use_short_conv:
            conv = getattr(mixer, f"{name}_conv1d")
            buffer = None if before is None else before[index]
            x, buffer = causal_conv_naive(x, conv.weight[:, 0], conv.bias, buffer, lengths=lengths)
            x = F.silu(x)
            buffers.append(buffer)
        parts.append(x)
    low_rank, full = mixer.gk_proj
    log_decay = F.logsigmoid(F.linear(low_rank(u), full.weight, full.bias)) / config.gate_logit_normalizer
    if config.clamp_min is not None:
        log_decay = torch.maximum(log_decay, torch.tensor(config.clamp_min, dtype=u.dtype))
    q, k, v = parts
    heads, served = config.num_heads, config.num_heads // (config.num_kv_heads or config.num_heads)
    q = q.unflatten(-1, (heads, -1))
    # Head h of the queries reads head h // served of keys, values and decays.
    k, v, log_decay = (
        torch.stack([x.unflatten(-1, (heads // served, -1))[:, :, h // served] for h in range(heads)], dim=2)
        for x in (k, v, log_decay)
    )
    recurrent = None if state is None else state.recurrent
    o, recurrent = gla_naive(q, k, v, log_decay, recurrent, lengths=lengths)
    norm = mixer.g_norm_swish_gate if config.use_output_gate else mixer.g_norm
    o = norm.weight * o / (o.square().mean(dim=-1, keepdim=True) + config.norm_eps).sqrt()
    o = o.flatten(2)
    if config.use_output_gate:
        gate = mixer.g_proj(u)
        o = o * gate * torch.sigmoid(gate)
    new = {"recurrent": recurrent} | ({"conv": torch.cat(buffers, dim=-1)} if buffers else {})
    return mixer.o_proj(o), new


compare = partial(compare_with, defined)


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("conv", [{}, CONV], ids=["plain", "conv"])
def test_equals_the_definition_at_every_length(conv, time, state):
    compare(build(**conv), time=time, state=state)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_heads": 6, "num_kv_heads": 2, "expand_k": 1.0},
        {"num_heads": 6, "num_kv_heads": 1, "expand_k": 1.0, **CONV},
        {"expand_k": 1.0, "expand_v": 2.0},
        {"use_output_gate": False},
        {"clamp_min": -0.05},
        {"gate_logit_normalizer": 1.0},
        {"use_short_conv": True},
        {"conv_size": 2, **CONV},
        {"norm_eps": 0.1},
        {"chunk_size": 64},
    ],
    ids=str,
)
def test_every_option(changes):
    compare(build(**changes))


@pytest.mark.parametrize("through", [("y",), ("recurrent",), ("conv",)], ids=str)
@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
def test_gradients_through_one_result_alone(state, through):
    compare(build(**CONV), state=state, through=through)


@pytest.mark.parametrize("state", [True, False], ids=["from-state", "from-zero"])
@pytest.mark.parametrize("conv", [{}, CONV], ids=["plain", "conv"])
def test_lengths(conv, state):
    compare(build(**conv), batch=4, state=state, lengths=torch.tensor([0, 1, 6, 11]))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_backends_in_float32(backend):
    if backend == "native" and compiler() is None:
        pytest.skip("no C compiler on this machine")
    mixer = build(torch.float32, **CONV)
    mixer.backend = backend
    # Sums of some dozen float32 terms, and a norm that divides by them.
    compare(mixer, time=20, tolerance=1e-5)


def test_the_backend_is_passed_on(monkeypatch):
    seen = []
    monkeypatch.setattr("lengthwise.layers.gla.gla", lambda *a, backend, **_: seen.append(backend) or (a[2], a[4]))
    mixer = build()
    mixer.backend = "torch"
    mixer(normal(1, 3, WIDTH, seed=2), mixer.init_state(1))
    assert seen == ["torch"]


def test_the_state_is_a_record_of_what_is_carried():
    assert [name for name, _, _ in build().init_state(2).tensors()] == ["recurrent"]
    state = build(**CONV).init_state(2)
    assert isinstance(state, ConvGLAState)
    assert isinstance(state, GLAState)
    assert [(name, kind, tuple(t.shape)) for name, kind, t in state.tensors()] == [
        ("recurrent", "recurrent", (2, 2, 3, 6)),
        ("conv", "short", (2, 3, 6 + 6 + 12)),
    ]


def test_parameters_have_the_published_names():
    names = set(build(use_short_conv=True, conv_bias=True).state_dict())
    projections = {f"{name}_proj.weight" for name in "qkvgo"} | {
        "gk_proj.0.weight",
        "gk_proj.1.weight",
        "gk_proj.1.bias",
    }
    convolutions = {f"{name}_conv1d.{leaf}" for name in "qkv" for leaf in ("weight", "bias")}
    assert names == projections | convolutions | {"g_norm_swish_gate.weight"}
    assert set(build(use_output_gate=False).state_dict()) == projections - {"g_proj.weight"} | {"g_norm.weight"}
    assert tuple(build(use_short_conv=True).q_conv1d.weight.shape) == (6, 1, 4)


def test_published_initialisation():
    mixer = GLA(256, GLAConfig(use_short_conv=True, conv_bias=True))
    mixer.reset_parameters(generator(0, "test"), Place(3, 4, 8))
    for name, parameter in mixer.named_parameters():
        if name == "g_norm_swish_gate.weight":
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16-weights"])
@pytest.mark.parametrize("conv", [{}, CONV], ids=["plain", "conv"])
def test_bfloat16_keeps_the_state_in_float32(conv, model_dtype):
    exact = build(torch.float32, **conv)
    u = normal(2, 40, WIDTH, seed=2, dtype=torch.float32)
    expected, state = exact(u)
    mixer = build(torch.float32, **conv).to(model_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model_dtype == torch.float32):
        actual, new = mixer(u.to(model_dtype))
        actual.float().square().sum().backward()
    assert new.recurrent.dtype == torch.float32
    assert actual.dtype == torch.bfloat16
    # The projections round to bfloat16, one part in 2^9, and the norm divides by sums of such numbers.
    assert_close("y", actual.float(), expected, 2**-5)
    assert_close("recurrent", new.recurrent, state.recurrent, 2**-5)
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())
