"""Gated linear attention as flash-linear-attention stores it (`model_type` gla).

The rank of the gate and the divisor of its logits, both 16, are no fields of the config: the rank is read from the
tensors, the divisor is taken on trust. One eps serves all norms. The norm of the heads' outputs is called
`g_norm_swish_gate` where norm and gate are fused, which is the default, and `g_norm` otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from lengthwise.checkpoints.formats.base import Format, Published, Rule, rename, renames
from lengthwise.checkpoints.formats.fla import MEANINGLESS, attention_layers, fla_attention_rules, written_attention
from lengthwise.checkpoints.formats.transformers_llama import mlp_names
from lengthwise.models.config import AttentionConfig, GatedMLPConfig, GLAConfig, ModelConfig

_WIDTH_MULTIPLE = 256
_RANK = 16


class FlaGLA(Format):
    """flash-linear-attention's GLA, with attention at some layers where the config says so."""

    name = "fla/gla"
    table = "model.embeddings.weight"
    meaningless = MEANINGLESS | {"share_conv_kernel"}

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("model_type") == "gla"

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("an fla GLA config", self.meaningless)
        d_model = fields.whole("hidden_size", 2048)
        for name, only in (("feature_map", None), ("elementwise_affine", True), ("attnres_block_size", None)):
            fields.must_be(name, only, default=only)
        fields.must_be("hidden_act", "swish", "silu", default="swish")
        fields.must_be("use_gk", True, default=True)
        fields.must_be("use_gv", False, default=False)
        fields.flag("fuse_norm", True)
        ratio, width = fields.number("hidden_ratio", 4.0), fields.whole("intermediate_size", None)
        if width is None:
            width = math.ceil(int(d_model * ratio * 2 / 3) / _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
        # Early versions of the library say rms_norm_eps.
        eps = fields.number("norm_eps", None) or fields.number("rms_norm_eps", 1e-6)
        fields.number("rms_norm_eps", eps)
        kv_heads, num_heads = fields.whole("num_kv_heads", None), fields.whole("num_heads", 4)
        others = attention_layers(published, fields.take("attn", None))
        mixer = GLAConfig(
            num_heads=num_heads,
            num_kv_heads=None if kv_heads == num_heads else kv_heads,
            expand_k=fields.number("expand_k", 0.5),
            expand_v=fields.number("expand_v", 1.0),
            gate_low_rank_dim=_rank(published),
            clamp_min=fields.number("clamp_min", None),
            use_output_gate=fields.flag("use_output_gate", True),
            use_short_conv=fields.flag("use_short_conv", False),
            conv_size=fields.whole("conv_size", 4),
            norm_eps=eps,
        )
        config = ModelConfig(
            d_model=d_model,
            num_layers=fields.whole("num_hidden_layers", 24),
            vocab_size=fields.whole("vocab_size", 32000),
            mixer=mixer,
            other_mixers=others,
            mlp=GatedMLPConfig(width=width),
            pad_vocab_size_multiple=1,
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            norm_eps=eps,
        )
        fields.finish()
        return config

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        mixer = next((mixer for mixer in config.mixers if isinstance(mixer, GLAConfig)), None)
        if mixer is None or not isinstance(config.mlp, GatedMLPConfig) or mixer.gate_low_rank_dim != _RANK:
            return None
        if not all(isinstance(other, GLAConfig | AttentionConfig) for other in config.mixers):
            return None
        return {
            "architectures": ["GLAForCausalLM"],
            "model_type": "gla",
            "hidden_size": config.d_model,
            "num_hidden_layers": config.num_layers,
            "vocab_size": config.padded_vocab_size,
            "num_heads": mixer.num_heads,
            "num_kv_heads": mixer.num_kv_heads,
            "expand_k": mixer.expand_k,
            "expand_v": mixer.expand_v,
            "intermediate_size": config.mlp.width,
            "hidden_act": "swish",
            "clamp_min": mixer.clamp_min,
            "use_output_gate": mixer.use_output_gate,
            "use_short_conv": mixer.use_short_conv,
            "conv_size": mixer.conv_size,
            "norm_eps": config.norm_eps,
            "attn": written_attention(config.mixers),
            "tie_word_embeddings": config.tie_embeddings,
        }

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        rules = [rename("backbone.embedding.weight", self.table), rename("backbone.norm_f.weight", "model.norm.weight")]
        if not config.tie_embeddings:
            rules.append(rename("lm_head.weight", "lm_head.weight"))
        for layer, mixer in enumerate(config.mixers):
            assert isinstance(config.mlp, GatedMLPConfig)
            ours, theirs = f"backbone.layers.{layer}.", f"model.layers.{layer}."
            names = {"norm.weight": "attn_norm.weight", "norm2.weight": "mlp_norm.weight"}
            rules += renames(ours, theirs, {**names, **mlp_names(config.mlp, "mlp.")})
            ours, theirs = f"{ours}mixer.", f"{theirs}attn."
            if isinstance(mixer, AttentionConfig):
                rules += fla_attention_rules(ours, theirs, mixer, config)
            else:
                assert isinstance(mixer, GLAConfig)
                rules += renames(ours, theirs, _names(mixer, fused=values.get("fuse_norm") is not False))
        return rules


def _names(mixer: GLAConfig, *, fused: bool) -> dict[str, str]:
    projections = ["q_proj", "k_proj", "v_proj", "o_proj"]
    projections += ["g_proj"] if mixer.use_output_gate else []
    names = [f"{name}.weight" for name in projections]
    names += ["gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias"]
    if mixer.use_short_conv:
        kinds = ("weight", "bias") if mixer.conv_bias else ("weight",)
        names += [f"{part}_conv1d.{kind}" for part in "qkv" for kind in kinds]
    norm = "g_norm_swish_gate.weight"
    return {**{name: name for name in names}, norm: norm if fused and mixer.use_output_gate else "g_norm.weight"}


def _rank(published: Published) -> int:
    """Rank of the gate, from the first layer that has one."""
    for name, shape in (published.shapes or {}).items():
        if name.endswith(".attn.gk_proj.0.weight"):
            return shape[0]
    return _RANK
