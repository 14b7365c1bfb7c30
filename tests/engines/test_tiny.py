"""Small random models of large configurations."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.engines.models import tokens
from tests.models.families import FAMILIES

from lengthwise.engines import probe, tiny
from lengthwise.engines.opening import load_config, quiet
from lengthwise.errors import InputError
from lengthwise.models.presets import PRESETS


def test_a_seventy_billion_model_keeps_its_ratios() -> None:
    config = transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )
    small = tiny.tiny_model(config).config
    assert small.num_attention_heads / small.num_key_value_heads == 8
    assert small.intermediate_size / small.hidden_size == 3.5
    assert small.num_attention_heads * small.head_dim == small.hidden_size
    assert small.num_hidden_layers == 2
    assert small.vocab_size == tiny.VOCAB
    assert sum(p.numel() for p in tiny.tiny_model(config).model.parameters()) < 1e6


@pytest.mark.parametrize("model_type", ["jamba", "bamba", "nemotron_h", "lfm2", "gemma3_text", "qwen3_next", "zamba"])
def test_every_kind_of_layer_is_kept(model_type: str) -> None:
    with quiet():
        config = load_config(model_type)
        small = tiny.tiny_model(config).config
    assert tiny._kinds(small) == tiny._kinds(config)
    assert len(tiny._kinds(config)) > 1
    assert small.num_hidden_layers <= tiny.MAX_LAYERS


def test_windows_chunks_and_states_are_cut_to_what_a_probe_crosses() -> None:
    config = transformers.MistralConfig(sliding_window=4096)
    assert tiny.windows_of(config) == {"sliding_window": 4096}
    assert tiny.tiny_model(config).config.sliding_window == tiny.WINDOW < probe.LENGTH
    small = tiny.tiny_model(transformers.Mamba2Config()).config
    assert small.chunk_size == tiny.CHUNK
    assert small.state_size == tiny.STATE_SIZE
    assert small.num_heads * small.head_dim == small.expand * small.hidden_size
    # An indexer with few heads ties, see `_LIMITS`.
    assert tiny.tiny_model(load_config("deepseek_v32")).config.index_n_heads == 32
    assert tiny.windows_of(transformers.Qwen2Config(sliding_window=4096, use_sliding_window=False)) == {}
    assert tiny.windows_of(FAMILIES["mamba2"]) == {}


@pytest.mark.parametrize("model_type", ["llama", "mamba", "cohere2", "minicpm3", "recurrent_gemma", "jamba"])
def test_the_weights_are_lively_and_repeatable(model_type: str) -> None:
    with quiet():
        config = load_config(model_type)
        before = torch.random.get_rng_state()
        one, two, other = (tiny.tiny_model(config, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(torch.random.get_rng_state(), before)
        with torch.no_grad():
            logits = [each.model(tokens(2, 40)).logits for each in (one, two, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    # Cohere divides its logits by sixteen and MiniCPM multiplies; the head makes up for it.
    assert 1.0 < probe.spread_of(logits[0]) < 8.0
    assert all(p.any() for name, p in one.model.named_parameters()), "a parameter without a part in the result"


@pytest.mark.parametrize("model_type", ["llama", "jamba", "mamba2", "nemotron_h", "gemma3_text", "bamba"])
def test_the_settings_of_a_script_give_the_configuration_again(model_type: str) -> None:
    with quiet():
        small = tiny.tiny_model(load_config(model_type)).config
        found = tiny.settings(small)
        again = transformers.AutoConfig.for_model(small.model_type, **found)
    assert {k: v for k, v in again.to_dict().items() if k in small.to_dict()} == small.to_dict()
    assert len(found) < len(small.to_dict())


def test_what_cannot_be_reduced_says_what_its_class_said() -> None:
    with quiet(), pytest.raises(InputError) as caught:
        tiny.tiny_model(transformers.ReformerConfig())
    assert "is_decoder=True" in caught.value.got
    assert caught.value.where == "ReformerConfig (model type reformer)"
    assert "--config-only" in caught.value.fix


def test_what_stays_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "MAX_PARAMETERS", 1000)
    with pytest.raises(InputError, match="parameters after the reduction"):
        tiny.tiny_model(transformers.LlamaConfig())


@pytest.mark.parametrize("name", [*FAMILIES, *(f"preset {name}" for name in PRESETS)])
def test_our_families_are_reduced(name: str) -> None:
    config = FAMILIES[name] if name in FAMILIES else PRESETS[name.removeprefix("preset ")].config
    small = tiny.tiny_ours(config)
    assert {m.kind for m in small.config.mixers} == {m.kind for m in config.mixers}
    assert (small.config.mlp is None) == (config.mlp is None)
    assert small.num_parameters() < 3e6
    with torch.no_grad():
        logits = small(tokens(2, 30) % small.config.vocab_size).logits[..., : small.config.vocab_size]
    assert 0.5 < probe.spread_of(logits) < 20.0
