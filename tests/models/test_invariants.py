"""What must hold for every model: the state carries all, padding and packing change nothing, no token sees the future.

In float64, so that the tolerances are those of rounding.
"""

from __future__ import annotations

import pytest
import torch
from tests.helpers import assert_close
from tests.models.families import FAMILIES, VOCAB, small_model, tokens

from lengthwise.models.lm import LanguageModel
from lengthwise.state import State

VALUES, GRADIENTS = 1e-11, 1e-9

pytestmark = pytest.mark.parametrize("family", FAMILIES)


def read_in_pieces(
    model: LanguageModel, batch: torch.Tensor, pieces: list[int], state: State | None = None
) -> tuple[torch.Tensor, State]:
    start, outputs = 0, []
    for length in pieces:
        output = model(batch[:, start : start + length], state)
        outputs.append(output.logits[..., :VOCAB])
        start, state = start + length, output.state
    assert start == batch.shape[1]
    assert state is not None
    return torch.cat(outputs, dim=1), state


def assert_same_state(actual: State, expected: State) -> None:
    for (name, ours), (_, theirs) in zip(actual.named_tensors(), expected.named_tensors(), strict=True):
        if ours.is_floating_point():
            assert_close(name, ours, theirs, VALUES)
        else:
            assert torch.equal(ours, theirs), name


def warm_state(model: LanguageModel, rows: int, length: int = 7) -> State:
    with torch.no_grad():
        return model(tokens(rows, length, seed=5), logits="none").state


@pytest.mark.parametrize("pieces", [[20, 1], [1, 20], [8, 13], [7, 7, 7], [1] * 21, [2, 1, 18]], ids=str)
@pytest.mark.parametrize("started", [False, True], ids=["from-zero", "from-state"])
def test_pieces_equal_the_whole(family: str, pieces: list[int], started: bool) -> None:
    model, batch = small_model(family), tokens(2, 21)
    state = warm_state(model, 2) if started else None
    with torch.no_grad():
        expected, expected_state = read_in_pieces(model, batch, [21], state)
        actual, actual_state = read_in_pieces(model, batch, pieces, state)
    assert_close("logits", actual, expected, VALUES)
    assert_same_state(actual_state, expected_state)


