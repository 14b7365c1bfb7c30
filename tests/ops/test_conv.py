"""Causal convolution against the sequential oracle: outputs, next buffer, and every gradient."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import FORMS, assert_close, need_form, threads

from lengthwise.errors import InputError
from lengthwise.ops.conv import causal_conv, causal_conv_naive

# Without the shape checks of the test suite, which would come before our own.
unchecked = getattr(causal_conv, "__wrapped__", causal_conv)
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


def make(batch=2, time=9, channels=5, width=4, *, state=True, bias=True, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return {
        "x": normal(batch, time, channels),
        "weight": normal(channels, width),
        "bias": normal(channels) if bias else None,
        "initial_state": normal(batch, width - 1, channels) if state else None,
    }


def naive(x, weight, bias, initial_state, activation=None, **options):
    y, state = causal_conv_naive(x, weight, bias, initial_state, **options)
    return (F.silu(y) if activation else y), state


def run(op, inputs, dtype, mask=None, **options):
    """Results, and gradients of a fixed random functional of both."""
    leaves = {k: v if v is None else v.to(dtype).detach().requires_grad_() for k, v in inputs.items()}
    y, state = op(*leaves.values(), **options)
    y = y if mask is None else y * mask.to(dtype)
    random = torch.Generator().manual_seed(99)
    loss = sum((r.double() * torch.randn(r.shape, generator=random, dtype=torch.float64)).sum() for r in (y, state))
    loss.backward()
    return {"y": y, "final_state": state, **{f"gradient of {k}": v.grad for k, v in leaves.items() if v is not None}}


exact_and_native = pytest.mark.parametrize("form", ["float64", "native"])


def compare(inputs, form="float64", **options):
    dtype, backend = FORMS[form]
    need_form(backend)
    expected = run(naive, inputs, torch.float64, **options)
    actual = run(causal_conv, inputs, dtype, backend=backend, **options)
    for name, value in expected.items():
        # A filter tap that meets no input at all has gradient zero on one side and none on the other.
        if value is None:
            assert actual[name] is None or not actual[name].any(), name
        elif value.numel() == 0:  # the buffer of a filter of width 1
            assert actual[name].shape == value.shape, name
        else:
            assert_close(name, actual[name], value, TOLERANCE[dtype])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("state", [True, False], ids=["from-buffer", "from-zero"])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 17])
def test_equals_the_oracle(time, state, activation, form):
    compare(make(time=time, state=state), form, activation=activation)


@exact_and_native
@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_filters_of_any_width(width, form):
    compare(make(width=width), form, activation="silu")


@pytest.mark.parametrize("time", [255, 256, 257, 515])
def test_rows_of_several_parts(time):
    compare(make(2, time, 33), "native", activation="silu")


def test_many_rows_share_a_piece_of_work():
    compare(make(130, 3, 4), "native", activation="silu")


def test_the_number_of_threads_changes_no_bit():
    need_form("native")
    inputs = make(3, 600, 40)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(run(causal_conv, inputs, torch.float32, activation="silu", backend="native"))
    for results in found[1:]:
        for name, value in results.items():
            assert torch.equal(value, found[0][name]), name


@exact_and_native
def test_without_bias(form):
    compare(make(bias=False), form)


@exact_and_native
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("state", [True, False], ids=["from-buffer", "from-zero"])
def test_lengths_on_either_side(padding, state, form):
    lengths = torch.tensor([0, 1, 2, 9])
    position = torch.arange(9)
    mask = torch.stack([position >= 9 - n if padding == "left" else position < n for n in lengths.tolist()])[..., None]
    compare(make(batch=4, state=state), form, mask=mask, lengths=lengths, padding=padding)


@exact_and_native
@pytest.mark.parametrize("piece", [1, 2, 3, 5])
def test_pieces_shorter_than_the_filter_equal_the_whole(piece, form):
    dtype, backend = FORMS[form]
    need_form(backend)
    inputs = {name: value.to(dtype) for name, value in make(time=11).items()}
    options = {"activation": "silu", "backend": backend}
    y, end = causal_conv(*inputs.values(), **options)
    state, pieces = inputs["initial_state"], []
    for x in inputs["x"].split(piece, dim=1):
        part, state = causal_conv(x, inputs["weight"], inputs["bias"], state, **options)
        pieces.append(part)
    assert_close("y", torch.cat(pieces, dim=1), y, TOLERANCE[dtype])
    assert torch.equal(state, end)


def test_no_tokens():
    inputs = make(time=0)
    y, state = causal_conv(*inputs.values())
    assert y.shape == (2, 0, 5)
    assert torch.equal(state, inputs["initial_state"])


@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradcheck(activation):
    inputs = {k: v.requires_grad_() for k, v in make(1, 3, 2, 3).items()}
    assert torch.autograd.gradcheck(lambda *a: causal_conv(*a, activation=activation), tuple(inputs.values()))


@exact_and_native
def test_inputs_may_be_strided_views(form):
    dtype, backend = FORMS[form]
    need_form(backend)
    inputs = {name: value.to(dtype) for name, value in make().items()}
    wide = torch.cat([inputs["x"], inputs["x"] + 1], dim=-1)
    y, state = causal_conv(wide[..., :5], *list(inputs.values())[1:], backend=backend)
    expected_y, expected_state = causal_conv(*inputs.values(), backend=backend)
    assert torch.equal(y, expected_y)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_bfloat16_sums_in_float32(backend):
    need_form(backend)
    inputs = {k: v.bfloat16() for k, v in make(time=50).items()}
    y, state = causal_conv(*inputs.values(), backend=backend)
    expected, _ = causal_conv(*(v.double() for v in inputs.values()))
    assert y.dtype == state.dtype == torch.bfloat16
    assert torch.equal(y, expected.bfloat16())  # one rounding, of the result


def test_next_buffer_does_not_keep_the_inputs_alive():
    inputs = make(time=9)
    _, state = causal_conv(*inputs.values())
    assert state.untyped_storage().nbytes() == state.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": torch.zeros(4, 4)},
            "expected a filter for 5 channels; got shape (4, 4); in causal_conv weight; "
            "pass weight as [channels, width]",
        ),
        (
            {"initial_state": torch.zeros(2, 4, 5)},
            "expected a buffer of shape (2, 3, 5); got shape (2, 4, 5); in causal_conv initial_state; "
            "pass the buffer that the previous piece of the same rows returned",
        ),
        (
            {"bias": torch.zeros(3)},
            "expected a bias for 5 channels; got shape (3,); in causal_conv bias; pass one value a channel, or None",
        ),
        (
            {"weight": torch.zeros(5, 0), "initial_state": None},
            "expected a filter for 5 channels; got shape (5, 0); in causal_conv weight; "
            "pass weight as [channels, width]",
        ),
    ],
    ids=["weight", "initial_state", "bias", "no taps"],
)
def test_wrong_shapes_are_named(change, message):
    with pytest.raises(InputError) as caught:
        unchecked(*{**make(), **change}.values())
    assert str(caught.value) == message


def test_unknown_activation_is_named():
    with pytest.raises(InputError) as caught:
        unchecked(*make().values(), activation="gelu")
    assert str(caught.value) == ("expected \"silu\" or None; got 'gelu'; in causal_conv activation; use one of these")
