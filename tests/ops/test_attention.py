"""Attention in blocks, and rotation, against their oracles: outputs, the past that is carried, and every gradient."""

import math

import pytest
import torch
from tests.helpers import assert_close

from lengthwise.errors import InputError
from lengthwise.ops.attention import Past, attention, attention_naive, blocks, rotate, rotate_naive

# Without the shape checks of the test suite, which would come before our own.
unchecked_attention = getattr(attention, "__wrapped__", attention)
# float64 against float64: rounding only. float32 against the float64 oracle: sums of some dozen terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6}
EVERYTHING = ("y", "keys", "values")


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What is read before it is written becomes visible."""
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN, which is a default of that mode
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two or three queries, where otherwise a test would need thousands."""
    monkeypatch.setattr(blocks, "LEAST_BLOCK", 2)
    monkeypatch.setattr(blocks, "MOST_BLOCK", 3)
    monkeypatch.setattr(blocks, "MASK_NUMBERS", 40)


def make(batch=2, time=7, heads=4, groups=2, width=6, *, slots=None, position=None, dtype=torch.float64, seed=0):
    """Random q, k, v, and the keys and values of a past of `slots`; rows have read `position` tokens."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    inputs = {"q": normal(batch, time, heads, width), **{n: normal(batch, time, groups, width) for n in "kv"}}
    if slots is not None:
        inputs |= {name: normal(batch, slots, groups, width) for name in ("past_keys", "past_values")}
        position = torch.full((batch,), slots) if position is None else torch.tensor(position)
    return inputs, position


def run(op, inputs, position, *, through, dtype=None, **options):
    """Results by name, and gradients of a fixed random functional of those named in `through`.

    The carried keys and values are compared row by row, for every token that a row has and the op keeps.
    """
    leaves = {name: value.to(dtype or value.dtype).detach().requires_grad_() for name, value in inputs.items()}
    past = None if position is None else Past(leaves["past_keys"], leaves["past_values"], position)
    y, after = op(leaves["q"], leaves["k"], leaves["v"], past, **options)
    lengths = options.get("lengths")
    if lengths is not None:
        y = y * real(options, y.shape[1])
    results = {"y": y}
    for row in range(len(y)):
        # What the row holds in the end, by the convention of the state or as the oracle gives it.
        if isinstance(after, Past):
            count = min(after.keys.shape[1], int(after.position[row]))
            begin = after.keys.shape[1] - count
            kept = (after.keys[row, begin:], after.values[row, begin:])
        else:
            limit = 10**9 if options.get("reach") is None else options["reach"] - 1
            kept = tuple(tensor[max(0, len(tensor) - limit) :] for tensor in after[row])
        results |= {f"keys of row {row}": kept[0], f"values of row {row}": kept[1]}
    random, loss = torch.Generator().manual_seed(99), torch.zeros((), dtype=torch.float64)
    for name, result in results.items():
        weight = torch.randn(result.shape, generator=random, dtype=torch.float64)
        if name.split()[0] in through:
            loss = loss + (result.double() * weight).sum()
    if loss.requires_grad:
        loss.backward()
    return results, {name: leaf.grad for name, leaf in leaves.items()}, after


def real(options, time):
    """Mask of real tokens, [B, T, 1, 1], written independently of the package."""
    place = torch.arange(time)
    rows = [place >= time - n if options.get("padding") == "left" else place < n for n in options["lengths"].tolist()]
    return torch.stack(rows)[..., None, None].double()


def compare(made, *, through=EVERYTHING, dtype=torch.float64, tolerance=None, **options):
    """Assert that `attention` in `dtype` equals the float64 oracle."""
    inputs, position = made
    tolerance = tolerance or TOLERANCE[dtype]
    expected, expected_grads, _ = run(
        attention_naive, inputs, position, through=through, dtype=torch.float64, **options
    )
    actual, grads, after = run(attention, inputs, position, through=through, dtype=dtype, **options)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        if value.numel():
            assert_close(name, actual[name], value, tolerance)
    for name, gradient in expected_grads.items():
        if gradient is None or not gradient.any():
            # Two equal sums in different order: rounding remains.
            given = 0.0 if grads[name] is None else float(grads[name].abs().max())
            assert given <= tolerance, f"{name}: a gradient of {given} where the oracle has none"
        else:
            assert grads[name] is not None, f"{name}: no gradient"
            assert_close(f"gradient of {name}", grads[name], gradient, tolerance)
    time = inputs["q"].shape[1]
    read = options["lengths"] if "lengths" in options else torch.full((len(inputs["q"]),), time)
    assert torch.equal(after.position, read + (0 if position is None else position))
    return after


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("reach", [None, 1, 2, 4, 6, 50])
@pytest.mark.parametrize("slots", [None, 0, 1, 5, 9])
@pytest.mark.parametrize("time", [1, 2, 7])
def test_equals_the_oracle(time, slots, reach, dtype):
    after = compare(make(time=time, slots=slots), reach=reach, dtype=dtype)
    held = time + (slots or 0)
    assert after.keys.shape[1] == (held if reach is None else min(held, reach - 1))


@pytest.mark.parametrize("reach", [None, 1, 2, 5, 8])
@pytest.mark.parametrize("slots", [None, 4])
@pytest.mark.parametrize("time", [2, 3, 4, 6, 7, 13])
def test_blocks_change_nothing(small_blocks, time, slots, reach):
    compare(make(time=time, slots=slots), reach=reach)
    compare(make(time=time, slots=4, position=[1, 30]), reach=reach)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (5, 1), (1, 1)])
@pytest.mark.parametrize("reach", [None, 3])
def test_heads_share_keys(heads, groups, reach):
    compare(make(3, 6, heads, groups, 5, slots=3), reach=reach)


@pytest.mark.parametrize("through", EVERYTHING)
@pytest.mark.parametrize("reach", [None, 3])
def test_gradients_through_one_result_alone(reach, through):
    compare(make(slots=4), reach=reach, through=(through,))


@pytest.mark.parametrize("reach", [None, 2, 6, 9])
@pytest.mark.parametrize("time", [1, 5])
def test_rows_with_different_pasts_lie_side_by_side(time, reach):
    # None, some, all slots full, and more read than there are slots.
    compare(make(4, time, slots=5, position=[0, 3, 5, 40]), reach=reach)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("reach", [None, 1, 3, 9])
@pytest.mark.parametrize("past", ["none", "slots", "mixed"])
def test_lengths_on_either_side(past, reach, padding, small_blocks):
    slots, position = {"none": (None, None), "slots": (5, None), "mixed": (5, [0, 2, 5, 5])}[past]
    compare(
        make(4, 7, slots=slots, position=position), reach=reach, lengths=torch.tensor([0, 1, 4, 7]), padding=padding
    )


def test_lengths_in_a_window_that_is_full():
    compare(make(3, 7, slots=4, position=[90, 2, 4]), reach=5, lengths=torch.tensor([0, 2, 7]))


def test_a_row_of_few_tokens_beside_one_of_many():
    after = compare(make(2, 40, slots=3, position=[3, 0]), lengths=torch.tensor([40, 1]))
    assert after.keys.shape[1] == 43
    assert not after.keys[1, :-1].any(), "empty slots are zero"


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 4])], ids=["all", "lengths"])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_what_is_in_empty_slots_does_not_matter(garbage, lengths):
    inputs, position = make(2, 4, slots=5, position=[0, 3])
    spoilt = {name: value.clone() for name, value in inputs.items()}
    for name in ("past_keys", "past_values"):
        spoilt[name][0], spoilt[name][1, :2] = garbage, garbage
    options = {} if lengths is None else {"lengths": lengths}
    expected, expected_grads, _ = run(attention, inputs, position, through=EVERYTHING, **options)
    actual, grads, after = run(attention, spoilt, position, through=EVERYTHING, **options)
    for name, value in expected.items():
        assert_close(name, actual[name], value, 1e-14)
    for name, value in expected_grads.items():
        assert_close(f"gradient of {name}", grads[name], value, 1e-14)
    assert torch.isfinite(after.keys).all()


@pytest.mark.parametrize("reach", [None, 1, 2, 4, 12])
@pytest.mark.parametrize("pieces", [[1] * 13, [5, 8], [1, 11, 1], [3, 3, 3, 4]], ids=str)
def test_cuts_change_nothing(pieces, reach):
    inputs, _ = make(time=13)
    whole, end = attention(*inputs.values(), reach=reach)
    past, outputs = None, []
    for piece in zip(*(tensor.split(pieces, dim=1) for tensor in inputs.values()), strict=True):
        y, past = attention(*piece, past, reach=reach)
        outputs.append(y)
        assert reach is None or past.keys.shape[1] <= reach - 1
    assert_close("y", torch.cat(outputs, dim=1), whole, 1e-13)
    for name, actual, expected in zip(Past._fields, past, end, strict=True):
        assert torch.equal(actual, expected), name


def test_more_slots_than_the_reach_asks_for_are_dropped():
    # As when a budget is set in the middle of a stream.
    after = compare(make(time=2, slots=9), reach=4)
    assert after.keys.shape[1] == 3


def test_slots_that_are_empty_in_every_row_are_dropped():
    after = compare(make(time=2, slots=9, position=[0, 1]))
    assert after.keys.shape[1] == 3


@pytest.mark.parametrize("time", [1, 6])
@pytest.mark.parametrize("reach", [None, 4])
def test_the_past_keeps_no_large_tensor_alive(time, reach):
    # Heads of one projection, as the layer has them.
    projected = torch.randn(2, 60, 10, 4)
    q, k, v = projected.split([8, 1, 1], dim=2)
    _, past = attention(q, k, v, reach=reach)
    for _ in range(3):
        _, past = attention(q[:, :time], k[:, :time], v[:, :time], past, reach=reach)
        for tensor in past[:2]:
            assert tensor.untyped_storage().nbytes() <= 2 * tensor.numel() * tensor.element_size()


def test_one_pass_without_a_past_makes_no_mask(monkeypatch):
    def fail(*_):
        raise AssertionError("a mask was made")

    monkeypatch.setattr(blocks, "_band", fail)
    inputs, _ = make(time=50)
    attention(*inputs.values())
    attention(*inputs.values(), reach=50)
    one = [tensor[:, :1] for tensor in inputs.values()]
    _, past = attention(*one)
    attention(*one, past)  # nor does a single token, which sees all that is kept


@pytest.mark.parametrize("time", [1, 511, 512, 100_000])
@pytest.mark.parametrize("held", [0, 1, 2047])
@pytest.mark.parametrize("reach", [1, 3, 128, 2048])
def test_a_window_shows_each_block_what_it_reaches_and_little_more(reach, held, time):
    held, done = min(held, reach - 1), 0
    for queries, span in blocks._blocks(time, held, reach, 1):
        assert queries.start == done
        done = queries.stop
        assert span.start == max(0, held + queries.start - reach + 1)
        assert span.stop == held + queries.stop
        assert span.stop - span.start <= reach - 1 + max(64, reach / 4)
        assert (queries.stop - queries.start) * (span.stop - span.start) <= blocks.MASK_NUMBERS
    assert done == time


@pytest.mark.parametrize("rows", [1, 32])
def test_a_long_past_makes_blocks_small_and_masks_no_larger(rows):
    cut = blocks._blocks(4096, 100_000, None, rows)
    assert cut[-1] == (slice(cut[-1][0].start, 4096), slice(0, 104_096))
    for queries, span in cut:
        size = rows * (queries.stop - queries.start) * (span.stop - span.start)
        assert size <= blocks.MASK_NUMBERS or queries.stop - queries.start == 1


def test_no_tokens():
    inputs, position = make(time=0, slots=3)
    past = Past(inputs["past_keys"], inputs["past_values"], position)
    y, after = attention(inputs["q"], inputs["k"], inputs["v"], past)
    assert y.shape == inputs["q"].shape
    assert all(torch.equal(a, b) for a, b in zip(after, past, strict=True))


@pytest.mark.parametrize("reach", [None, 3])
def test_gradcheck(reach):
    inputs, position = make(1, 4, 2, 1, 3, slots=2)
    leaves = [value.requires_grad_() for value in inputs.values()]

    def function(q, k, v, keys, values):
        y, past = attention(q, k, v, Past(keys, values, position), reach=reach)
        return y, past.keys, past.values

    assert torch.autograd.gradcheck(function, leaves)


def test_large_scores_do_not_overflow():
    inputs, position = make(time=9, slots=3, dtype=torch.float32)
    inputs["q"] *= 1e4
    expected, _, _ = run(attention_naive, inputs, position, through=("y",), dtype=torch.float64)
    actual, grads, _ = run(attention, inputs, position, through=("y",))
    assert_close("y", actual["y"], expected["y"], 1e-2)  # a score of 10^4 is good to 10^-3, its exponential as well
    assert all(torch.isfinite(gradient).all() for gradient in grads.values())


def test_bfloat16_sums_in_float32():
    inputs, position = make(time=150, width=16, slots=60, dtype=torch.bfloat16)
    expected, _, _ = run(attention_naive, inputs, position, through=("y",), dtype=torch.float64)
    actual, grads, after = run(attention, inputs, position, through=("y",), reach=None)
    assert actual["y"].dtype == after.keys.dtype == torch.bfloat16
    # Weights and results are rounded to bfloat16, one part in 2^9; a sum of 200 terms in it would be worse.
    assert_close("y", actual["y"], expected["y"], 2**-7)
    assert all(torch.isfinite(gradient).all() for gradient in grads.values())


def test_autocast_does_not_reach_inside():
    inputs, position = make(slots=3, dtype=torch.float32)
    past = Past(inputs["past_keys"], inputs["past_values"], position)
    expected, _ = attention(inputs["q"], inputs["k"], inputs["v"], past)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _ = attention(inputs["q"], inputs["k"], inputs["v"], past)
    assert torch.equal(actual, expected)


def test_rows_that_dropped_tokens_within_reach_cannot_be_padded():
    # Row 0 read 9 tokens and kept 2. With 1 token more it holds 3, but row 1 needs 6 slots.
    inputs, position = make(time=4, slots=2, position=[9, 2])
    past = Past(inputs["past_keys"], inputs["past_values"], position)
    with pytest.raises(InputError) as caught:
        attention(inputs["q"], inputs["k"], inputs["v"], past, lengths=torch.tensor([1, 4]))
    assert str(caught.value) == (
        "expected rows that hold all of their past within reach, or as many new tokens as the others (6); "
        "got row 0 with 3 of its 10 tokens; in attention lengths; "
        "read rows that dropped part of their past without padding, or apart from the others"
    )
    attention(inputs["q"], inputs["k"], inputs["v"], past, lengths=torch.tensor([1, 4]), reach=4)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {"v": torch.zeros(2, 7, 2, 5)},
            {},
            "expected v of shape (2, 7, 2, 6); got shape (2, 7, 2, 5); in attention; "
            "match it to q of shape (2, 7, 4, 6)",
        ),
        (
            {"k": torch.zeros(2, 7, 3, 6), "v": torch.zeros(2, 7, 3, 6)},
            {},
            "expected a number of query heads that the heads of the keys divide; "
            "got 4 query heads and 3 heads of keys; in attention; change one of them",
        ),
        (
            {"past": Past(torch.zeros(2, 3, 2, 6), torch.zeros(2, 4, 2, 6), torch.zeros(2, dtype=torch.long))},
            {},
            "expected values of the past of shape (2, 3, 2, 6); got shape (2, 4, 2, 6); in attention; "
            "match it to q of shape (2, 7, 4, 6)",
        ),
        (
            {},
            {"reach": 0},
            "expected a reach of at least 1, the query's own key; got 0; in attention reach; "
            "pass 1 or more, or None for no limit",
        ),
    ],
    ids=["v", "heads", "past", "reach"],
)
def test_wrong_inputs_are_named(unchecked, change, options, message):
    with pytest.raises(InputError) as caught:
        unchecked_attention(**{**make()[0], **change}, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("position", [None, [0, 0, 0], [3, 0, 1000]], ids=str)
@pytest.mark.parametrize("rotary_dim", [None, 0, 2, 4, 8])
@pytest.mark.parametrize("time", [1, 6])
def test_rotation_equals_its_definition(time, rotary_dim, position):
    x = torch.randn(3, time, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for op in (rotate, rotate_naive):
        leaf = x.clone().requires_grad_()
        y = op(leaf, None if position is None else torch.tensor(position), rotary_dim=rotary_dim, base=500.0)
        results.append((y, *torch.autograd.grad((y * weight).sum(), leaf)))
    for name, actual, expected in zip(("y", "gradient"), *results, strict=True):
        assert_close(name, actual, expected, 1e-12)


def test_rotation_is_exact_at_position_a_million():
    x = torch.randn(1, 5, 2, 64, generator=torch.Generator().manual_seed(0))
    position = torch.tensor([1_000_000])
    expected = rotate_naive(x.double(), position)
    assert_close("float32", rotate(x, position), expected, 2e-7)
    # An angle in float32 is good to 2^-24 of itself: what the test would see.
    angle = (position[:, None] + torch.arange(5)).float()[..., None] * 10_000 ** -(torch.arange(0, 64, 2).float() / 64)
    exact = (position[:, None] + torch.arange(5)).double()[..., None] * 10_000 ** -(
        torch.arange(0, 64, 2).double() / 64
    )
    assert (angle.double() - exact).abs().max() > 1e-2


def test_scores_depend_on_distance_alone_up_to_a_million():
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 9, heads, 16, generator=random) for heads in (4, 2, 2))
    outputs = []
    for start in (0, 1_000_000):
        position = torch.tensor([start])
        y, _ = attention(rotate(q, position), rotate(k, position), v)
        outputs.append(y)
    assert_close("y", outputs[1], outputs[0], 1e-6)


def test_rotation_of_bfloat16_is_rounded_once():
    x = torch.randn(2, 7, 3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = rotate_naive(x.double(), torch.tensor([5, 90_000])).bfloat16()
    actual = rotate(x, torch.tensor([5, 90_000]))
    assert actual.dtype == torch.bfloat16
    assert (actual != expected).float().mean() < 0.01  # a tie may fall either way


@pytest.mark.parametrize("rotary_dim", [3, 10, -2])
def test_wrong_rotations_are_named(rotary_dim):
    with pytest.raises(InputError) as caught:
        rotate(torch.zeros(1, 2, 1, 8), rotary_dim=rotary_dim)
    assert str(caught.value) == (
        f"expected an even rotary_dim from 0 to the head width 8; got {rotary_dim}; in rotate; "
        "change rotary_dim or the head width"
    )


def test_the_scale_is_the_root_of_the_width():
    # By hand: scores 0 and ln 3 * sqrt(K) / sqrt(K), weights 1/4 and 3/4.
    q = torch.zeros(1, 2, 1, 9)
    q[0, 1, 0, 0] = math.log(3) * 3
    k, v = torch.zeros(1, 2, 1, 9), torch.zeros(1, 2, 1, 9)
    k[0, 1, 0, 0], v[0, 0, 0, 0] = 1.0, 8.0
    y, _ = attention(q, k, v)
    assert y[0, :, 0, 0].tolist() == pytest.approx([8.0, 2.0])
