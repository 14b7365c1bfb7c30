"""Published sizes, built without memory: parameters counted by arithmetic of its own, and published tensors."""

from __future__ import annotations

import math

import pytest
import torch

from lengthwise.checkpoints.express import natural, stored_shapes
from lengthwise.checkpoints.formats import FORMATS
from lengthwise.models.config import (
    AttentionConfig,
    GatedMLPConfig,
    GLAConfig,
    Mamba1Config,
    Mamba2Config,
    ModelConfig,
    RGLRUConfig,
    RWKV6Config,
)
from lengthwise.models.lm import LanguageModel
from lengthwise.models.presets import PRESETS, family, get_preset, preset_of_repository


def mixer_parameters(mixer: object, d: int) -> int:
    if isinstance(mixer, Mamba1Config):
        inner, n, rank = 2 * d, 16, math.ceil(d / 16)
        return 2 * d * inner + 5 * inner + inner * (rank + 2 * n) + rank * inner + inner + inner * n + inner + inner * d
    if isinstance(mixer, Mamba2Config):
        inner, n, heads = 2 * d, 128, 2 * d // 64
        return d * (2 * inner + 2 * n + heads) + 5 * (inner + 2 * n) + 3 * heads + inner + inner * d
    if isinstance(mixer, AttentionConfig):
        width, keys = mixer.num_heads * mixer.width(d), mixer.kv_heads() * mixer.width(d)
        conv = 5 * (width + 2 * keys) if mixer.d_conv else 0
        return d * (width + 2 * keys) + conv + width * d + (d if mixer.out_bias else 0)
    if isinstance(mixer, GLAConfig):
        keys = d // 2
        return 2 * d * keys + 3 * d * d + 16 * d + 16 * keys + keys + d // mixer.num_heads
    if isinstance(mixer, RWKV6Config):
        mixes, decay = 6 * d + 10 * d * mixer.mix_rank, d + 2 * d * mixer.decay_rank
        return mixes + decay + d + 5 * d * d + 2 * d
    assert isinstance(mixer, RGLRUConfig)
    block = d // mixer.num_heads
    return 3 * (d * d + d) + 5 * d + d + 2 * (mixer.num_heads * block * block + d)


def parameters(config: ModelConfig) -> int:
    """Sum of the published shapes, from the tables of the papers and not from the layers."""
    d, norm = config.d_model, 2 * config.d_model if config.norm == "layer" else config.d_model
    total = config.padded_vocab_size * d * (1 if config.tie_embeddings else 2) + norm * (
        2 if config.embedding_norm else 1
    )
    for mixer in config.mixers:
        total += norm + mixer_parameters(mixer, d)
        if isinstance(config.mlp, GatedMLPConfig):
            total += norm + 3 * d * config.mlp.width + (2 * config.mlp.width + d if config.mlp.bias else 0)
        elif config.mlp is not None:
            total += norm + 2 * d + 2 * d * config.mlp.width + d * d
    return total


@pytest.mark.parametrize("name", PRESETS)
def test_parameters(name: str) -> None:
    config = get_preset(name)
    with torch.device("meta"):
        model = LanguageModel(config)
    assert model.num_parameters() == parameters(config)


