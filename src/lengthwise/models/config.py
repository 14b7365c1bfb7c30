"""Configurations of models: frozen records that validate themselves and travel as plain dictionaries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lengthwise.errors import InputError, check_settings
from lengthwise.layers.configs import (
    AttentionConfig,
    GatedMLPConfig,
    GLAConfig,
    Mamba1Config,
    Mamba2Config,
    MixerConfig,
    MLPConfig,
    RGLRUConfig,
    RWKV6ChannelMixConfig,
    RWKV6Config,
    in_range,
    mixer_from_dict,
    mlp_from_dict,
    positive,
)
from lengthwise.settings import check_types

__all__ = [
    "AttentionConfig",
    "GLAConfig",
    "GatedMLPConfig",
    "MLPConfig",
    "Mamba1Config",
    "Mamba2Config",
    "MixerConfig",
    "ModelConfig",
    "RGLRUConfig",
    "RWKV6ChannelMixConfig",
    "RWKV6Config",
]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A language model: embedding, blocks of norm, mixer and (if any) norm and MLP, final norm, output head.

    A hybrid is a model with `other_mixers`: any mixer may stand at any layer.
    """

    d_model: int
    """Model width D."""
    num_layers: int
    """Number of blocks L."""
    vocab_size: int
    """Tokens of the tokenizer. The tables may have more rows, see `pad_vocab_size_multiple`."""
    mixer: MixerConfig = field(default_factory=Mamba2Config)
    """The mixer of every block that `other_mixers` does not name."""
    other_mixers: tuple[tuple[int, MixerConfig], ...] = ()
    """(layer, mixer) of the blocks that have another one, layers counted from 0."""
    mlp: MLPConfig | None = None
    """What follows the mixer in every block; None for nothing."""
    pad_vocab_size_multiple: int = 16
    """Rows of the tables are `vocab_size` rounded up to a multiple of this; padded logits are masked."""
    tie_embeddings: bool = True
    """Whether the output head is the embedding table."""
    norm: Literal["rms", "rms-plus-one", "layer"] = "rms"
    """RMSNorm; RMSNorm whose stored weight is added to one (Griffin); LayerNorm with bias (RWKV)."""
    norm_eps: float = 1e-5
    """eps of all norms of the residual stream, and of Mamba-2's gated norm."""
    embedding_norm: bool = False
    """Whether a norm follows the embedding (RWKV)."""
    embedding_scale: float | None = None
    """Factor on the embeddings (Griffin: the square root of D, rounded to bfloat16); None for 1."""
    logit_softcap: float | None = None
    """Logits become ``cap * tanh(logits / cap)`` (Griffin: 30); None for no cap."""
    residual_in_fp32: bool = True
    """Whether the residual stream stays in float32 when weights or activations are narrower."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("d_model", "num_layers", "vocab_size", "pad_vocab_size_multiple"):
            positive(name, getattr(self, name), "ModelConfig")
        object.__setattr__(self, "other_mixers", tuple(sorted(self.other_mixers, key=lambda pair: pair[0])))
        layers = [layer for layer, _ in self.other_mixers]
        if len(set(layers)) != len(layers) or any(not 0 <= layer < self.num_layers for layer in layers):
            raise InputError(
                expected=f"each layer at most once, from 0 to {self.num_layers - 1}",
                got=str(layers),
                where="ModelConfig.other_mixers",
                fix="count layers from 0, and name each one once",
            )
        in_range("norm_eps", self.norm_eps, "ModelConfig", at_least=0.0)
        in_range("embedding_scale", self.embedding_scale, "ModelConfig")
        in_range("logit_softcap", self.logit_softcap, "ModelConfig", above=0.0)
        for mixer in self.mixers:
            mixer.validate(self.d_model)
        if self.mlp is not None:
            self.mlp.validate(self.d_model)

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """The mixer of each layer."""
        others = dict(self.other_mixers)
        return tuple(others.get(layer, self.mixer) for layer in range(self.num_layers))

    @property
    def is_recurrent(self) -> bool:
        """Whether any layer carries a recurrent state; False for a Transformer."""
        return any(not isinstance(mixer, AttentionConfig) for mixer in self.mixers)

    def attention_floats(self) -> tuple[int, int]:
        """Numbers of keys and values of one row: in all sliding windows when they are full; of one token elsewhere."""
        windows = each_token = 0
        for mixer in self.mixers:
            if isinstance(mixer, AttentionConfig):
                reach, floats = mixer.reach(), mixer.token_floats(self.d_model)
                if reach is None:
                    each_token += floats
                else:
                    windows += (reach - 1) * floats
        return windows, each_token

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table."""
        return math.ceil(self.vocab_size / self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @property
    def num_residuals(self) -> int:
        """Branches that are added to the residual stream: L, or 2 L with MLPs."""
        return self.num_layers * (1 if self.mlp is None else 2)

    def to_dict(self) -> dict[str, Any]:
        """As plain values (infinity becomes None), for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **values,
            "mixer": self.mixer.to_dict(),
            "other_mixers": [[layer, mixer.to_dict()] for layer, mixer in self.other_mixers],
            "mlp": None if self.mlp is None else self.mlp.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The reverse of `to_dict`. Raises InputError for a key that is unknown or missing, and for a wrong value."""
        values = dict(values)
        check_settings(values, cls, expected="fields of ModelConfig")
        if isinstance(values.get("mixer"), Mapping):
            values["mixer"] = mixer_from_dict(values["mixer"])
        if isinstance(others := values.get("other_mixers"), list | tuple):
            values["other_mixers"] = tuple(map(_other_mixer, others))
        if isinstance(values.get("mlp"), Mapping):
            values["mlp"] = mlp_from_dict(values["mlp"])
        return cls(**values)


def _other_mixer(pair: Any) -> Any:
    """A pair of layer and mixer, its record made of plain values; anything else as it is, for the record to refuse."""
    if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], Mapping):
        return pair[0], mixer_from_dict(pair[1])
    return pair
