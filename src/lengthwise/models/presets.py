"""Published sizes as data: released checkpoints, and Table 2 of arXiv 2507.02782.

Each note says where a size comes from. "Recalled" marks what is known from memory of the release and was not compared
with its file; loading such a checkpoint compares everything with the tensors, so a wrong preset cannot be mistaken for
one. Parameter counts are checked in the tests against arithmetic of their own.

Table 2 differs from the releases. For Mamba-2 it prints heads as model width / head width (12 heads of 64 for 130m, 16
of 96 for 780m); the released checkpoints have ``expand = 2`` and head width 64, hence twice as many heads (24 for 130m,
48 of 64 for 780m), and only with ``expand = 2`` do the printed parameter counts come out. So the presets of the table
use the released layout. For GLA it prints 4 heads of 182 at width 768: four heads of the value width 768 are 192 wide
each, which the count of 120m confirms, so 182 is read as a slip. Its RWKV-6 of 70m has no sizes in the paper, hence no
preset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lengthwise.errors import InputError, near_matches
from lengthwise.models.config import (
    AttentionConfig,
    GatedMLPConfig,
    GLAConfig,
    Mamba1Config,
    Mamba2Config,
    MixerConfig,
    ModelConfig,
    RGLRUConfig,
    RWKV6ChannelMixConfig,
    RWKV6Config,
)

NEOX_VOCAB_SIZE = 50277
_NEOX = "EleutherAI/gpt-neox-20b"
_TABLE2 = "Table 2 of arXiv 2507.02782"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published size."""

    config: ModelConfig
    """The sizes."""
    note: str
    """Where it comes from and where it differs from what is printed."""
    peak_lr: float | None = None
    """Peak learning rate of pre-training (Table 2), if given."""
    context_length: int | None = None
    """Training context in tokens, if known."""
    tokenizer: str | None = None
    """Repository of the tokenizer, where that of the weights has none."""
    repositories: tuple[str, ...] = ()
    """Where the weights lie on the hub."""


def _released(
    config: ModelConfig, *repositories: str, context_length: int, note: str = "", neox: bool = False
) -> Preset:
    text = f"released checkpoint {repositories[0]}" + (f"; {note}" if note else "")
    return Preset(
        config=config,
        note=text,
        context_length=context_length,
        tokenizer=_NEOX if neox else None,
        repositories=repositories,
    )


def _state_spaces(
    d_model: int,
    num_layers: int,
    mixer: MixerConfig,
    *,
    multiple: int = 16,
    attention: tuple[tuple[int, MixerConfig], ...] = (),
    mlp: GatedMLPConfig | None = None,
) -> ModelConfig:
    return ModelConfig(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=NEOX_VOCAB_SIZE,
        mixer=mixer,
        other_mixers=attention,
        mlp=mlp,
        pad_vocab_size_multiple=multiple,
    )


def _mamba1(d_model: int, num_layers: int) -> ModelConfig:
    return _state_spaces(d_model, num_layers, Mamba1Config(), multiple=8)


def _mamba2(d_model: int, num_layers: int) -> ModelConfig:
    return _state_spaces(d_model, num_layers, Mamba2Config())


def _gla(d_model: int, num_layers: int, vocab_size: int, *, heads: int = 4, norm_eps: float = 1e-6) -> ModelConfig:
    """In the layout of flash-linear-attention, whose MLP is as wide as 8/3 of the model, rounded up to 256."""
    return ModelConfig(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=vocab_size,
        mixer=GLAConfig(num_heads=heads, norm_eps=norm_eps),
        mlp=GatedMLPConfig(width=math.ceil(int(d_model * 8 / 3) / 256) * 256),
        pad_vocab_size_multiple=1,
        tie_embeddings=False,
        norm_eps=norm_eps,
    )