@pytest.mark.parametrize("pieces", [[9, 12], [1, 2, 18]], ids=str)
def test_gradients_flow_through_the_state(family: str, pieces: list[int]) -> None:
    model, batch = small_model(family), tokens(2, 21)
    parameters = list(model.parameters())
    weight = torch.randn(2, 21, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    grads = []
    for cut in ([21], pieces):
        logits, state = read_in_pieces(model, batch, cut)
        final = sum((tensor.square().sum() for _, tensor in state.named_tensors() if tensor.is_floating_point()))
        # The last tokens alone see the first ones only through the state.
        loss = (logits * weight)[:, -6:].sum() + 1e-3 * final
        grads.append(torch.autograd.grad(loss, parameters))
    for (name, _), actual, expected in zip(model.named_parameters(), grads[1], grads[0], strict=True):
        assert expected.any(), f"{name} has no part in the result"
        assert_close(f"gradient of {name}", actual, expected, GRADIENTS)


def test_a_detached_state_cuts_the_gradient(family: str) -> None:
    model, batch = small_model(family), tokens(2, 9)
    state = model(batch).state
    assert any(tensor.requires_grad for _, tensor in state.named_tensors())
    assert not any(tensor.requires_grad for _, tensor in state.detach().named_tensors())


def test_the_zero_state_equals_none(family: str) -> None:
    model, batch = small_model(family), tokens(2, 11)
    with torch.no_grad():
        expected, actual = model(batch), model(batch, model.init_state(2))
    assert_close("hidden", actual.hidden, expected.hidden, VALUES)
    assert_same_state(actual.state, expected.state)


def test_an_emptied_state_equals_none(family: str) -> None:
    # A used state set to zero keeps its slots for keys and values; they must count as empty.
    model, batch = small_model(family), tokens(2, 11)
    with torch.no_grad():
        expected = model(batch).hidden
        assert_close("hidden", model(batch, warm_state(model, 2).zeros_like()).hidden, expected, VALUES)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("started", [False, True], ids=["from-zero", "from-state"])
def test_padding_changes_nothing(family: str, padding: str, started: bool) -> None:
    model, lengths = small_model(family), torch.tensor([9, 1, 17, 0])
    rows = [tokens(1, 17, seed=index)[:, : int(length)] for index, length in enumerate(lengths)]
    state = warm_state(model, 4) if started else None
    padded = torch.full((4, 17), 7)
    for index, row in enumerate(rows):
        width = row.shape[1]
        padded[index, slice(0, width) if padding == "right" else slice(17 - width, 17)] = row
    with torch.no_grad():
        output = model(padded, state, lengths=lengths, padding=padding)
        last = model(padded, state, lengths=lengths, padding=padding, logits="last").logits
    for index, row in enumerate(rows):
        width = row.shape[1]
        before = None if state is None else state.rows(torch.tensor([index]))
        after = output.state.rows(torch.tensor([index]))
        if width == 0:
            assert_carries_the_same(model, after, before if before is not None else model.init_state(1))
            continue
        with torch.no_grad():
            alone = model(row, before)
        place = slice(0, width) if padding == "right" else slice(17 - width, 17)
        assert_close(f"hidden of row {index}", output.hidden[index, place], alone.hidden[0], VALUES)
        assert_close(f"last logits {index}", last[index, 0, :VOCAB], alone.logits[0, -1, :VOCAB], VALUES)
        assert_carries_the_same(model, after, alone.state)


def assert_carries_the_same(model: LanguageModel, actual: State, expected: State) -> None:
    """Equal but for empty slots: what is read next is the same."""
    for kind in ("recurrent", "short", "position"):
        for (name, ours), (_, theirs) in zip(actual.named_tensors(kind), expected.named_tensors(kind), strict=True):
            assert_close(name, ours.double(), theirs.double(), VALUES)
    more = tokens(1, 5, seed=77)
    with torch.no_grad():
        assert_close("what follows", model(more, actual).hidden, model(more, expected).hidden, VALUES)


@pytest.mark.parametrize("started", [False, True], ids=["from-zero", "from-state"])
def test_packed_documents_equal_separate_ones(family: str, started: bool) -> None:
    model, batch = small_model(family), tokens(3, 19)
    state = warm_state(model, 3) if started else None
    resets = torch.zeros(3, 19, dtype=torch.bool)
    for row, places in enumerate([[5, 6, 14], [0, 11], []]):
        resets[row, places] = True
    lengths = torch.tensor([19, 16, 12])
    output = model(batch, state, resets=resets, lengths=lengths)
    for row, starts in enumerate([[0, 5, 6, 14], [0, 11], [0]]):
        end = int(lengths[row])
        for begin, stop in zip(starts, [*starts[1:], end], strict=True):
            continues = state is not None and begin == 0 and not bool(resets[row, 0])
            alone = model(batch[row : row + 1, begin:stop], state.rows(torch.tensor([row])) if continues else None)
            name = f"row {row}, tokens {begin} to {stop}"
            assert_close(name, output.hidden[row, begin:stop], alone.hidden[0], VALUES)
        assert_carries_the_same(model, output.state.rows(torch.tensor([row])), alone.state)
    # The last document alone decides the final state, and nothing before it has a gradient.
    embedding = model.backbone.embedding.weight
    (grad,) = torch.autograd.grad(output.hidden[0, 14:19].square().sum(), [embedding])
    used = set(batch[0, 14:19].tolist())
    assert {index for index in range(VOCAB) if grad[index].any()} <= used


def test_causality(family: str) -> None:
    model, batch = small_model(family), tokens(1, 20)
    changed = batch.clone()
    changed[0, 12] = (changed[0, 12] + 1) % VOCAB
    with torch.no_grad():
        before, after = model(batch).hidden, model(changed).hidden
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(dim=-1).all(), "a change that does not reach every later token"


def test_rows_do_not_see_one_another(family: str) -> None:
    model, batch = small_model(family), tokens(3, 13)
    with torch.no_grad():
        together = model(batch).hidden
        for row in range(3):
            assert_close(f"row {row}", together[row : row + 1], model(batch[row : row + 1]).hidden, VALUES)


def test_states_of_different_pasts_lie_side_by_side(family: str) -> None:
    model, more = small_model(family), tokens(3, 6, seed=8)
    with torch.no_grad():
        states = [warm_state(model, 1, length) for length in (3, 14)] + [model.init_state(1)]
        together = model(more, State.cat(states)).hidden
        for row, state in enumerate(states):
            assert_close(f"row {row}", together[row : row + 1], model(more[row : row + 1], state).hidden, VALUES)
        mixed = states[0].where(torch.tensor([False]), states[1])
        assert_close("where", model(more[:1], mixed).hidden, model(more[:1], states[1]).hidden, VALUES)


def test_a_saved_state_continues(family: str, tmp_path) -> None:
    model, more = small_model(family), tokens(2, 6, seed=8)
    state = warm_state(model, 2)
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in state.layers]
    with torch.no_grad():
        assert torch.equal(model(more, state).hidden, model(more, loaded).hidden)


