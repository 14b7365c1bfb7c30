"""Mamba-1 and Mamba-2 as transformers and flash-linear-attention store them: `model_type` mamba or mamba2.

Names are those of the state-spaces releases but for the embedding. A trap: the defaults of transformers' Mamba2Config
are the sizes of one 7b model (width 4096, 128 heads, 8 groups); a field that a file leaves out means those. The two
libraries call the same things by different names, and both say `mamba2`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from lengthwise.checkpoints.formats.base import COMMON, Fields, Format, Published, Rule, rename
from lengthwise.checkpoints.formats.state_spaces import StateSpaces
from lengthwise.models.config import Mamba1Config, Mamba2Config, ModelConfig

# The chunk size among them: files say 256, which changes speed only, and on CPU our own default is faster.
_NAMES = """
    chunk_size pad_vocab_size_multiple rescale_prenorm_residual time_step_init_scheme use_associative_scan
    use_mambapy fused_add_norm ssm_cfg conv_init fuse_cross_entropy fuse_linear_cross_entropy fuse_norm use_l2warp
"""
_SPEED_AND_START = frozenset(_NAMES.split())
_FLA_ONLY = ("norm_eps", "dt_limit", "rmsnorm", "fuse_norm")


class _Mamba(Format):
    """What the three layouts share."""

    table = "backbone.embeddings.weight"
    meaningless = COMMON | _SPEED_AND_START

    def rules(self, config: ModelConfig, values: Mapping[str, Any]) -> list[Rule]:
        kept = [rule for rule in StateSpaces().rules(config, values) if rule.theirs != (StateSpaces.table,)]
        return [rename(StateSpaces.table, self.table), *kept]


def _plain(config: ModelConfig, kind: type[Mamba1Config] | type[Mamba2Config]) -> bool:
    return config.mlp is None and all(isinstance(mixer, kind) for mixer in config.mixers)


def _sizes(fields: Fields, eps: str, *, tied: bool, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Fields of the model around the mixers; `sizes`: defaults of width, layers and vocabulary."""
    values = {
        "d_model": fields.whole("hidden_size", sizes["hidden_size"]),
        "num_layers": fields.whole("num_hidden_layers", sizes["num_hidden_layers"]),
        "vocab_size": fields.whole("vocab_size", sizes["vocab_size"]),
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": fields.flag("tie_word_embeddings", tied),
        "norm_eps": fields.number(eps, 1e-5),
        "residual_in_fp32": fields.flag("residual_in_fp32", True),
    }
    fields.must_be("hidden_act", "silu", "swish", default="silu")
    # Converted releases repeat their sizes under the names of the first schema.
    fields.must_equal("d_model", values["d_model"], "hidden_size")
    fields.must_equal("n_layer", values["num_layers"], "num_hidden_layers")
    fields.must_be("rms_norm", True, default=True)
    return values


def _shared(fields: Fields) -> dict[str, Any]:
    return {
        "d_conv": fields.whole("conv_kernel", 4),
        "expand": fields.whole("expand", 2),
        "bias": fields.flag("use_bias", False),
        "conv_bias": fields.flag("use_conv_bias", True),
    }


def _written(config: ModelConfig, mixer: Mamba1Config | Mamba2Config, eps: str) -> dict[str, Any]:
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "vocab_size": config.padded_vocab_size,
        "state_size": mixer.d_state,
        "expand": mixer.expand,
        "conv_kernel": mixer.d_conv,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
        "hidden_act": "silu",
        eps: config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
    }


def _written_heads(config: ModelConfig, mixer: Mamba2Config, eps: str) -> dict[str, Any]:
    """What both libraries write of a Mamba-2 alike."""
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        **_written(config, mixer, eps),
        "num_heads": mixer.num_heads(config.d_model),
        "head_dim": mixer.headdim,
        "n_groups": mixer.ngroups,
        "chunk_size": mixer.chunk_size,
    }


class TransformersMamba(_Mamba):
    """transformers' Mamba."""

    name = "transformers/mamba"

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("model_type") == "mamba" and not any(name in values for name in _FLA_ONLY)

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("a transformers Mamba config", self.meaningless)
        sizes = {"hidden_size": 768, "num_hidden_layers": 32, "vocab_size": 50280}
        model = _sizes(fields, "layer_norm_epsilon", tied=True, sizes=sizes)
        rank = fields.take("time_step_rank", "auto")
        mixer = Mamba1Config(
            d_state=fields.whole("state_size", 16),
            dt_rank=math.ceil(model["d_model"] / 16) if rank == "auto" else rank,
            dt_min=fields.number("time_step_min", 1e-3),
            dt_max=fields.number("time_step_max", 0.1),
            dt_init_floor=fields.number("time_step_floor", 1e-4),
            dt_scale=fields.number("time_step_scale", 1.0),
            **_shared(fields),
        )
        for name in ("intermediate_size", "d_inner"):
            fields.must_equal(name, mixer.expand * model["d_model"], "expand times hidden_size")
        fields.finish()
        return ModelConfig(mixer=mixer, **model)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        if not _plain(config, Mamba1Config):
            return None
        mixer = config.mixers[0]
        assert isinstance(mixer, Mamba1Config)
        return {
            "architectures": ["MambaForCausalLM"],
            "model_type": "mamba",
            **_written(config, mixer, "layer_norm_epsilon"),
            "intermediate_size": mixer.expand * config.d_model,
            "time_step_rank": mixer.rank(config.d_model),
            "time_step_min": mixer.dt_min,
            "time_step_max": mixer.dt_max,
            "time_step_floor": mixer.dt_init_floor,
            "time_step_scale": mixer.dt_scale,
        }


