"""The adapter: a transformers model as one whose state is an argument and a result."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.engines.models import VOCAB, fresh, small, tokens
from tests.helpers import assert_close

from lengthwise.engines.hf import HFModel
from lengthwise.errors import InputError, RunFailure
from lengthwise.measure.stream import SequenceModel

RIGHT = ("llama", "mistral", "mamba2", "bamba", "lfm2", "gpt2")
ROUNDING = 1e-5


@pytest.mark.parametrize("model_type", RIGHT)
@torch.no_grad()
def test_pieces_equal_the_whole_and_a_state_is_a_value(model_type: str) -> None:
    model, text = small(model_type), tokens(2, 40)
    assert isinstance(model, SequenceModel)
    whole = model(text)
    first = model(text[:, :17])
    before = [tensor.clone() for _, tensor in first.state.named_tensors()]
    second = model(text[:, 17:], first.state)
    assert_close("logits", torch.cat([first.logits, second.logits], dim=1), whole.logits, ROUNDING)
    # The same state again, and another text after it: nothing has changed it.
    assert torch.equal(model(text[:, 17:], first.state).logits, second.logits)
    model(text[:, :5], first.state)
    for (name, tensor), kept in zip(first.state.named_tensors(), before, strict=True):
        assert torch.equal(tensor, kept), name
    assert second.state.position.tolist() == [40, 40]


@torch.no_grad()
def test_what_a_model_keeps_in_its_modules_is_moved_out_and_in() -> None:
    model, text, other = small("recurrent_gemma"), tokens(2, 20), tokens(2, 20, seed=5)
    whole = model(text).logits
    assert model.keeps_cache
    assert len(model.held_names) == 4  # two recurrent blocks, each a convolution and a recurrence
    state = model(text[:, :12]).state
    # Another text in between must not be seen: neither in the cache nor in the modules.
    outputs = []
    for place in range(12, 20):
        model(other)
        output = model(text[:, place : place + 1], state)
        outputs.append(output.logits)
        state = output.state
    assert_close("logits", torch.cat(outputs, dim=1), whole[:, 12:], ROUNDING)
    inner = dict(model.model.named_modules())
    assert all(getattr(inner[name.rpartition(".")[0]], name.rpartition(".")[2]) is None for name in model.held_names)


@pytest.mark.parametrize("model_type", [*RIGHT, "jamba", "recurrent_gemma", "cohere2", "granite"])
@torch.no_grad()
def test_the_loss_is_the_cross_entropy_however_it_is_cut(model_type: str) -> None:
    # Softcapped (RecurrentGemma), scaled (Cohere, Granite) and plain logits.
    model, text = small(model_type), tokens(2, 24)
    logits = model(text[:, :-1]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten(), reduction="none").view(2, -1)
    assert model.head() is not None
    assert_close("nll", model.nll(text)[0], expected, ROUNDING)
    assert_close("nll in pieces", model.nll(text, max_logits=5 * 2 * VOCAB)[0], expected, ROUNDING)
    places = torch.tensor([3, 22])
    assert_close("predictions", model.predictions(text[:, :-1], places), logits[:, places], ROUNDING)


@torch.no_grad()
def test_a_head_that_is_not_what_it_seems_is_not_used() -> None:
    model = HFModel(fresh("llama"))
    inner = model.model.forward
    text = tokens(2, 12)

    def twisted(*words: object, **options: object) -> object:
        output = inner(*words, **options)
        output.logits = output.logits.roll(1, dims=-1)
        return output

    model.model.forward = twisted
    assert model.head() is None
    expected = model(text[:, :-1]).logits.log_softmax(-1).gather(-1, text[:, 1:, None])[..., 0]
    assert_close("nll", model.nll(text)[0], -expected, ROUNDING)
    assert_close("predictions", model.predictions(text, torch.tensor([4])), model(text).logits[:, [4]], ROUNDING)


@torch.no_grad()
def test_logits_all_last_none() -> None:
    for model_type in ("llama", "xlstm"):  # the second has no logits_to_keep
        model, text = small(model_type), tokens(3, 9)
        whole = model(text)
        assert_close("last", model(text, logits="last").logits, whole.logits[:, -1:], ROUNDING)
        none = model(text, logits="none")
        assert none.logits is None
        more = tokens(3, 3, seed=4)
        assert_close("after none", model(more, none.state).logits, model(more, whole.state).logits, ROUNDING)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mamba2", "jamba"])
@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_lengths_become_masks_and_positions(model_type: str, padding: str) -> None:
    model, text, more = small(model_type), tokens(3, 15), tokens(3, 1, seed=8)
    lengths = torch.tensor([15, 6, 10])
    padded = text.flip(1)
    for row, n in enumerate(lengths.tolist()):
        padded[row, slice(0, n) if padding == "right" else slice(15 - n, 15)] = text[row, :n]
    output = model(padded, lengths=lengths, padding=padding)
    last = model(padded, lengths=lengths, padding=padding, logits="last").logits
    then = model(more, output.state).logits
    for row, n in enumerate(lengths.tolist()):
        alone = model(text[row : row + 1, :n])
        place = slice(0, n) if padding == "right" else slice(15 - n, 15)
        assert_close("logits", output.logits[row : row + 1, place], alone.logits, ROUNDING)
        assert_close("last", last[row], alone.logits[0, -1:], ROUNDING)
        if padding == "left" or model_type in ("llama", "gpt2"):  # the library's recurrent layers read right padding
            assert_close("then", then[row : row + 1], model(more[row : row + 1], alone.state).logits, ROUNDING)
    assert output.state.position.tolist() == lengths.tolist()


@torch.no_grad()
def test_positions_given_left_to_the_model_and_restarted() -> None:
    inner, text = small("bamba").model, tokens(2, 20)
    models = {name: HFModel(inner, positions=name) for name in ("given", "own", "restart")}
    whole = models["given"](text).logits
    after = {name: model(text[:, 10:], model(text[:, :10]).state).logits for name, model in models.items()}
    assert_close("given", after["given"], whole[:, 10:], ROUNDING)
    assert_close("own begins at 0 again", after["own"], after["restart"], ROUNDING)
    assert (after["own"] - whole[:, 10:]).abs().max() > 0.1


def test_state_maps_and_detaches() -> None:
    model, text = small("mamba2"), tokens(2, 8)
    state = model(text).state
    assert any(tensor.requires_grad for _, tensor in state.named_tensors())
    assert not any(tensor.requires_grad for _, tensor in state.detach().named_tensors())
    changed = state.map("recurrent", torch.zeros_like)
    assert all(not tensor.any() for _, tensor in changed.named_tensors("recurrent"))
    assert all(tensor.any() for _, tensor in changed.named_tensors("short"))
    assert all(tensor.any() for _, tensor in state.named_tensors("recurrent"))
    assert state.nbytes == sum(tensor.numel() * 4 for _, tensor in state.named_tensors())
    assert state.batch_size == 2


def test_gradients_reach_the_first_call() -> None:
    model, text = small("mamba2"), tokens(2, 16)
    weight = model.model.get_input_embeddings().weight
    (whole,) = torch.autograd.grad(model(text).logits[:, 8:].square().mean(), [weight])
    after = model(text[:, 8:], model(text[:, :8]).state).logits
    (through,) = torch.autograd.grad(after.square().mean(), [weight])
    assert_close("gradient", through, whole, 1e-4)
    (cut,) = torch.autograd.grad(model(text[:, 8:], model(text[:, :8]).state.detach()).logits.square().mean(), [weight])
    assert (cut - whole).norm() > 0.01 * whole.norm()


def test_a_model_without_a_cache_cannot_carry() -> None:
    model = small("openai-gpt")
    with torch.no_grad():
        state = model(tokens(1, 4)).state
    with pytest.raises(RunFailure, match=r"expected a model that returns what it carries; got OpenAIGPTLMHeadModel"):
        model(tokens(1, 4), state)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"tokens": torch.zeros(2, 0, dtype=torch.int64)}, "expected integer tokens"),
        ({"tokens": torch.zeros(2, 3)}, "dtype torch.float32"),
        ({"tokens": torch.full((1, 3), VOCAB)}, f"expected token ids in 0..{VOCAB - 1}; got ids {VOCAB}..{VOCAB}"),
        ({"tokens": tokens(2, 3), "lengths": torch.tensor([4, 1])}, "expected integer lengths"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_refuses_what_does_not_fit(arguments: dict, part: str) -> None:
    with pytest.raises(InputError) as caught:
        small("llama")(**arguments)
    assert part in str(caught.value)


def test_refuses_a_state_of_other_rows_and_lengths_without_a_mask() -> None:
    model = small("llama")
    with torch.no_grad():
        state = model(tokens(3, 4)).state
    with pytest.raises(InputError, match="expected a state of 2 rows, one for each row of tokens; got 3 rows"):
        model(tokens(2, 4), state)
    with pytest.raises(InputError, match="expected a model that takes an attention mask; got xLSTMForCausalLM"):
        small("xlstm")(tokens(2, 4), lengths=torch.tensor([4, 2]))


def test_modes_and_sizes() -> None:
    model = HFModel(fresh("llama"))
    assert not model.training
    assert model.train().training
    assert not model.eval().training
    assert model.vocab_size == VOCAB
    assert model.name == "LlamaForCausalLM"
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in model.model.named_parameters()}
    assert model.to("cpu") is model


def test_positions_that_were_never_learned_are_named() -> None:
    model = HFModel(fresh("gpt2"))
    table = model.model.config.max_position_embeddings
    expected = rf"positions that the model has learned; got {table + 1:,} tokens"
    with torch.no_grad(), pytest.raises(InputError, match=expected):
        model(tokens(1, table + 1))