def test_the_loss_is_the_cross_entropy_however_it_is_cut(family: str) -> None:
    model, batch = small_model(family), tokens(2, 15)
    logits = model(batch[:, :-1]).logits
    expected = -logits.log_softmax(-1).gather(-1, batch[:, 1:, None])[..., 0]
    assert_close("nll", model.nll(batch)[0], expected, VALUES)
    assert_close("nll in pieces", model.nll(batch, max_logits=300)[0], expected, VALUES)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_float32_is_close_to_float64(family: str, backend: str) -> None:
    model, exact = small_model(family, dtype=torch.float32), small_model(family)
    model.set_backend(backend)  # type: ignore[arg-type]
    batch = tokens(2, 40)
    results = []
    for one in (model, exact):
        output = one(batch[:, 10:], one(batch[:, :10]).state)
        loss = output.logits[..., :VOCAB].square().mean()
        results.append((output, torch.autograd.grad(loss, list(one.parameters()))))
    (output, grads), (expected, expected_grads) = results
    # Sums of some hundred terms in float32, through a few layers.
    assert_close("logits", output.logits[..., :VOCAB], expected.logits[..., :VOCAB], 1e-4)
    for (name, _), actual, wanted in zip(model.named_parameters(), grads, expected_grads, strict=True):
        assert_close(f"gradient of {name}", actual, wanted, 1e-3)


def test_autocast_trains(family: str) -> None:
    model, batch = small_model(family, dtype=torch.float32), tokens(2, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll, state = model.nll(batch)
        nll, _ = model.nll(batch, state.detach())
    nll.float().mean().backward()
    assert all(tensor.dtype == torch.float32 for _, tensor in state.named_tensors("recurrent"))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_bfloat16_weights_keep_the_recurrent_state_in_float32(family: str) -> None:
    model, batch = small_model(family, dtype=torch.float32), tokens(2, 24)
    with torch.no_grad():
        expected = model(batch).logits[..., :VOCAB]
        rounded = model.to(torch.bfloat16)
        output = rounded(batch)
    assert all(tensor.dtype == torch.float32 for _, tensor in output.state.named_tensors("recurrent"))
    # Eight bits of mantissa, and weights of some tenths: the order of magnitude must be right.
    assert_close("logits", output.logits[..., :VOCAB], expected, 0.2)


def test_config_survives_json(family: str) -> None:
    import json

    config = FAMILIES[family]
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


def test_meta_device_has_the_same_parameters(family: str) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in LanguageModel(FAMILIES[family]).named_parameters()}
    assert shapes == {name: tuple(p.shape) for name, p in small_model(family).named_parameters()}


def test_a_budget_bounds_the_state_of_attention(family: str) -> None:
    model, batch = small_model(family), tokens(2, 30)
    model.set_attention_budget(6)
    with torch.no_grad():
        whole = model(batch)
        pieces, state = read_in_pieces(model, batch, [9, 1, 20])
    assert_close("logits", pieces, whole.logits[..., :VOCAB], VALUES)
    held = sum(tensor[:1].numel() * tensor.element_size() for _, tensor in state.named_tensors("attention"))
    assert held == model.attention_state_bytes(30) == model.attention_state_bytes(10**6)
    model.set_attention_budget(None)
    with torch.no_grad():
        unbounded = model(batch)
    held = sum(tensor[:1].numel() * tensor.element_size() for _, tensor in unbounded.state.named_tensors("attention"))
    assert held == model.attention_state_bytes(30)
