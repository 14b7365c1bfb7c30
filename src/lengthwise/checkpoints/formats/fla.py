"""What the formats of flash-linear-attention share: its fields without meaning, and its attention layers.

A model of that library can have attention at some layers: `attn` holds one set of options with the layers they are for,
or a list of such sets. A window of w lets a query see w keys, its own included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lengthwise.checkpoints.formats.base import COMMON, Published, Rule, attention_rules
from lengthwise.checkpoints.formats.transformers_llama import qkv_rows
from lengthwise.models.config import AttentionConfig, MixerConfig, ModelConfig

MEANINGLESS = COMMON | {
    "attn_mode",
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "fuse_swiglu",
    "max_position_embeddings",
    "use_l2warp",
}
_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}


def attention_layers(published: Published, attn: Any) -> tuple[tuple[int, MixerConfig], ...]:
    """The attention layers that the field `attn` asks for."""
    if not attn:
        return ()
    found: list[tuple[int, MixerConfig]] = []
    for values in attn if isinstance(attn, list) else [attn]:
        if not isinstance(values, dict):
            raise published.refuse("attn: an object, or a list of objects", repr(attn), "restore the file")
        fields = Published(values, published.shapes, published.where).fields("attn")
        layers, num_heads = fields.take("layers"), fields.whole("num_heads")
        kv_heads = fields.whole("num_kv_heads", num_heads)
        mixer = AttentionConfig(
            num_heads=num_heads,
            num_kv_heads=None if kv_heads == num_heads else kv_heads,
            rotary_base=fields.number("rope_theta", 10_000.0),
            window=fields.whole("window_size", None),
            qkv_bias=fields.flag("qkv_bias", False),
        )
        fields.finish()
        if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
            raise published.refuse("attn.layers: a list of layers", repr(layers), "restore the file")
        found += [(layer, mixer) for layer in layers]
    return tuple(found)


def written_attention(mixers: Sequence[MixerConfig]) -> list[dict[str, Any]] | dict[str, Any] | None:
    """The field `attn` for the attention layers among all mixers."""
    sets: dict[AttentionConfig, list[int]] = {}
    for layer, mixer in enumerate(mixers):
        if isinstance(mixer, AttentionConfig):
            sets.setdefault(mixer, []).append(layer)
    written = [
        {
            "layers": layers,
            "num_heads": mixer.num_heads,
            "num_kv_heads": mixer.kv_heads(),
            "qkv_bias": mixer.qkv_bias,
            "window_size": mixer.window,
            "rope_theta": mixer.rotary_base,
        }
        for mixer, layers in sets.items()
    ]
    return None if not written else written[0] if len(written) == 1 else written


def fla_attention_rules(ours: str, theirs: str, mixer: AttentionConfig, config: ModelConfig) -> list[Rule]:
    """Rules for an attention layer. ours, theirs: prefixes of the mixer."""
    return attention_rules(ours, theirs, _PROJECTIONS, qkv_rows(mixer, config.d_model), bias=mixer.qkv_bias)