# Printed or published, in millions of parameters, embeddings included.
PUBLISHED = {
    "mamba-130m": 129.1,
    "mamba-370m": 371.5,
    "mamba-790m": 793.2,
    "mamba-1.4b": 1372.2,
    "mamba-2.8b": 2768.3,
    "mamba2-130m": 129.0,
    "mamba2-2.7b": 2702.6,
    "transformerpp-2.7b": 2670.0,
    "recurrentgemma-2b": 2680.0,
    "sheared-llama-1.3b": 1345.0,
    "sheared-llama-2.7b": 2700.0,
    "rwkv6-1.6b": 1600.0,
    "rwkv6-3b": 3100.0,
    "rwkv6-7b": 7640.0,
    "gla-1.3b": 1365.0,
    "table2-mamba1-130m": 130.0,
    "table2-mamba2-45m": 45.0,
    "table2-mamba2-85m": 85.0,
    "table2-mamba2-130m": 130.0,
    "table2-mamba2-780m": 780.0,
    "table2-mamba2-1.3b": 1300.0,
    "table2-gla-70m": 70.0,
    "table2-gla-120m": 120.0,
    "table2-gla-360m": 360.0,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_count_is_the_published_one(name: str) -> None:
    """To the precision that is printed: Table 2 rounds freely."""
    tolerance = 0.035 if name.startswith("table2") else 0.005
    assert parameters(get_preset(name)) / 1e6 == pytest.approx(PUBLISHED[name], rel=tolerance)


FORMAT_OF = {
    "mamba": "state-spaces",
    "mamba2": "state-spaces",
    "mamba2attn": "state-spaces",
    "transformerpp": "state-spaces",
    "recurrentgemma": "transformers/recurrent_gemma",
    "sheared": "transformers/llama",
    "rwkv6": "rwkv-hub",
    "gla": "fla/gla",
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_format_of_its_release_holds_it(name: str) -> None:
    """Nothing is left over for our own notes: the published config says all there is to say."""
    found = natural(get_preset(name))
    parts = name.split("-")
    assert found.form.name == FORMAT_OF["mamba" if parts[1] == "mamba1" else parts[1 if parts[0] == "table2" else 0]]
    assert found.details == {}


# Of each release a few tensors, as published: name and shape.
TENSORS = {
    "mamba-2.8b": {
        "backbone.embedding.weight": (50280, 2560),
        "backbone.layers.63.mixer.in_proj.weight": (10240, 2560),
        "backbone.layers.63.mixer.x_proj.weight": (160 + 32, 5120),
        "backbone.layers.63.mixer.A_log": (5120, 16),
    },
    "mamba2-2.7b": {
        "backbone.embedding.weight": (50288, 2560),
        "backbone.layers.63.mixer.in_proj.weight": (10576, 2560),
        "backbone.layers.63.mixer.conv1d.weight": (5376, 1, 4),
    },
    "mamba2attn-2.7b": {
        "backbone.layers.8.mixer.in_proj.weight": (10576, 2560),
        "backbone.layers.9.mixer.in_proj.weight": (11520, 2560),
        "backbone.layers.56.mixer.conv1d.weight": (11520, 1, 4),
        "backbone.layers.56.mixer.out_proj.weight": (2560, 3840),
    },
    "transformerpp-2.7b": {"backbone.layers.31.mlp.fc1.weight": (2 * 6912, 2560)},
    "recurrentgemma-2b": {
        "model.embed_tokens.weight": (256000, 2560),
        "model.layers.25.temporal_block.rg_lru.input_gate_weight": (10, 256, 256),
        "model.layers.23.temporal_block.k_proj.weight": (256, 2560),
        "model.layers.23.mlp_block.gate_proj.weight": (7680, 2560),
        "model.layers.24.temporal_block.conv_1d.weight": (2560, 1, 4),
    },
    "sheared-llama-2.7b": {
        "model.layers.31.self_attn.k_proj.weight": (2560, 2560),
        "model.layers.31.mlp.down_proj.weight": (2560, 6912),
        "lm_head.weight": (32000, 2560),
    },
    "rwkv6-3b": {
        "rwkv.blocks.0.pre_ln.weight": (2560,),
        "rwkv.blocks.31.attention.time_maa_w1": (2560, 160),
        "rwkv.blocks.31.attention.time_maa_w2": (5, 32, 2560),
        "rwkv.blocks.31.attention.time_decay_w1": (2560, 64),
        "rwkv.blocks.31.attention.time_faaaa": (40, 64),
        "rwkv.blocks.31.feed_forward.key.weight": (8960, 2560),
        "head.weight": (65536, 2560),
    },
    "gla-1.3b": {
        "model.layers.23.attn.gk_proj.1.weight": (1024, 16),
        "model.layers.23.attn.g_norm_swish_gate.weight": (512,),
        "model.layers.23.mlp.gate_proj.weight": (5632, 2048),
    },
}


@pytest.mark.parametrize("name", TENSORS)
def test_published_tensors(name: str) -> None:
    config = get_preset(name)
    found = natural(config)
    shapes = stored_shapes(FORMATS[found.form.name], config, found.values)
    assert {tensor: shapes.get(tensor) for tensor in TENSORS[name]} == TENSORS[name]


def test_the_attention_of_the_hybrid_stands_where_it_is_published() -> None:
    layers = [layer for layer, _ in get_preset("mamba2attn-2.7b").other_mixers]
    assert layers == [9, 18, 27, 36, 45, 56]


def test_families_and_repositories() -> None:
    expected = {
        "mamba-130m": "Mamba-1",
        "table2-mamba2-45m": "Mamba-2",
        "mamba2attn-2.7b": "Mamba-2 + attention",
        "transformerpp-2.7b": "Transformer",
        "recurrentgemma-9b": "Griffin",
        "rwkv6-3b": "RWKV-6",
        "gla-1.3b": "GLA",
    }
    assert {name: family(get_preset(name)) for name in expected} == expected
    found = preset_of_repository("state-spaces/mamba2-2.7b")
    assert found is PRESETS["mamba2-2.7b"]
    assert preset_of_repository("org/name") is None
    repositories = [name for preset in PRESETS.values() for name in preset.repositories]
    assert len(repositories) == len(set(repositories))
    assert all(preset.note for preset in PRESETS.values())


@pytest.mark.parametrize("name", ["recurrentgemma-2b", "mamba2attn-2.7b", "sheared-llama-2.7b", "mamba2-130m"])
def test_a_model_keeps_what_its_config_says(name: str) -> None:
    config = PRESETS[name].config
    with torch.device("meta"):
        model = LanguageModel(config)
    windows, each_token = config.attention_floats()
    for length in (10_000, 1_000_000):  # beyond every window
        assert model.attention_state_bytes(length) == 4 * (windows + length * each_token)
    assert (windows + each_token > 0) == (name != "mamba2-130m")
