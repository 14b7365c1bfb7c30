"""RecurrentGemma as transformers stores it.

Two traps. `intermediate_size` is twice the inner width of the MLP. And transformers lets a query see
`attention_window_size` keys, its own included, where the authors' own code, with which the weights were trained, lets
it see one more; we read the authors' window, and `window_reaches: false` among our notes asks for the other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch

from lengthwise.checkpoints.formats.base import COMMON, Format, Published, Rule, attention_rules, rename, renames
from lengthwise.checkpoints.formats.transformers_llama import mlp_names, qkv_rows, rotary
from lengthwise.models.config import AttentionConfig, GatedMLPConfig, MixerConfig, ModelConfig, RGLRUConfig

_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_RECURRENT = {
    **{f"{part}.{kind}": f"{part}.{kind}" for part in ("linear_x", "linear_y", "linear_out", "conv_1d")
       for kind in ("weight", "bias")},
    **{f"rg_lru.{name}": f"rg_lru.{name}" for name in (
        "recurrent_param", "input_gate_weight", "input_gate_bias", "recurrent_gate_weight", "recurrent_gate_bias")},
}  # fmt: skip
_PATTERN = ["recurrent", "recurrent", "attention"]


class TransformersGriffin(Format):
    """transformers' RecurrentGemma."""

    name = "transformers/recurrent_gemma"
    table = "model.embed_tokens.weight"
    meaningless = COMMON | {"w_init_variance_scale", "final_w_init_variance_scale"}

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("model_type") == "recurrent_gemma"

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("a transformers RecurrentGemma config", self.meaningless)
        d_model, heads = fields.whole("hidden_size", 2560), fields.whole("num_attention_heads", 10)
        kv_heads, num_layers = fields.whole("num_key_value_heads", heads), fields.whole("num_hidden_layers", 26)
        pattern = fields.take("block_types", None) or fields.take("_block_types", None) or _PATTERN
        fields.take("_block_types", None)
        if not set(pattern) <= {"recurrent", "attention"}:
            raise published.refuse("block_types of recurrent and attention", repr(pattern), "restore the file")
        kinds = [pattern[layer % len(pattern)] for layer in range(num_layers)]
        fields.must_be("hidden_activation", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
        fields.must_be("embeddings_scale_by_sqrt_dim", True, default=True)
        fields.must_equal("head_dim", d_model // heads, "hidden_size divided by num_attention_heads")
        width = fields.whole("intermediate_size", 3 * 2560)
        base, share = rotary(fields, published, 0.5)
        recurrent = RGLRUConfig(
            lru_width=fields.whole("lru_width", d_model), num_heads=heads, d_conv=fields.whole("conv1d_width", 4)
        )
        attention = AttentionConfig(
            num_heads=heads,
            num_kv_heads=None if kv_heads == heads else kv_heads,
            rotary_dim=int(d_model // heads * share),
            rotary_base=base,
            window=fields.whole("attention_window_size", 2048),
            window_reaches=True,
            qkv_bias=fields.flag("attention_bias", False),
            out_bias=True,
        )
        config = griffin(
            d_model=d_model,
            mixers=[recurrent if kind == "recurrent" else attention for kind in kinds],
            vocab_size=fields.whole("vocab_size", 256_000),
            width=width // 2,
            norm_eps=fields.number("rms_norm_eps", 1e-6),
            tie_embeddings=fields.flag("tie_word_embeddings", True),
            logit_softcap=fields.number("logits_soft_cap", 30.0),
        )
        fields.finish()
        return config

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        recurrent = [mixer for mixer in config.mixers if isinstance(mixer, RGLRUConfig)]
        attention = [mixer for mixer in config.mixers if isinstance(mixer, AttentionConfig)]
        if len(recurrent) + len(attention) != config.num_layers or not isinstance(config.mlp, GatedMLPConfig):
            return None
        if not recurrent or config.logit_softcap is None:
            return None
        kinds = ["recurrent" if isinstance(mixer, RGLRUConfig) else "attention" for mixer in config.mixers]
        usual = kinds == [_PATTERN[layer % 3] for layer in range(config.num_layers)]
        local = attention[0] if attention else AttentionConfig(num_heads=recurrent[0].num_heads, window=2048)
        return {
            "architectures": ["RecurrentGemmaForCausalLM"],
            "model_type": "recurrent_gemma",
            "hidden_size": config.d_model,
            "num_hidden_layers": config.num_layers,
            "vocab_size": config.padded_vocab_size,
            "intermediate_size": 2 * config.mlp.width,
            "num_attention_heads": recurrent[0].num_heads,
            "num_key_value_heads": local.kv_heads(),
            "head_dim": local.width(config.d_model),
            "lru_width": recurrent[0].width(config.d_model),
            "conv1d_width": recurrent[0].d_conv,
            "attention_window_size": local.window or 0,
            "attention_bias": local.qkv_bias,
            "block_types": _PATTERN if usual else kinds,
            "hidden_activation": "gelu_pytorch_tanh",
            "logits_soft_cap": config.logit_softcap,
            "rms_norm_eps": config.norm_eps,
            "rope_theta": local.rotary_base,
            "partial_rotary_factor": local.rotated(config.d_model) / local.width(config.d_model),
            "tie_word_embeddings": config.tie_embeddings,
        }

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        rules = [rename("backbone.embedding.weight", self.table)]
        rules.append(rename("backbone.norm_f.weight", "model.final_norm.weight"))
        if not config.tie_embeddings:
            rules.append(rename("lm_head.weight", "lm_head.weight"))
        for layer, mixer in enumerate(config.mixers):
            assert isinstance(config.mlp, GatedMLPConfig)
            ours, theirs = f"backbone.layers.{layer}.", f"model.layers.{layer}."
            names = {"norm.weight": "temporal_pre_norm.weight", "norm2.weight": "channel_pre_norm.weight"}
            names |= mlp_names(config.mlp, "mlp_block.")
            rules += renames(ours, theirs, names)
            ours, theirs = f"{ours}mixer.", f"{theirs}temporal_block."
            if isinstance(mixer, AttentionConfig):
                rows = qkv_rows(mixer, config.d_model)
                rules += attention_rules(ours, theirs, _PROJECTIONS, rows, bias=mixer.qkv_bias)
                rules.append(rename(f"{ours}out_proj.bias", f"{theirs}o_proj.bias"))
            else:
                rules += renames(ours, theirs, _RECURRENT)
        return rules


def griffin(
    *,
    d_model: int,
    mixers: list[MixerConfig],
    vocab_size: int,
    width: int,
    norm_eps: float = 1e-6,
    tie_embeddings: bool = True,
    logit_softcap: float | None = 30.0,
) -> ModelConfig:
    """A model of RecurrentGemma's kind around its mixers.

    Args:
        width: inner width of the MLP.
    """
    main = next((mixer for mixer in mixers if isinstance(mixer, RGLRUConfig)), mixers[0])
    return ModelConfig(
        d_model=d_model,
        num_layers=len(mixers),
        vocab_size=vocab_size,
        mixer=main,
        other_mixers=tuple((layer, mixer) for layer, mixer in enumerate(mixers) if mixer != main),
        mlp=GatedMLPConfig(width=width, activation="gelu_tanh", bias=True),
        pad_vocab_size_multiple=1,
        tie_embeddings=tie_embeddings,
        norm="rms-plus-one",
        norm_eps=norm_eps,
        # The authors train in bfloat16, and round this factor to it.
        embedding_scale=float(torch.tensor(math.sqrt(d_model), dtype=torch.bfloat16)),
        logit_softcap=logit_softcap,
    )
