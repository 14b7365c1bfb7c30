"""What a model refuses before a kernel sees it: other models' states, masks of other shapes, tokens of other types."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.families import FAMILIES, small_model

from lengthwise.errors import InputError
from lengthwise.models.config import Mamba2Config, ModelConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.models.reading import advance
from lengthwise.state import State

pytestmark = pytest.mark.usefixtures("unchecked")

TOKENS = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [0, 0, 1, 1, 2]])


def mamba2(num_layers: int = 2, **mixer: Any) -> LanguageModel:
    config = {"d_state": 8, "headdim": 8, "chunk_size": 4} | mixer
    return LanguageModel(
        ModelConfig(d_model=16, num_layers=num_layers, vocab_size=11, mixer=Mamba2Config(**config))
    ).eval()


@pytest.mark.parametrize("read", [lambda model, *rest: model(*rest), advance])
@pytest.mark.parametrize(
    ("other", "got"),
    [
        ({"d_state": 4}, r"ssm of shape \(3, 4, 8, 4\) instead of \(3, 4, 8, 8\)"),
        ({"headdim": 16}, r"ssm of shape \(3, 2, 16, 8\) instead of \(3, 4, 8, 8\)"),
        ({"d_conv": 2}, r"conv of shape \(3, 1, 48\) instead of \(3, 3, 48\)"),
    ],
)
def test_state_of_other_sizes(read: Any, other: dict[str, Any], got: str) -> None:
    with pytest.raises(InputError, match=got) as error:
        read(mamba2(), TOKENS, mamba2(**other).init_state(3))
    assert error.value.where == "layers.0 of the state of LanguageModel"


def test_state_of_another_family() -> None:
    model, other = small_model("rwkv6"), small_model("mamba2")
    with pytest.raises(InputError, match="expected a state of RWKV6TimeMix"):
        model(TOKENS, State(other.init_state(3).layers[: model.config.num_layers], model.init_state(3).channels))
    with pytest.raises(InputError, match=r"3 layers, 0 with a state of their MLP, and 3 rows for 3 rows"):
        model(TOKENS, State(model.init_state(3).layers))


def test_state_of_another_number_of_layers_or_rows() -> None:
    model = mamba2()
    for read in (model, lambda *given: advance(model, *given)):
        with pytest.raises(InputError, match=r"a state of 3 layers and 3 rows for 3 rows"):
            read(TOKENS, mamba2(3).init_state(3))
    with pytest.raises(InputError, match=r"a state of 2 layers and 4 rows for 3 rows"):
        model(TOKENS, model.init_state(4))


def test_state_of_whole_numbers() -> None:
    model = mamba2()
    state = model.init_state(3).map("recurrent", lambda tensor: tensor.long())
    with pytest.raises(InputError, match=r"ssm of dtype torch.int64"):
        model(TOKENS, state)


def test_a_mixer_by_itself_refuses_too() -> None:
    mixer = mamba2().blocks()[0].mixer
    state = mamba2(d_state=4).init_state(3).layers[0]
    with pytest.raises(InputError, match=r"ssm of shape \(3, 4, 8, 4\)") as error:
        mixer(torch.zeros(3, 5, 16), state)
    assert error.value.where == "the state of Mamba2"


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_the_model_itself_are_taken(family: str) -> None:
    model = small_model(family)
    state = model(TOKENS, model.init_state(3)).state
    for given in (state, state.rows(torch.tensor([0, 0, 2])), state.only("recurrent"), state.to(dtype=torch.float64)):
        model.check_state(given, 3)


@pytest.mark.parametrize("shape", [(3, 4), (1, 5), (5,)])
def test_mask_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"a mask of the shape of the tokens, \(3, 5\)"):
        mamba2()(TOKENS, resets=torch.zeros(shape, dtype=torch.bool))


def test_side_that_is_none() -> None:
    padding: Any = "Left"
    with pytest.raises(InputError, match=r"""expected "right" or "left"; got 'Left'"""):
        mamba2()(TOKENS, lengths=torch.tensor([5, 4, 3]), padding=padding)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_whole_numbers_of_any_size_are_tokens(dtype: torch.dtype) -> None:
    model = mamba2()
    with torch.no_grad():
        assert torch.equal(model(TOKENS.to(dtype)).hidden, model(TOKENS).hidden)
        assert torch.equal(model.nll(TOKENS.to(dtype))[0], model.nll(TOKENS)[0])


def test_tokens_that_are_none() -> None:
    model = mamba2()
    for tokens in (TOKENS.float(), TOKENS.bool(), TOKENS.to(torch.uint16)):
        with pytest.raises(InputError, match=r"integer tokens \[B, T\]"):
            model(tokens)
    with pytest.raises(InputError, match=r"ids 0..11"):
        advance(model, torch.tensor([[0, 11]]))
