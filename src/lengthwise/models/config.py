"""Configurations of models: frozen records that validate themselves and travel as plain dictionaries."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from lengthwise.errors import InputError, check_keys


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """The Mamba-2 mixer. Names and defaults follow the state-spaces code, save where noted."""

    d_state: int = 128
    """State size N of each head."""
    d_conv: int = 4
    """Width W of the short convolution."""
    expand: int = 2
    """Inner width as a multiple of the model width."""
    headdim: int = 64
    """Head width P."""
    ngroups: int = 1
    """Groups G of heads that share B and C, and groups of the gated norm."""
    A_init_range: tuple[float, float] = (1.0, 16.0)
    """Initial decay rates are uniform in this range."""
    dt_min: float = 1e-3
    """Smallest initial step size (log-uniform)."""
    dt_max: float = 0.1
    """Largest initial step size."""
    dt_init_floor: float = 1e-4
    """No initial step size is below this."""
    dt_limit: tuple[float, float] = (0.0, math.inf)
    """Step sizes are clamped to this range after softplus."""
    chunk_size: int = 64
    """Tokens a chunk of the SSD computation: speed only. The state-spaces default is 256; 64 is faster on CPU."""
    bias: bool = False
    """Whether the two projections have a bias."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""

    def __post_init__(self) -> None:
        for name in ("d_state", "d_conv", "expand", "headdim", "ngroups", "chunk_size"):
            _positive(name, getattr(self, name), "Mamba2Config")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A language model: embedding, `num_layers` blocks of norm and mixer, final norm, output head."""

    d_model: int
    """Model width D."""
    num_layers: int
    """Number of blocks L."""
    vocab_size: int
    """Tokens of the tokenizer. The tables may have more rows, see `pad_vocab_size_multiple`."""
    mixer: Mamba2Config = field(default_factory=Mamba2Config)
    """The mixer of every block."""
    pad_vocab_size_multiple: int = 16
    """Rows of the tables are `vocab_size` rounded up to a multiple of this; padded logits are masked."""
    tie_embeddings: bool = True
    """Whether the output head is the embedding table."""
    norm_eps: float = 1e-5
    """eps of all norms."""
    residual_in_fp32: bool = True
    """Whether the residual stream stays in float32 when weights or activations are narrower."""

    def __post_init__(self) -> None:
        for name in ("d_model", "num_layers", "vocab_size", "pad_vocab_size_multiple"):
            _positive(name, getattr(self, name), "ModelConfig")
        inner = self.d_model * self.mixer.expand
        if inner % self.mixer.headdim or (inner // self.mixer.headdim) % self.mixer.ngroups:
            raise InputError(
                expected="headdim to divide expand * d_model, and ngroups to divide the number of heads",
                got=f"expand * d_model = {inner}, headdim {self.mixer.headdim}, ngroups {self.mixer.ngroups}",
                where="ModelConfig",
                fix="change d_model, headdim or ngroups",
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table."""
        return math.ceil(self.vocab_size / self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @property
    def d_inner(self) -> int:
        """Width of the mixer's values, H * P."""
        return self.d_model * self.mixer.expand

    @property
    def num_heads(self) -> int:
        """Heads H of a mixer."""
        return self.d_inner // self.mixer.headdim

    def to_dict(self) -> dict[str, Any]:
        """As plain values (infinity becomes None), for JSON."""
        values = dataclasses.asdict(self)
        low, high = values["mixer"]["dt_limit"]
        values["mixer"]["dt_limit"] = [low, None if math.isinf(high) else high]
        values["mixer"]["A_init_range"] = list(values["mixer"]["A_init_range"])
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The reverse of `to_dict`. Unknown keys are errors."""
        values = dict(values)
        mixer = dict(values.pop("mixer", {}))
        if "dt_limit" in mixer:
            low, high = mixer["dt_limit"]
            mixer["dt_limit"] = (float(low), math.inf if high is None else float(high))
        if "A_init_range" in mixer:
            low, high = mixer["A_init_range"]
            mixer["A_init_range"] = (float(low), float(high))
        reject_unknown(mixer, Mamba2Config)
        reject_unknown(values, cls)
        return cls(mixer=Mamba2Config(**mixer), **values)


def reject_unknown(values: dict[str, Any], config: type) -> None:
    """Raise InputError where `values` has a key that the dataclass `config` does not."""
    known = [f.name for f in dataclasses.fields(config)]
    check_keys(values, known, expected=f"fields of {config.__name__}", where=config.__name__)


def _positive(name: str, value: int, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            expected=f"a whole number of at least 1 for {name}",
            got=repr(value),
            where=where,
            fix=f"set {name} to 1 or more",
        )
