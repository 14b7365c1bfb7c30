"""RWKV-6 as flash-linear-attention stores it (`model_type` rwkv6, one of two layouts of that name).

The library orders the five mixes r, w, k, v, g where the authors' files have w, k, v, r, g, stacks their biases, stores
the matrices of the low-rank parts transposed, and gives everything other names. The numbers are the same, and so is the
function, but for one thing: its norm of the heads' outputs has the eps of all other norms (1e-5), where the authors'
has 64 times as much.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lengthwise.checkpoints.formats.base import Format, Published, Rule, rename, renames, reshaped, transposed
from lengthwise.checkpoints.formats.fla import MEANINGLESS, attention_layers, fla_attention_rules, written_attention
from lengthwise.models.config import AttentionConfig, ModelConfig, RWKV6ChannelMixConfig, RWKV6Config

_OURS, _THEIRS = "wkvrg", "rwkvg"
_FROM_THEIRS = [_THEIRS.index(part) for part in _OURS]
_FROM_OURS = [_OURS.index(part) for part in _THEIRS]
_HEAD_EPS = 1e-5  # times the square of head_size_divisor
_TIME_MIX = {
    "receptance.weight": "r_proj.linear.weight",
    "key.weight": "k_proj.linear.weight",
    "value.weight": "v_proj.linear.weight",
    "gate.weight": "g_proj.linear.weight",
    "output.weight": "o_proj.weight",
    "ln_x.weight": "g_norm.weight",
    "ln_x.bias": "g_norm.bias",
    "time_faaaa": "bonus",
}
_CHANNEL_MIX = {
    "key.weight": "key.linear.weight",
    "receptance.weight": "receptance.linear.weight",
    "value.weight": "value.weight",
}


class FlaRWKV6(Format):
    """flash-linear-attention's RWKV6, with attention at some layers where the config says so."""

    name = "fla/rwkv6"
    table = "model.embeddings.weight"
    meaningless = MEANINGLESS | {"fuse_norm"}

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        marks = {"norm_eps", "proj_low_rank_dim", "norm_first", "hidden_ratio", "num_heads"}
        return values.get("model_type") == "rwkv6" and bool(marks & set(values))

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("an fla RWKV6 config", self.meaningless)
        d_model, num_heads = fields.whole("hidden_size", 2048), fields.whole("num_heads", 4)
        for name, default in (("expand_k", 0.5), ("expand_v", 1.0)):
            fields.must_be(name, 1.0, default=default)
        fields.must_be("hidden_act", "sqrelu", default="sqrelu")
        fields.must_be("norm_bias", True, default=True)
        eps, ratio = fields.number("norm_eps", 1e-5), fields.number("hidden_ratio", 3.5)
        width = fields.whole("intermediate_size", None) or math.ceil(int(d_model * ratio) / 32) * 32
        divisor = round(math.sqrt(eps / _HEAD_EPS))
        if divisor < 1 or not math.isclose(_HEAD_EPS * divisor**2, eps):
            raise published.refuse("norm_eps: 1e-5 times a square", repr(eps), "give another checkpoint")
        config = ModelConfig(
            d_model=d_model,
            num_layers=fields.whole("num_hidden_layers", 24),
            vocab_size=fields.whole("vocab_size", 32000),
            mixer=RWKV6Config(
                head_size=d_model // num_heads,
                mix_rank=fields.whole("proj_low_rank_dim", 32),
                decay_rank=fields.whole("gate_low_rank_dim", 64),
                head_size_divisor=divisor,
            ),
            other_mixers=attention_layers(published, fields.take("attn", None)),
            mlp=RWKV6ChannelMixConfig(width=width),
            pad_vocab_size_multiple=1,
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            norm="layer",
            norm_eps=eps,
            embedding_norm=fields.flag("norm_first", True),
        )
        fields.finish()
        return config

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        mixer = next((mixer for mixer in config.mixers if isinstance(mixer, RWKV6Config)), None)
        if mixer is None or not isinstance(config.mlp, RWKV6ChannelMixConfig):
            return None
        if not all(isinstance(other, RWKV6Config | AttentionConfig) for other in config.mixers):
            return None
        return {
            "architectures": ["RWKV6ForCausalLM"],
            "model_type": "rwkv6",
            "hidden_size": config.d_model,
            "num_hidden_layers": config.num_layers,
            "vocab_size": config.padded_vocab_size,
            "num_heads": config.d_model // mixer.head_size,
            "expand_k": 1.0,
            "expand_v": 1.0,
            "proj_low_rank_dim": mixer.mix_rank,
            "gate_low_rank_dim": mixer.decay_rank,
            "intermediate_size": config.mlp.width,
            "hidden_act": "sqrelu",
            "norm_first": config.embedding_norm,
            "norm_bias": True,
            "norm_eps": config.norm_eps,
            "attn": written_attention(config.mixers),
            "tie_word_embeddings": config.tie_embeddings,
        }

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        rules = [rename("backbone.embedding.weight", self.table)]
        rules += _norm("backbone.norm_f", "model.norm")
        if config.embedding_norm:
            rules += _norm("backbone.embedding_norm", "model.layers.0.pre_norm")
        if not config.tie_embeddings:
            rules.append(rename("lm_head.weight", "lm_head.weight"))
        for layer, mixer in enumerate(config.mixers):
            ours, theirs = f"backbone.layers.{layer}", f"model.layers.{layer}"
            rules += _norm(f"{ours}.norm", f"{theirs}.attn_norm") + _norm(f"{ours}.norm2", f"{theirs}.ffn_norm")
            rules += renames(f"{ours}.mlp.", f"{theirs}.ffn.", _CHANNEL_MIX)
            rules += [_vector(f"{ours}.mlp.time_maa_k", f"{theirs}.ffn.key.mu")]
            rules += [_vector(f"{ours}.mlp.time_maa_r", f"{theirs}.ffn.receptance.mu")]
            if isinstance(mixer, AttentionConfig):
                rules += fla_attention_rules(f"{ours}.mixer.", f"{theirs}.attn.", mixer, config)
            else:
                rules += _time_mix(f"{ours}.mixer.", f"{theirs}.attn.")
        return rules


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [rename(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]


def _vector(ours: str, theirs: str) -> Rule:
    """[1, 1, D] of ours, [D] of theirs."""
    return reshaped(ours, theirs, lambda t: t.view(1, 1, -1), lambda t: t.reshape(-1))


def _time_mix(ours: str, theirs: str) -> list[Rule]:
    decay = f"{theirs}w_proj.linear.lora."
    biases = Rule(
        tuple(f"{ours}time_maa_{part}" for part in _THEIRS),
        (f"{theirs}x_bias",),
        load=lambda stored: [row.view(1, 1, -1) for row in stored[0]],
        save=lambda parts: [torch.stack([part.reshape(-1) for part in parts])],
    )
    return [
        *renames(ours, theirs, _TIME_MIX),
        _vector(f"{ours}time_maa_x", f"{theirs}x_proj.0.mu"),
        biases,
        reshaped(f"{ours}time_maa_w1", f"{theirs}x_proj.0.linear.weight", _load_w1, _save_w1),
        reshaped(f"{ours}time_maa_w2", f"{theirs}x_proj.2.weight", _load_w2, _save_w2),
        _vector(f"{ours}time_decay", f"{decay}2.bias"),
        transposed(f"{ours}time_decay_w1", f"{decay}0.weight"),
        transposed(f"{ours}time_decay_w2", f"{decay}2.weight"),
    ]


def _load_w1(stored: Tensor) -> Tensor:
    """[5 r, D], blocks r w k v g, to [D, 5 r], blocks w k v r g."""
    return stored.unflatten(0, (5, -1))[_FROM_THEIRS].flatten(0, 1).t().contiguous()


def _save_w1(ours: Tensor) -> Tensor:
    return ours.t().unflatten(0, (5, -1))[_FROM_OURS].flatten(0, 1).contiguous()


def _load_w2(stored: Tensor) -> Tensor:
    """[D, 5 r], blocks r w k v g, to [5, r, D], blocks w k v r g."""
    return stored.unflatten(1, (5, -1)).permute(1, 2, 0)[_FROM_THEIRS].contiguous()


def _save_w2(ours: Tensor) -> Tensor:
    return ours[_FROM_OURS].permute(2, 0, 1).flatten(1, 2).contiguous()
