"""Reading without predicting ends in the state that the full forward pass ends in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.helpers import assert_close, need_form

from lengthwise.errors import InputError
from lengthwise.layers import mamba2_reading
from lengthwise.models.config import AttentionConfig, GatedMLPConfig, Mamba2Config, ModelConfig, RGLRUConfig
from lengthwise.models.lm import LanguageModel
from lengthwise.models.reading import advance, advance_and_predict
from lengthwise.state import State

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "groups": {"ngroups": 2},
    "limits": {"dt_limit": (0.01, 0.2)},
    "bias": {"bias": True, "conv_bias": False},
    "narrow filter": {"d_conv": 2},
}


@pytest.fixture(params=["torch", "native", "native, few tokens too"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name != "native":
        monkeypatch.setattr(mamba2_reading, "FEWEST_TOKENS", 1)
    backend = name.split(",")[0]
    need_form(backend)
    return backend


def made_model(backend: str, num_layers: int = 3, **mixer: Any) -> LanguageModel:
    config = ModelConfig(
        d_model=16,
        num_layers=num_layers,
        vocab_size=11,
        mixer=Mamba2Config(d_state=8, headdim=8, chunk_size=4, **mixer),
    )
    model = LanguageModel(config, seed=1).eval()
    with torch.no_grad():
        for block in model.backbone.layers:
            block.mixer.backend = backend
            block.mixer.out_proj.weight.mul_(8)  # so that upper layers see what lower ones did
            if block.mixer.in_proj.bias is not None:
                block.mixer.in_proj.bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


def made_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(length))


def made_state(model: LanguageModel, rows: int) -> State:
    """Different for every row, the last one zero, as after a row has entered."""
    with torch.no_grad():
        state = model(made_tokens(rows, 6)).state
    fresh = torch.arange(rows) < rows - 1
    return state.where(fresh, state.zeros_like())


def assert_same_state(found: State, expected: State) -> None:
    for (name, ours), (_, theirs) in zip(found.named_tensors(), expected.named_tensors(), strict=True):
        assert_close(name, ours, theirs, rel_rms=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_rows_with_their_own_text(variant: str, length: int, backend: str) -> None:
    model, tokens = made_model(backend, **VARIANTS[variant]), made_tokens(3, length)
    state = made_state(model, 3)
    with torch.no_grad():
        expected = model(tokens, state).state
    assert_same_state(advance(model, tokens, state), expected)
    with torch.no_grad():
        expected = model(tokens).state
    assert_same_state(advance(model, tokens), expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_rows_that_read_the_same_text(variant: str, length: int, backend: str) -> None:
    model, tokens = made_model(backend, **VARIANTS[variant]), made_tokens(1, length)
    state = made_state(model, 3)
    with torch.no_grad():
        expected = model(tokens.expand(3, -1), state).state
    once = advance(model, tokens, state)
    assert_same_state(once, expected)
    # From here the lowest layer's convolution holds the same for all rows, and takes the shared way from the start.
    more = made_tokens(1, 7)
    with torch.no_grad():
        expected = model(more.expand(3, -1), expected).state
    assert_same_state(advance(model, more, once), expected)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_states_of_other_dtypes(dtype: torch.dtype, rows: int, backend: str) -> None:
    model, tokens = made_model(backend), made_tokens(rows, 20)
    state = made_state(model, 3).to(dtype=dtype)
    with torch.no_grad():
        expected = model(tokens.expand(3, -1), state.to(dtype=torch.float32)).state
    assert_same_state(advance(model, tokens, state).to(dtype=torch.float32), expected)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_shallow_models(num_layers: int, backend: str) -> None:
    model, tokens = made_model(backend, num_layers), made_tokens(1, 9)
    state = made_state(model, 4)
    with torch.no_grad():
        expected = model(tokens.expand(4, -1), state, logits="last")
    assert_same_state(advance(model, tokens, state), expected.state)
    logits, found = advance_and_predict(model, tokens, state)
    assert expected.logits is not None
    assert_close("logits", logits[:, :11], expected.logits[:, 0, :11], rel_rms=1e-5)
    assert_same_state(found, expected.state)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_that_the_threads_do_not_share_evenly(threads: int) -> None:
    need_form("native")
    model = made_model("native")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 2, 4, 7, 8):
            tokens, state = made_tokens(rows, 150), made_state(model, rows)
            with torch.no_grad():
                expected = model(tokens, state).state
            assert_same_state(advance(model, tokens, state), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("own_text", [True, False])
def test_prediction_behind_the_last_token(variant: str, length: int, own_text: bool, backend: str) -> None:
    model, tokens = made_model(backend, **VARIANTS[variant]), made_tokens(3 if own_text else 1, length)
    state = made_state(model, 3)
    with torch.no_grad():
        expected = model(tokens.expand(3, -1), state, logits="last")
    logits, found = advance_and_predict(model, tokens, state)
    assert expected.logits is not None
    assert_close("logits", logits[:, :11], expected.logits[:, 0, :11], rel_rms=1e-5)
    assert (logits[:, 11:] == -math.inf).all()
    assert_same_state(found, expected.state)
    with torch.no_grad():
        expected = model(tokens, logits="last")
    assert expected.logits is not None
    logits, found = advance_and_predict(model, tokens)
    assert_close("logits", logits[:, :11], expected.logits[:, 0, :11], rel_rms=1e-5)
    assert_same_state(found, expected.state)


@pytest.mark.parametrize("mixer", [RGLRUConfig(), AttentionConfig(num_heads=2)])
def test_prediction_of_models_that_are_spared_nothing(mixer: Any) -> None:
    sizes = ModelConfig(d_model=16, num_layers=2, vocab_size=11, mixer=mixer, mlp=GatedMLPConfig(width=32))
    model, tokens = LanguageModel(sizes).eval(), made_tokens(1, 9)
    state = made_state(model, 3)
    with torch.no_grad():
        expected = model(tokens.expand(3, -1), state, logits="last")
    logits, found = advance_and_predict(model, tokens, state)
    assert expected.logits is not None
    assert_close("logits", logits[:, :11], expected.logits[:, 0, :11], rel_rms=1e-5)
    assert_same_state(found, expected.state)


def test_refused_rows() -> None:
    model = made_model("torch")
    with pytest.raises(InputError, match=r"B of 1 or 3, the rows of the state; got shape \(2, 5\)"):
        advance(model, made_tokens(2, 5), model.init_state(3))
    with pytest.raises(InputError, match=r"got shape \(3, 0\)"):
        advance(model, torch.zeros(3, 0, dtype=torch.int64), model.init_state(3))


def test_many_rows_over_several_chunks(backend: str) -> None:
    # More tokens than the rows of one input are worked on together, and a rest.
    model, tokens = made_model(backend), made_tokens(1, 333)
    state = made_state(model, 9)
    with torch.no_grad():
        expected = model(tokens.expand(9, -1), state).state
    assert_same_state(advance(model, tokens, state), expected)
