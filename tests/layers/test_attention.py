"""The attention layer against the definition, its state and its budget, and a fault of published decoding."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close, relative_rms

from lengthwise.layers.attention import Attention, AttentionState, ConvAttentionState
from lengthwise.layers.base import Place
from lengthwise.layers.configs import AttentionConfig
from lengthwise.ops.attention import rotate_naive
from lengthwise.ops.conv import causal_conv_naive
from lengthwise.seeds import generator

WIDTH, TOLERANCE = 12, 1e-12
OPTIONS = [
    {},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "head_dim": 6, "rotary_dim": 4},
    {"rotary_dim": 0},
    {"rotary_base": 50.0},
    {"window": 3},
    {"window": 3, "window_reaches": True},
    {"d_conv": 4},
    {"d_conv": 2, "conv_bias": False, "window": 5, "num_kv_heads": 2},
    {"d_conv": 1},
    {"qkv_bias": True, "out_bias": True},
]


def build(dtype=torch.float64, **changes):
    mixer = Attention(WIDTH, AttentionConfig(**{"num_heads": 4, "head_dim": 4, **changes})).to(dtype)
    random = generator(1, "test")
    mixer.reset_parameters(random, Place(0, 2, 4))
    with torch.no_grad():
        for parameter in mixer.parameters():  # nothing shall hide behind a zero
            parameter += 0.2 * torch.randn(parameter.shape, generator=random)
    return mixer


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed, "inputs"), dtype=torch.float32).to(dtype)


def defined(mixer, u):
    """The layer over a whole sequence: a full square of scores, and a mask from the text of the options."""
    config, time = mixer.config, u.shape[1]
    qkv = mixer.in_proj(u)
    if config.d_conv:
        qkv, _ = causal_conv_naive(qkv, mixer.conv1d.weight[:, 0], mixer.conv1d.bias)
    groups, width = config.num_kv_heads or config.num_heads, mixer.head_dim
    q, k, v = qkv.split([config.num_heads * width, groups * width, groups * width], dim=-1)
    q, k, v = (tensor.unflatten(-1, (-1, width)) for tensor in (q, k, v))
    size = width if config.rotary_dim is None else config.rotary_dim
    q, k = (rotate_naive(tensor, rotary_dim=size, base=config.rotary_base) for tensor in (q, k))
    k, v = (tensor.repeat_interleave(config.num_heads // groups, dim=2) for tensor in (k, v))
    back = torch.arange(time)[:, None] - torch.arange(time)[None, :]  # how far a key lies before a query
    visible = back >= 0
    if config.window is not None:
        visible &= back <= config.window if config.window_reaches else back < config.window
    scores = torch.einsum("bthk,bshk->bhts", q, k) / width**0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return mixer.out_proj(torch.einsum("bhts,bshk->bthk", weights, v).flatten(2))


def in_pieces(mixer, u, pieces, state=None):
    outputs = []
    for piece in u.split(pieces, dim=1):
        y, state = mixer(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@pytest.mark.parametrize("pieces", [[11], [5, 6], [1, 2, 8], [1] * 11], ids=str)
@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_equals_the_definition_in_pieces_of_any_size(changes, pieces):
    mixer, results = build(**changes), []
    for function in (lambda u: defined(mixer, u), lambda u: in_pieces(mixer, u, pieces)[0]):
        u = normal(2, 11, WIDTH, seed=2).requires_grad_()
        y = function(u)
        leaves = {"u": u, **dict(mixer.named_parameters())}
        grads = torch.autograd.grad((y * normal(*y.shape, seed=9)).sum(), list(leaves.values()))
        results.append({"y": y, **dict(zip(leaves, grads, strict=True))})
    for name, expected in results[0].items():
        assert_close(name, results[1][name], expected, TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_lengths_and_rows_of_different_pasts(changes):
    mixer, u = build(**changes), normal(3, 9, WIDTH, seed=2)
    first, second = torch.tensor([6, 0, 1]), torch.tensor([1, 9, 4])
    y1, state = mixer(u, None, first)
    y2, state = mixer(u, state, second)
    assert state.position.tolist() == [7, 9, 5]
    for row in range(3):
        text = torch.cat([u[row, : first[row]], u[row, : second[row]]])[None]
        actual = torch.cat([y1[row, : first[row]], y2[row, : second[row]]])[None]
        assert_close(f"row {row}", actual, defined(mixer, text), TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("budget", [0, 1, 4])
@pytest.mark.parametrize("changes", [{}, {"window": 3, "window_reaches": True}, {"d_conv": 4}], ids=str)
def test_a_budget_is_a_window_however_the_text_is_cut(changes, budget):
    mixer, u = build(**changes), normal(2, 13, WIDTH, seed=2)
    mixer.budget = budget
    window = min(budget, changes.get("window", budget))
    seen = {"window": window, "window_reaches": True} if window else {"window": 1, "window_reaches": False}
    expected = build(**{**changes, **seen})
    for pieces in ([13], [7, 6], [1] * 13):
        y, state = in_pieces(mixer, u, pieces)
        assert_close(str(pieces), y, defined(expected, u), TOLERANCE)
        assert state.keys.shape[1] == state.values.shape[1] == window


@torch.no_grad()
def test_a_budget_can_change_in_the_middle_of_a_stream():
    mixer, u = build(), normal(1, 9, WIDTH, seed=2)
    _, state = mixer(u[:, :6])
    mixer.budget = 2
    _, state = mixer(u[:, 6:8], state)
    assert state.keys.shape[1] == 2
    mixer.budget = None
    y, state = mixer(u[:, 8:], state)
    assert state.keys.shape[1] == 3
    narrow = build(window=3)
    assert_close("the next token sees what was kept", y, defined(narrow, u)[:, 8:], TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"window": 3}], ids=str)
def test_a_state_whose_slots_were_dropped_starts_anew(changes):
    # As State Passing leaves it: the position is passed on, keys and values are not.
    mixer, u, lengths = build(**changes), normal(3, 9, WIDTH, seed=2), torch.tensor([9, 2, 0])
    empty = u.new_zeros(3, 0, 4, 4)
    used = AttentionState(keys=empty, values=empty, position=torch.tensor([7, 90, 1]))
    (expected, after), (actual, new) = mixer(u, None, lengths), mixer(u, used, lengths)
    for row, length in enumerate(lengths):
        assert torch.equal(actual[row, :length], expected[row, :length])
    more = normal(3, 4, WIDTH, seed=3)
    assert torch.equal(mixer(more, new)[0], mixer(more, after)[0])


@torch.no_grad()
def test_the_position_is_counted_on_where_no_slot_is_ever_kept():
    mixer = build()
    mixer.budget = 0
    _, state = in_pieces(mixer, normal(2, 9, WIDTH, seed=2), [4, 5])
    assert state.position.tolist() == [9, 9]


@torch.no_grad()
def test_memory_of_a_stream_with_a_budget_is_constant():
    mixer, state, sizes = build(torch.float32, num_kv_heads=1), None, set()
    mixer.budget = 8
    for seed in range(12):
        _, state = mixer(normal(2, 5, WIDTH, seed=seed, dtype=torch.float32), state)
        tensors = [tensor for _, _, tensor in state.tensors()]
        sizes.add(sum(tensor.untyped_storage().nbytes() for tensor in tensors) if seed > 1 else None)
    assert len(sizes - {None}) == 1


def test_records_of_the_state():
    plain, convolved = build(num_kv_heads=2).init_state(3), build(num_kv_heads=2, d_conv=4).init_state(3)
    assert type(plain) is AttentionState
    assert type(convolved) is ConvAttentionState
    kinds = {name: (kind, tuple(tensor.shape)) for name, kind, tensor in convolved.tensors()}
    assert kinds == {
        "keys": ("attention", (3, 0, 2, 4)),
        "values": ("attention", (3, 0, 2, 4)),
        "position": ("position", (3,)),
        "conv": ("short", (3, 3, 32)),
    }
    assert plain.position.dtype == torch.int64


def test_parameters_have_the_published_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in build(num_kv_heads=1, d_conv=4, out_bias=True).named_parameters()}
    assert shapes == {
        "in_proj.weight": (24, 12),
        "conv1d.weight": (24, 1, 4),
        "conv1d.bias": (24,),
        "out_proj.weight": (12, 16),
        "out_proj.bias": (12,),
    }


@torch.no_grad()
def test_initialisation():
    mixer = Attention(64, AttentionConfig(num_heads=4, d_conv=4, qkv_bias=True, out_bias=True))
    mixer.reset_parameters(generator(0, "test"), Place(0, 8, 16))
    for weight, bound in ((mixer.in_proj.weight, 1 / 8), (mixer.out_proj.weight, 1 / 32), (mixer.conv1d.weight, 1 / 2)):
        assert bound * 0.98 < float(weight.abs().max()) <= bound
    assert not any(bias.any() for bias in (mixer.in_proj.bias, mixer.out_proj.bias, mixer.conv1d.bias))


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16-weights"])
def test_bfloat16(model_dtype):
    exact, u = build(torch.float32, d_conv=4, window=9), normal(2, 40, WIDTH, seed=2, dtype=torch.float32)
    expected, _ = exact(u)
    mixer = build(torch.float32, d_conv=4, window=9).to(model_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model_dtype == torch.float32):
        actual, _ = in_pieces(mixer, u.to(model_dtype), [13, 27], mixer.init_state(2))
        actual.float().square().sum().backward()
    assert actual.dtype == torch.bfloat16
    # Projections, convolution, weights and outputs are rounded to one part in 2^9 each.
    assert_close("y", actual.float(), expected, 2**-5)
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


def published_decoding(mixer, u, prompt):
    """Decoding as the published code of mamba2attn does it: the prompt leaves *convolved* values in the buffer.

    Written from the description of that code and not with ours: a buffer of W columns, rolled by one for each token,
    whose last column receives the projection of the token; keys and values are kept after convolution and rotation.
    """
    width, heads, head_dim = mixer.config.d_conv, mixer.config.num_heads, mixer.head_dim
    taps, bias = mixer.conv1d.weight[:, 0], mixer.conv1d.bias

    def split(convolved, start):
        q, k, v = convolved.unflatten(-1, (3, heads, head_dim)).unbind(dim=2)
        q, k = (rotate_naive(x, torch.full((len(u),), start), rotary_dim=mixer.rotary_dim) for x in (q, k))
        return q, k, v

    projected = mixer.in_proj(u[:, :prompt]).transpose(1, 2)
    convolved = F.conv1d(F.pad(projected, (width - 1, 0)), mixer.conv1d.weight, bias, groups=len(taps))
    buffer = convolved[..., -width:]  # the fault: this should be `projected`
    _, keys, values = split(convolved.transpose(1, 2), 0)
    outputs = []
    for t in range(prompt, u.shape[1]):
        buffer = torch.roll(buffer, -1, dims=-1)
        buffer[..., -1] = mixer.in_proj(u[:, t])
        q, k, v = split(((buffer * taps).sum(-1) + bias)[:, None], t)
        keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        weights = (torch.einsum("bhk,bshk->bhs", q[:, 0], keys) / head_dim**0.5).softmax(-1)
        outputs.append(mixer.out_proj(torch.einsum("bhs,bshk->bhk", weights, values).flatten(1)))
    return torch.stack(outputs, dim=1)


@torch.no_grad()
def test_published_decoding_with_a_convolution_is_wrong_and_ours_is_not():
    # docs/architectures/mamba2attn-decoding.md tells the story and has the figures. As in the published hybrid, filters
    # of 4 and half of each head rotated.
    prompt, steps = 64, 12
    mixer = Attention(64, AttentionConfig(num_heads=4, head_dim=16, rotary_dim=8, d_conv=4)).double()
    mixer.reset_parameters(generator(0, "test"), Place(0, 2, 2))
    u = normal(4, prompt + steps, 64, seed=3)
    whole = defined(mixer, u)[:, prompt:]
    ours, _ = in_pieces(mixer, u, [prompt, *[1] * steps])
    published = published_decoding(mixer, u, prompt)
    for step in range(steps):
        assert relative_rms(ours[:, prompt + step], whole[:, step]) < 1e-13, f"our step {step}"
        # Three steps read convolved values; all later ones still attend to the keys and values these left.
        assert 0.05 < relative_rms(published[:, step], whole[:, step]) < 0.5, f"published step {step}"
