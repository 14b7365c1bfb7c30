"""RecurrentGemma as its authors publish it for torch: a bare file of tensors without a config.

Sizes are read from the tensors. What these do not tell is as in both published models: a window of 2048, logits capped
at 30, embeddings multiplied by the root of the width.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from lengthwise.checkpoints.formats.base import Format, Published, Rule, attention_rules, rename, renames, reshaped
from lengthwise.checkpoints.formats.transformers_griffin import griffin
from lengthwise.checkpoints.formats.transformers_llama import qkv_rows
from lengthwise.models.config import AttentionConfig, MixerConfig, ModelConfig, RGLRUConfig

_PROJECTIONS = {"q": "proj_q", "k": "proj_k", "v": "proj_v", "o": "proj_final"}
_RECURRENT = {
    **{f"{part}.{kind}": f"{part}.{kind}" for part in ("linear_x", "linear_y", "linear_out")
       for kind in ("weight", "bias")},
    "conv_1d.bias": "conv_1d.b",
    "rg_lru.recurrent_param": "rg_lru.a_param",
    "rg_lru.input_gate_weight": "rg_lru.input_gate.w",
    "rg_lru.input_gate_bias": "rg_lru.input_gate.b",
    "rg_lru.recurrent_gate_weight": "rg_lru.a_gate.w",
    "rg_lru.recurrent_gate_bias": "rg_lru.a_gate.b",
}  # fmt: skip
_NORMS = {"norm.weight": "temporal_pre_norm.scale", "norm2.weight": "channel_pre_norm.scale"}
_WINDOW = 2048


class DeepMindGriffin(Format):
    """The authors' own file of RecurrentGemma."""

    name = "recurrentgemma"
    table = "embedder.input_embedding"

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("format") == self.name or (not values and self.table in keys)

    def read(self, published: Published) -> ModelConfig:
        shapes = published.shapes
        if shapes is None:
            raise published.refuse("the tensors, which alone tell the sizes", "a config only", "give the file itself")
        vocab_size, d_model = shapes[self.table]
        blocks = {int(match[1]) for match in map(re.compile(r"blocks\.(\d+)\.").match, shapes) if match}
        mixers: list[MixerConfig] = []
        for layer in range(max(blocks, default=-1) + 1):
            gate = shapes.get(f"blocks.{layer}.recurrent_block.rg_lru.a_gate.w")
            conv = shapes.get(f"blocks.{layer}.recurrent_block.conv_1d.w")
            key = shapes.get(f"blocks.{layer}.attention_block.proj_k.weight")
            if gate is not None and conv is not None:
                mixers.append(RGLRUConfig(lru_width=gate[0] * gate[1], num_heads=gate[0], d_conv=conv[0]))
            elif key is not None:
                mixers.append(_attention(d_model, key[0]))
        up = shapes.get("blocks.0.mlp_block.ffw_up.w")
        if up is None or len(mixers) != len(blocks) or not mixers:
            raise published.refuse(
                "blocks with a recurrence or attention, and an MLP",
                f"{len(blocks)} blocks, of which {len(mixers)} have one",
                "copy the file again",
            )
        return griffin(d_model=d_model, mixers=mixers, vocab_size=vocab_size, width=up[2])

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        known = all(isinstance(mixer, RGLRUConfig | AttentionConfig) for mixer in config.mixers)
        return {"format": self.name} if known and config.norm == "rms-plus-one" else None

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        rules = [rename("backbone.embedding.weight", self.table)]
        rules.append(rename("backbone.norm_f.weight", "final_norm.scale"))
        for layer, mixer in enumerate(config.mixers):
            ours, theirs = f"backbone.layers.{layer}.", f"blocks.{layer}."
            rules += renames(ours, theirs, _NORMS) + _mlp(f"{ours}mlp.", f"{theirs}mlp_block.")
            if isinstance(mixer, AttentionConfig):
                ours, theirs = f"{ours}mixer.", f"{theirs}attention_block."
                rules += attention_rules(ours, theirs, _PROJECTIONS, qkv_rows(mixer, config.d_model), bias=False)
                rules.append(rename(f"{ours}out_proj.bias", f"{theirs}proj_final.bias"))
            else:
                ours, theirs = f"{ours}mixer.", f"{theirs}recurrent_block."
                rules += renames(ours, theirs, _RECURRENT)
                rules.append(
                    reshaped(
                        f"{ours}conv_1d.weight",
                        f"{theirs}conv_1d.w",
                        lambda t: t.t().unsqueeze(1).contiguous(),
                        lambda t: t.squeeze(1).t().contiguous(),
                    )
                )
        return rules


def _attention(d_model: int, head_dim: int) -> AttentionConfig:
    return AttentionConfig(
        num_heads=d_model // head_dim,
        num_kv_heads=1,
        rotary_dim=head_dim // 2,
        window=_WINDOW,
        window_reaches=True,
        out_bias=True,
    )


def _mlp(ours: str, theirs: str) -> list[Rule]:
    """Gate and up projections are one tensor [2, D, width] with the gate first, and one of biases."""
    weights = Rule(
        (f"{ours}gate_proj.weight", f"{ours}up_proj.weight"),
        (f"{theirs}ffw_up.w",),
        load=lambda stored: [part.t().contiguous() for part in stored[0]],
        save=lambda parts: [torch.stack([part.t() for part in parts])],
    )
    biases = Rule(
        (f"{ours}gate_proj.bias", f"{ours}up_proj.bias"),
        (f"{theirs}ffw_up.b",),
        load=lambda stored: [part.reshape(-1) for part in stored[0]],
        save=lambda parts: [torch.stack([part.view(1, 1, -1) for part in parts])],
    )
    down = {f"down_proj.{kind}": f"ffw_down.{kind}" for kind in ("weight", "bias")}
    return [weights, biases, *renames(ours, theirs, down)]