class TransformersMamba2(_Mamba):
    """transformers' Mamba2."""

    name = "transformers/mamba2"
    # norm_before_gate is written by old versions and read by none: the gate always comes first.
    meaningless = _Mamba.meaningless | {"time_step_rank", "time_step_scale", "norm_before_gate"}

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("model_type") == "mamba2" and not any(name in values for name in _FLA_ONLY)

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("a transformers Mamba2 config", self.meaningless)
        sizes = {"hidden_size": 4096, "num_hidden_layers": 64, "vocab_size": 32768}
        model = _sizes(fields, "layer_norm_epsilon", tied=False, sizes=sizes)
        mixer = Mamba2Config(
            d_state=fields.whole("state_size", 128),
            headdim=fields.whole("head_dim", 64),
            ngroups=fields.whole("n_groups", 8),
            dt_min=fields.number("time_step_min", 1e-3),
            dt_max=fields.number("time_step_max", 0.1),
            dt_init_floor=fields.number("time_step_floor", 1e-4),
            dt_limit=limits(fields.take("time_step_limit", (0.0, math.inf)), "time_step_limit", published),
            **_shared(fields),
        )
        inner = mixer.expand * model["d_model"]
        if fields.whole("num_heads", 128) * mixer.headdim != inner:
            raise published.refuse(
                f"num_heads times head_dim to be expand times hidden_size, {inner}",
                f"{fields.whole('num_heads', 128)} times {mixer.headdim} (absent fields count as 128 and 64)",
                "restore the file",
            )
        fields.must_equal("intermediate_size", inner, "expand times hidden_size")
        fields.finish()
        return ModelConfig(mixer=mixer, **model)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        if not _plain(config, Mamba2Config):
            return None
        mixer = config.mixers[0]
        assert isinstance(mixer, Mamba2Config)
        limit = {} if mixer.dt_limit == (0.0, math.inf) else {"time_step_limit": written_limits(mixer.dt_limit)}
        return {
            **_written_heads(config, mixer, "layer_norm_epsilon"),
            "time_step_min": mixer.dt_min,
            "time_step_max": mixer.dt_max,
            "time_step_floor": mixer.dt_init_floor,
            **limit,
        }


class FlaMamba2(_Mamba):
    """flash-linear-attention's Mamba2."""

    name = "fla/mamba2"

    def matches(self, values: Mapping[str, Any], keys: Collection[str]) -> bool:
        return values.get("model_type") == "mamba2" and any(name in values for name in _FLA_ONLY)

    def read(self, published: Published) -> ModelConfig:
        fields = published.fields("an fla Mamba2 config", self.meaningless)
        sizes = {"hidden_size": 2048, "num_hidden_layers": 48, "vocab_size": 32000}
        model = _sizes(fields, "norm_eps", tied=False, sizes=sizes)
        for name, only in (("D_has_hdim", False), ("rmsnorm", True), ("norm_before_gate", False)):
            fields.must_be(name, only, default=only)
        low, high = fields.take("A_init_range", (1.0, 16.0))
        mixer = Mamba2Config(
            d_state=fields.whole("state_size", 128),
            headdim=fields.whole("head_dim", 64),
            ngroups=fields.whole("n_groups", 1),
            A_init_range=(float(low), float(high)),
            dt_min=fields.number("dt_min", 1e-3),
            dt_max=fields.number("dt_max", 0.1),
            dt_init_floor=fields.number("dt_init_floor", 1e-4),
            dt_limit=limits(fields.take("dt_limit", (0.0, math.inf)), "dt_limit", published),
            **_shared(fields),
        )
        heads = mixer.num_heads(model["d_model"])
        fields.must_equal("num_heads", heads, "expand times hidden_size, divided by head_dim")
        fields.finish()
        return ModelConfig(mixer=mixer, **model)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        if not _plain(config, Mamba2Config):
            return None
        mixer = config.mixers[0]
        assert isinstance(mixer, Mamba2Config)
        limit = {} if mixer.dt_limit == (0.0, math.inf) else {"dt_limit": written_limits(mixer.dt_limit)}
        return {
            **_written_heads(config, mixer, "norm_eps"),
            "A_init_range": list(mixer.A_init_range),
            "dt_min": mixer.dt_min,
            "dt_max": mixer.dt_max,
            "dt_init_floor": mixer.dt_init_floor,
            "rmsnorm": True,
            "norm_before_gate": False,
            **limit,
        }


def limits(value: Any, name: str, published: Published) -> tuple[float, float]:
    """A range whose end may be infinite, in any of the ways that JSON files spell it."""
    try:
        low, high = ({"__float__": None, **end}["__float__"] if isinstance(end, dict) else end for end in value)
        return float(low), math.inf if high is None else float(high)
    except (TypeError, ValueError) as error:
        raise published.refuse(f"{name}: a pair of numbers", repr(value), "restore the file") from error


def written_limits(pair: tuple[float, float]) -> list[Any]:
    """The same as transformers writes it."""
    return [pair[0], {"__float__": "Infinity"} if math.isinf(pair[1]) else pair[1]]
