"""Llama as transformers stores it: Sheared-LLaMA and every other model of that layout with plain rotary positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lengthwise.checkpoints.formats.base import (
    COMMON,
    Fields,
    Format,
    Published,
    Rule,
    attention_rules,
    rename,
    renames,
)
from lengthwise.models.config import AttentionConfig, GatedMLPConfig, ModelConfig

_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}


class TransformersLlama(Format):
    """transformers' Llama."""

    name = "transformers/llama"
    table = "model.embed_tokens.weight"
    # pretraining_tp splits matrix products over devices; the result is the same.
    meaningless = COMMON | {"pretraining_tp"}

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("model_type") == "llama"

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("a transformers Llama config", self.meaningless)
        d_model, heads = fields.whole("hidden_size", 4096), fields.whole("num_attention_heads", 32)
        kv_heads = fields.whole("num_key_value_heads", heads)
        head_dim = fields.whole("head_dim", d_model // heads)
        bias = fields.flag("attention_bias", False)
        fields.must_be("hidden_act", "silu", default="silu")
        fields.whole("max_position_embeddings", None)
        rotary_base, rotary_share = rotary(fields, published, 1.0)
        if rotary_share != 1.0:
            raise published.refuse("rotary positions over whole heads", f"a share of {rotary_share}", "give another")
        config = ModelConfig(
            d_model=d_model,
            num_layers=fields.whole("num_hidden_layers", 32),
            vocab_size=fields.whole("vocab_size", 32000),
            pad_vocab_size_multiple=1,
            mixer=AttentionConfig(
                num_heads=heads,
                num_kv_heads=None if kv_heads == heads else kv_heads,
                head_dim=None if head_dim * heads == d_model else head_dim,
                rotary_base=rotary_base,
                qkv_bias=bias,
                out_bias=bias,
            ),
            mlp=GatedMLPConfig(width=fields.whole("intermediate_size", 11008), bias=fields.flag("mlp_bias", False)),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
        )
        fields.finish()
        return config

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        mixer, mlp = config.mixers[0], config.mlp
        if not isinstance(mixer, AttentionConfig) or not isinstance(mlp, GatedMLPConfig):
            return None
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": config.d_model,
            "intermediate_size": mlp.width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": mixer.num_heads,
            "num_key_value_heads": mixer.kv_heads(),
            "head_dim": mixer.width(config.d_model),
            "hidden_act": "silu",
            "rms_norm_eps": config.norm_eps,
            "rope_theta": mixer.rotary_base,
            "attention_bias": mixer.qkv_bias,
            "mlp_bias": mlp.bias,
            "tie_word_embeddings": config.tie_embeddings,
            "vocab_size": config.padded_vocab_size,
        }

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        rules = [rename("backbone.embedding.weight", self.table), rename("backbone.norm_f.weight", "model.norm.weight")]
        if not config.tie_embeddings:
            rules.append(rename("lm_head.weight", "lm_head.weight"))
        for layer, mixer in enumerate(config.mixers):
            assert isinstance(mixer, AttentionConfig)
            assert isinstance(config.mlp, GatedMLPConfig)
            ours, theirs = f"backbone.layers.{layer}.", f"model.layers.{layer}."
            names = {"norm.weight": "input_layernorm.weight", "norm2.weight": "post_attention_layernorm.weight"}
            names |= mlp_names(config.mlp, "mlp.")
            if mixer.out_bias:
                names["mixer.out_proj.bias"] = "self_attn.o_proj.bias"
            rules += renames(ours, theirs, names)
            rules += attention_rules(
                f"{ours}mixer.",
                f"{theirs}self_attn.",
                _PROJECTIONS,
                qkv_rows(mixer, config.d_model),
                bias=mixer.qkv_bias,
            )
        return rules

    def context_length(self, values: Mapping[str, Any]) -> int | None:
        length = values.get("max_position_embeddings")
        return length if isinstance(length, int) else None


def qkv_rows(mixer: AttentionConfig, d_model: int) -> tuple[int, int, int]:
    """Rows of the projections to queries, keys and values."""
    width = mixer.width(d_model)
    return mixer.num_heads * width, mixer.kv_heads() * width, mixer.kv_heads() * width


def mlp_names(mlp: GatedMLPConfig, theirs: str) -> dict[str, str]:
    """Our names and theirs of a gated MLP whose three projections are stored apart."""
    kinds = ("weight", "bias") if mlp.bias else ("weight",)
    return {f"mlp.{part}.{kind}": f"{theirs}{part}.{kind}" for part in _MLP_PARTS for kind in kinds}


_MLP_PARTS = ("gate_proj", "up_proj", "down_proj")


def rotary(fields: Fields, published: Published, share: float) -> tuple[float, float]:
    """Base and share of a head that is rotated, from the fields of old files and of new ones.

    Args:
        share: what an absent `partial_rotary_factor` means.
    """
    base = fields.number("rope_theta", 10_000.0)
    share = fields.number("partial_rotary_factor", share)
    for name in ("rope_scaling", "rope_parameters"):
        values = fields.take(name, {})
        if not isinstance(values, dict):
            raise published.refuse(f"{name}: an object", repr(values), "restore the file")
        nested = Published(values, published.shapes, published.where).fields(name)
        # "type" is the older name; a factor means something for the other kinds only.
        for key in ("rope_type", "type"):
            nested.must_be(key, "default", default="default")
        base = nested.number("rope_theta", base)
        share = nested.number("partial_rotary_factor", share)
        nested.finish()
    return base, share