def _rwkv6(d_model: int, num_layers: int) -> ModelConfig:
    wide = d_model >= 4096
    return ModelConfig(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=65536,
        mixer=RWKV6Config(mix_rank=64 if wide else 32, decay_rank=128 if wide else 64),
        mlp=RWKV6ChannelMixConfig(width=d_model * 7 // 2),
        pad_vocab_size_multiple=1,
        tie_embeddings=False,
        norm="layer",
        embedding_norm=True,
    )


def _griffin(d_model: int, num_layers: int, heads: int, embedding_scale: float) -> ModelConfig:
    """Two recurrent blocks, then one of attention, over and over; heads 256 wide, one of keys and values."""
    local = AttentionConfig(
        num_heads=heads, num_kv_heads=1, rotary_dim=128, window=2048, window_reaches=True, out_bias=True
    )
    return ModelConfig(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=256_000,
        mixer=RGLRUConfig(lru_width=d_model, num_heads=heads),
        other_mixers=tuple((layer, local) for layer in range(2, num_layers, 3)),
        mlp=GatedMLPConfig(width=3 * d_model, activation="gelu_tanh", bias=True),
        pad_vocab_size_multiple=1,
        norm="rms-plus-one",
        norm_eps=1e-6,
        embedding_scale=embedding_scale,
        logit_softcap=30.0,
    )


def _llama(d_model: int, num_layers: int, heads: int, width: int) -> ModelConfig:
    return ModelConfig(
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=32_000,
        mixer=AttentionConfig(num_heads=heads),
        mlp=GatedMLPConfig(width=width),
        pad_vocab_size_multiple=1,
        tie_embeddings=False,
    )


def _mamba_releases() -> dict[str, Preset]:
    ones = {"130m": (768, 24), "370m": (1024, 48), "790m": (1536, 48), "1.4b": (2048, 48), "2.8b": (2560, 64)}
    twos = {"130m": (768, 24), "370m": (1024, 48), "780m": (1536, 48), "1.3b": (2048, 48), "2.7b": (2560, 64)}
    found = {}
    for size, sizes in ones.items():
        name = f"state-spaces/mamba-{size}"
        found[f"mamba-{size}"] = _released(_mamba1(*sizes), name, f"{name}-hf", context_length=2048, neox=True)
    for size, sizes in twos.items():
        name = f"state-spaces/mamba2-{size}"
        found[f"mamba2-{size}"] = _released(_mamba2(*sizes), name, context_length=2048, neox=True)
    wide = AttentionConfig(num_heads=30, head_dim=128, rotary_dim=64, d_conv=4)
    layers = (9, 18, 27, 36, 45, 56)
    found["mamba2attn-2.7b"] = _released(
        _state_spaces(2560, 64, Mamba2Config(), attention=tuple((layer, wide) for layer in layers)),
        "state-spaces/mamba2attn-2.7b",
        context_length=2048,
        neox=True,
        note="six layers of attention, 30 heads of 128: wider than the model",
    )
    found["transformerpp-2.7b"] = _released(
        _state_spaces(
            2560, 32, AttentionConfig(num_heads=20, head_dim=128, rotary_dim=128), mlp=GatedMLPConfig(width=6912)
        ),
        "state-spaces/transformerpp-2.7b",
        context_length=2048,
        neox=True,
        note="the width of the MLP, 6912, and the padding of the vocabulary to 16 are recalled; they fit 2.7 billion",
    )
    return found


def _other_releases() -> dict[str, Preset]:
    griffin = "sizes as in the authors' code; trained on 8,192 tokens, which is recalled, with a window of 2,048"
    sheared = "standard Llama layout, sizes recalled"
    world = "head width 64, low-rank parts 32 and 64"
    return {
        "recurrentgemma-2b": _released(
            _griffin(2560, 26, 10, 50.5),
            "google/recurrentgemma-2b",
            "google/recurrentgemma-2b-it",
            context_length=8192,
            note=griffin,
        ),
        "recurrentgemma-9b": _released(
            _griffin(4096, 38, 16, 64.0),
            "google/recurrentgemma-9b",
            "google/recurrentgemma-9b-it",
            context_length=8192,
            note=griffin,
        ),
        "sheared-llama-1.3b": _released(
            _llama(2048, 24, 16, 5504), "princeton-nlp/Sheared-LLaMA-1.3B", context_length=4096, note=sheared
        ),
        "sheared-llama-2.7b": _released(
            _llama(2560, 32, 20, 6912),
            "princeton-nlp/Sheared-LLaMA-2.7B",
            "princeton-nlp/Sheared-LLaMA-2.7B-ShareGPT",
            context_length=4096,
            note=sheared,
        ),
        "rwkv6-1.6b": _released(
            _rwkv6(2048, 24), "RWKV/rwkv-6-world-1b6", "RWKV/v6-Finch-1B6-HF", context_length=4096, note=world
        ),
        "rwkv6-3b": _released(
            _rwkv6(2560, 32),
            "RWKV/rwkv-6-world-3b-v2.1",
            "RWKV/rwkv-6-world-3b",
            "RWKV/v6-Finch-3B-HF",
            context_length=4096,
            note=world,
        ),
        "rwkv6-7b": _released(
            _rwkv6(4096, 32),
            "RWKV/rwkv-6-world-7b",
            "RWKV/v6-Finch-7B-HF",
            context_length=4096,
            note="head width 64, low-rank parts 64 and 128; 32 layers recalled",
        ),
        "gla-1.3b": _released(
            _gla(2048, 24, 32_000),
            "fla-hub/gla-1.3B-100B",
            context_length=2048,
            note="the defaults of flash-linear-attention's config; that they are those of the file, and the context, "
            "are recalled",
        ),
    }


def _table2_rows() -> dict[str, Preset]:
    def row(config: ModelConfig, peak_lr: float, context_length: int | None, note: str) -> Preset:
        return Preset(
            config=config, note=f"{_TABLE2}; {note}", peak_lr=peak_lr, context_length=context_length, tokenizer=_NEOX
        )

    heads = "which prints heads / width as {}; released layout (expand 2, width 64)"
    twos = [
        ("45m", 512, 12, "8 / 64", 1e-3),
        ("85m", 768, 12, "12 / 64", 1e-3),
        ("130m", 768, 24, "12 / 64", 6e-4),
        ("350m", 1024, 48, "16 / 64", 3e-4),
        ("780m", 1536, 48, "16 / 96", 2.5e-4),
        ("1.3b", 2048, 48, "32 / 64", 2e-4),
    ]
    gla = "which prints heads / width as {}; keys half as wide as the model, head untied, as the count demands"
    glas = [
        ("70m", 512, 6, "4 / 128", 1e-3),
        ("120m", 768, 6, "4 / 182, read as 192", 6e-4),
        ("360m", 1024, 20, "4 / 256", 3e-4),
    ]
    official = "the layout of the official checkpoint"
    return {
        "table2-mamba1-130m": row(_mamba1(768, 24), 6e-4, 2048, official),
        "table2-mamba1-350m": row(_mamba1(1024, 48), 3e-4, 2048, official),
        **{f"table2-mamba2-{size}": row(_mamba2(d, n), lr, 2048, heads.format(h)) for size, d, n, h, lr in twos},
        **{
            f"table2-gla-{size}": row(_gla(d, n, NEOX_VOCAB_SIZE, norm_eps=1e-5), lr, 512, gla.format(h))
            for size, d, n, h, lr in glas
        },
    }


PRESETS: dict[str, Preset] = {**_mamba_releases(), **_other_releases(), **_table2_rows()}


def get_preset(name: str) -> ModelConfig:
    """The configuration of a preset.

    Raises:
        InputError: where there is no preset of that name; near matches are named.
    """
    if name not in PRESETS:
        raise InputError(
            expected="the name of a preset", got=f"'{name}'", where="presets", fix=near_matches(name, PRESETS)
        )
    return PRESETS[name].config


def preset_of_repository(repository: str) -> Preset | None:
    """What is published about a repository on the hub, or None."""
    return next((preset for preset in PRESETS.values() if repository in preset.repositories), None)


def family(config: ModelConfig) -> str:
    """The family that a model belongs to, in words."""
    kinds = {mixer.kind for mixer in config.mixers}
    names = {"mamba1": "Mamba-1", "mamba2": "Mamba-2", "gla": "GLA", "rwkv6": "RWKV-6", "attention": "Transformer"}
    if kinds <= {"rglru", "attention"} and "rglru" in kinds:
        return "Griffin"
    if len(kinds) == 1:
        return names[next(iter(kinds))]
    others = sorted(names.get(kind, "Griffin") for kind in kinds - {"attention"})
    return " + ".join([*others, *(["attention"] if "attention" in kinds else [])])
