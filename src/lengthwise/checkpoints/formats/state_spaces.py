"""The state-spaces releases: one `config.json` schema for Mamba-1, Mamba-2, hybrids with attention and Transformer++.

Names of tensors are ours but for the MLP, whose first matrix holds what is gated above the gate. The schema has no
field for eps, which is 1e-5 everywhere. `ssm_cfg.layer` is absent for Mamba-1. Attention layers, if any, all have the
options of `attn_cfg`, whose defaults are those of the class that reads it: biases, no rotation, not causal.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from lengthwise.checkpoints.formats.base import Fields, Format, Published, Rule, halves, rename
from lengthwise.models.config import (
    AttentionConfig,
    GatedMLPConfig,
    Mamba1Config,
    Mamba2Config,
    MixerConfig,
    ModelConfig,
)

_WIDTH_MULTIPLE = 128  # the reference rounds the inner width of its MLP up to this
_MULTIPLES = (8, 16, 1, 32, 64, 128)  # tried where the config does not say to what the vocabulary is padded
_EPS = 1e-5


class StateSpaces(Format):
    """Mamba-1, Mamba-2, both with attention layers, Transformer++."""

    name = "state-spaces"
    table = "backbone.embedding.weight"

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return "model_type" not in values and {"d_model", "n_layer", "vocab_size"} <= set(values)

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("a state-spaces config", {"fused_add_norm"})
        d_model, num_layers = fields.whole("d_model"), fields.whole("n_layer")
        mixer = _ssm(published, fields.take("ssm_cfg", {}))
        attention_layers, attn_cfg = fields.take("attn_layer_idx", []), fields.take("attn_cfg", {})
        if not isinstance(attention_layers, list) or not all(type(layer) is int for layer in attention_layers):
            raise published.refuse("attn_layer_idx: a list of layers", repr(attention_layers), "restore the file")
        others: tuple[tuple[int, MixerConfig], ...] = ()
        if attention_layers:
            attention = _attention(published, attn_cfg, attention_layers[0], d_model)
            if sorted(attention_layers) == list(range(num_layers)):
                mixer = attention
            else:
                others = tuple((layer, attention) for layer in attention_layers)
        vocab_size = fields.whole("vocab_size")
        config = ModelConfig(
            d_model=d_model,
            num_layers=num_layers,
            vocab_size=vocab_size,
            mixer=mixer,
            other_mixers=others,
            mlp=_mlp(published, fields.whole("d_intermediate", 0)),
            pad_vocab_size_multiple=_multiple(published, fields.whole("pad_vocab_size_multiple", None), vocab_size),
            tie_embeddings=fields.flag("tie_embeddings", True),
            norm="rms" if fields.flag("rms_norm", True) else "layer",
            norm_eps=_EPS,
            residual_in_fp32=fields.flag("residual_in_fp32", True),
        )
        fields.finish()
        return config

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        kinds = {mixer.kind for mixer in config.mixers}
        attention = {mixer for mixer in config.mixers if isinstance(mixer, AttentionConfig)}
        scans = {mixer for mixer in config.mixers if isinstance(mixer, Mamba1Config | Mamba2Config)}
        if not kinds <= {"mamba1", "mamba2", "attention"} or len(attention) > 1 or len(scans) > 1:
            return None
        if config.mlp is not None and not isinstance(config.mlp, GatedMLPConfig):
            return None
        return {
            "d_model": config.d_model,
            "d_intermediate": 0 if config.mlp is None else config.mlp.width,
            "n_layer": config.num_layers,
            "vocab_size": config.vocab_size,
            "ssm_cfg": _written_ssm(next(iter(scans))) if scans else {},
            "attn_layer_idx": [i for i, mixer in enumerate(config.mixers) if mixer.kind == "attention"],
            "attn_cfg": _written_attention(next(iter(attention)), config.d_model) if attention else {},
            "rms_norm": config.norm == "rms",
            "residual_in_fp32": config.residual_in_fp32,
            "fused_add_norm": True,
            "pad_vocab_size_multiple": config.pad_vocab_size_multiple,
            "tie_embeddings": config.tie_embeddings,
        }

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        norms = ("weight", "bias") if config.norm == "layer" else ("weight",)
        names = ["backbone.embedding.weight", *(f"backbone.norm_f.{kind}" for kind in norms)]
        if not config.tie_embeddings:
            names.append("lm_head.weight")
        rules: list[Rule] = []
        for layer, mixer in enumerate(config.mixers):
            block = f"backbone.layers.{layer}"
            names += [f"{block}.norm.{kind}" for kind in norms]
            names += [f"{block}.mixer.{name}" for name in _mixer_names(mixer)]
            if config.mlp is not None:
                names += [f"{block}.norm2.{kind}" for kind in norms]
                mlp = f"{block}.mlp"
                rules.append(halves([f"{mlp}.up_proj.weight", f"{mlp}.gate_proj.weight"], f"{mlp}.fc1.weight"))
                rules.append(rename(f"{mlp}.down_proj.weight", f"{mlp}.fc2.weight"))
        return [rename(name, name) for name in names] + rules


def _mixer_names(mixer: MixerConfig) -> list[str]:
    """Parameters of a mixer, which the releases call as we do."""
    if isinstance(mixer, AttentionConfig):
        names = ["in_proj.weight", "out_proj.weight"]
        names += ["in_proj.bias"] if mixer.qkv_bias else []
        names += ["out_proj.bias"] if mixer.out_bias else []
        names += ["conv1d.weight"] if mixer.d_conv else []
        return names + (["conv1d.bias"] if mixer.d_conv and mixer.conv_bias else [])
    assert isinstance(mixer, Mamba1Config | Mamba2Config)
    names = ["in_proj.weight", "conv1d.weight", "A_log", "D", "out_proj.weight"]
    if isinstance(mixer, Mamba1Config):
        names += ["x_proj.weight", "dt_proj.weight", "dt_proj.bias"]
    else:
        names += ["dt_bias", "norm.weight"]
    names += ["in_proj.bias", "out_proj.bias"] if mixer.bias else []
    return names + (["conv1d.bias"] if mixer.conv_bias else [])


def _ssm(published: Published, values: Any) -> MixerConfig:
    if not isinstance(values, dict):
        raise published.refuse("ssm_cfg: an object", repr(values), "restore the file")
    nested = Published(values, published.shapes, published.where)
    layer = values.get("layer", "Mamba1")
    if layer not in ("Mamba1", "Mamba2"):
        raise published.refuse(
            "ssm_cfg.layer 'Mamba1' (also where it is absent) or 'Mamba2'", repr(layer), "give such a checkpoint"
        )
    if layer == "Mamba1":
        fields = nested.fields("ssm_cfg of Mamba-1", {"layer", "use_fast_path", "dt_init"})
        rank = fields.take("dt_rank", "auto")
        one = Mamba1Config(
            d_state=fields.whole("d_state", 16),
            dt_rank=None if rank == "auto" else rank,
            dt_scale=fields.number("dt_scale", 1.0),
            **_common(fields),
        )
        fields.finish()
        return one
    speed = {"use_mem_eff_path", "sequence_parallel", "conv_init"}
    fields = nested.fields("ssm_cfg of Mamba-2", {"layer", *speed})
    for name, only in (("D_has_hdim", False), ("rmsnorm", True), ("norm_before_gate", False)):
        fields.must_be(name, only, default=only)
    for name in ("process_group", "d_ssm"):
        fields.must_be(name, None, default=None)
    two = Mamba2Config(
        d_state=fields.whole("d_state", 128),
        headdim=fields.whole("headdim", 64),
        ngroups=fields.whole("ngroups", 1),
        A_init_range=_pair(fields.take("A_init_range", (1.0, 16.0)), published),
        dt_limit=_pair(fields.take("dt_limit", (0.0, math.inf)), published),
        # The releases read 256 where the field is absent. It changes speed only, and 64 is faster on CPU.
        chunk_size=fields.whole("chunk_size", 64),
        **_common(fields),
    )
    fields.finish()
    return two


def _common(fields: Fields) -> dict[str, Any]:
    return {
        "d_conv": fields.whole("d_conv", 4),
        "expand": fields.whole("expand", 2),
        "dt_min": fields.number("dt_min", 1e-3),
        "dt_max": fields.number("dt_max", 0.1),
        "dt_init_floor": fields.number("dt_init_floor", 1e-4),
        "bias": fields.flag("bias", False),
        "conv_bias": fields.flag("conv_bias", True),
    }


def _pair(value: Any, published: Published) -> tuple[float, float]:
    try:
        low, high = value
        return float(low), math.inf if high is None else float(high)
    except (TypeError, ValueError) as error:
        raise published.refuse(
            "a pair of numbers, the second one null for no limit", repr(value), "restore it"
        ) from error


def _attention(published: Published, values: Any, layer: int, d_model: int) -> AttentionConfig:
    if not isinstance(values, dict):
        raise published.refuse("attn_cfg: an object", repr(values), "restore the file")
    fields = Published(values, published.shapes, published.where).fields("attn_cfg")
    mixer = f"backbone.layers.{layer}.mixer"
    fields.must_be("causal", True)
    fields.must_be("mlp_dim", 0, default=0)
    fields.must_be("softmax_scale", None, default=None)
    fields.must_be("rotary_emb_interleaved", False, default=False)
    num_heads = fields.whole("num_heads")
    num_kv_heads = fields.whole("num_heads_kv", None)
    conv = published.shape(f"{mixer}.conv1d.weight")
    head_dim = fields.whole("head_dim", None)
    if head_dim is None:
        # Doubtful in the released configs, certain in the tensors.
        rows, total = published.shape(f"{mixer}.in_proj.weight"), num_heads + 2 * (num_kv_heads or num_heads)
        head_dim = d_model // num_heads if rows is None else rows[0] // total
    attention = AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=None if num_kv_heads == num_heads else num_kv_heads,
        head_dim=head_dim,
        rotary_dim=fields.whole("rotary_emb_dim", 0),
        rotary_base=fields.number("rotary_emb_base", 10_000.0),
        d_conv=fields.whole("d_conv", 0 if conv is None else conv[2]),
        qkv_bias=fields.flag("qkv_proj_bias", True),
        out_bias=fields.flag("out_proj_bias", True),
    )
    fields.finish()
    return attention


def _mlp(published: Published, d_intermediate: int) -> GatedMLPConfig | None:
    fc1 = published.shape("backbone.layers.0.mlp.fc1.weight")
    if not d_intermediate:
        return None
    width = math.ceil(d_intermediate / _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
    if fc1 is not None and fc1[0] != 2 * width:
        raise published.refuse(
            f"d_intermediate {d_intermediate}, rounded up to {width}, twice in the rows of mlp.fc1.weight",
            f"{fc1[0]} rows",
            "check that config.json belongs to these weights",
        )
    return GatedMLPConfig(width=width)


def _multiple(published: Published, given: int | None, vocab_size: int) -> int:
    """To what the vocabulary is padded; where the config does not say, what the table fits, 8 before others."""
    table = published.shape("backbone.embedding.weight")
    if given is not None or table is None:
        return 8 if given is None else given
    fitting = [multiple for multiple in _MULTIPLES if math.ceil(vocab_size / multiple) * multiple == table[0]]
    return fitting[0] if fitting else 8


def _written_ssm(mixer: Mamba1Config | Mamba2Config) -> dict[str, Any]:
    values = mixer.to_dict()
    layer = "Mamba1" if values.pop("kind") == "mamba1" else "Mamba2"
    values.pop("A_init_scale", None)  # ours alone
    if values.get("dt_rank", 0) is None:
        values["dt_rank"] = "auto"
    if values.get("dt_limit") == [0.0, None]:
        del values["dt_limit"]  # the default, and null means nothing to the reference
    return {"layer": layer, **values}


def _written_attention(mixer: AttentionConfig, d_model: int) -> dict[str, Any]:
    return {
        "causal": True,
        "d_conv": mixer.d_conv,
        "head_dim": mixer.width(d_model),
        "num_heads": mixer.num_heads,
        "num_heads_kv": mixer.kv_heads(),
        "out_proj_bias": mixer.out_bias,
        "qkv_proj_bias": mixer.qkv_bias,
        "rotary_emb_dim": mixer.rotated(d_model),
        "rotary_emb_base": mixer.rotary_base,
    }
