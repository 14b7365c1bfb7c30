"""Sizes and options of every mixer and MLP, as frozen records that validate themselves.

This file imports neither torch nor numpy, so that a command line can read it while printing help. A record's `kind`
names it in stored configurations. Names of fields follow the published code of each family, save where noted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from lengthwise.errors import InputError, check_settings, near_matches
from lengthwise.settings import check_types

_Record = TypeVar("_Record", bound="_Config")


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What the records share: checks of types and ranges, and a plain form for JSON."""

    kind: ClassVar[str]
    _positive: ClassVar[tuple[str, ...]] = ()
    """Whole numbers of at least 1."""
    _above_zero: ClassVar[tuple[str, ...]] = ()
    """Numbers, or pairs of them, above 0."""
    _at_least_zero: ClassVar[tuple[str, ...]] = ()
    _unlimited: ClassVar[tuple[str, ...]] = ()
    """Those that may be infinite; all others are finite."""
    _ordered: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Two names, or that of a pair: the second number is not below the first."""

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_types(self)
        for name in self._positive:
            value = getattr(self, name)
            if value is not None:
                positive(name, value, where)
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float):
                    in_range(
                        name,
                        float(number),
                        where,
                        above=0.0 if name in self._above_zero else None,
                        at_least=0.0 if name in self._at_least_zero else None,
                        infinite=name in self._unlimited,
                    )
        for names in self._ordered:
            values = [getattr(self, name) for name in names]
            low, high = values[0] if len(values) == 1 else values
            if low > high:
                raise InputError(
                    expected=f"{' <= '.join(names)}" if len(names) == 2 else f"{names[0]}: the lower limit first",
                    got=f"{low!r} and {high!r}",
                    where=where,
                    fix="exchange the two, or change one of them",
                )

    def validate(self, d_model: int) -> None:
        """Raise InputError where the record does not fit the model width."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the kind, for JSON; infinity becomes None."""
        values = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"kind": self.kind, **values}

    @classmethod
    def from_plain(cls: type[_Record], values: Mapping[str, Any]) -> _Record:
        """The reverse of `to_dict`, without the kind. Raises InputError for a key that is unknown or missing."""
        check_settings(values, cls, expected=f"fields of {cls.__name__}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isinf(value) else value


@dataclass(frozen=True, kw_only=True)
class Mamba1Config(_Config):
    """The Mamba-1 mixer (Gu & Dao 2023, arXiv 2312.00752)."""

    kind: ClassVar[str] = "mamba1"
    _positive: ClassVar[tuple[str, ...]] = ("d_state", "d_conv", "expand", "dt_rank")
    _above_zero: ClassVar[tuple[str, ...]] = ("dt_min", "dt_max", "A_init_scale")
    _at_least_zero: ClassVar[tuple[str, ...]] = ("dt_init_floor", "dt_scale")
    _ordered: ClassVar[tuple[tuple[str, ...], ...]] = (("dt_min", "dt_max"),)

    d_state: int = 16
    """State size N of each channel."""
    d_conv: int = 4
    """Width W of the short convolution."""
    expand: int = 2
    """Inner width as a multiple of the model width."""
    dt_rank: int | None = None
    """Rank of the projection to the step sizes; None for the model width divided by 16, rounded up."""
    dt_min: float = 1e-3
    """Smallest initial step size (log-uniform)."""
    dt_max: float = 0.1
    """Largest initial step size."""
    dt_init_floor: float = 1e-4
    """No initial step size is below this."""
    dt_scale: float = 1.0
    """Factor on the initial range of the step-size projection."""
    A_init_scale: float = 1.0
    """Factor on the official initial decay rates 1..N; below 1 for memories that are longer at the start."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether the input and output projections have a bias."""

    def rank(self, d_model: int) -> int:
        """Rank of the projection to the step sizes."""
        return math.ceil(d_model / 16) if self.dt_rank is None else self.dt_rank


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(_Config):
    """The Mamba-2 mixer (Dao & Gu 2024, arXiv 2405.21060)."""

    kind: ClassVar[str] = "mamba2"
    _positive: ClassVar[tuple[str, ...]] = ("d_state", "d_conv", "expand", "headdim", "ngroups", "chunk_size")
    _above_zero: ClassVar[tuple[str, ...]] = ("dt_min", "dt_max", "A_init_range")
    _at_least_zero: ClassVar[tuple[str, ...]] = ("dt_init_floor", "dt_limit")
    _unlimited: ClassVar[tuple[str, ...]] = ("dt_limit",)
    _ordered: ClassVar[tuple[tuple[str, ...], ...]] = (("dt_min", "dt_max"), ("A_init_range",), ("dt_limit",))

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

    def num_heads(self, d_model: int) -> int:
        """Heads H."""
        return d_model * self.expand // self.headdim

    def validate(self, d_model: int) -> None:
        """Raise InputError where heads and groups do not come out even."""
        inner = d_model * self.expand
        if inner % self.headdim or (inner // self.headdim) % self.ngroups:
            raise InputError(
                expected="headdim to divide expand * d_model, and ngroups to divide the number of heads",
                got=f"expand * d_model = {inner}, headdim {self.headdim}, ngroups {self.ngroups}",
                where="ModelConfig",
                fix="change d_model, headdim or ngroups",
            )

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Mamba2Config:
        """The reverse of `to_dict`, without the kind; an upper limit of None is infinity."""
        match values.get("dt_limit"):
            case [low, None]:
                values = {**values, "dt_limit": (low, math.inf)}
        return super().from_plain(values)


@dataclass(frozen=True, kw_only=True)
class GLAConfig(_Config):
    """Gated linear attention (Yang et al. 2024, arXiv 2312.06635)."""

    kind: ClassVar[str] = "gla"
    _positive: ClassVar[tuple[str, ...]] = (
        "num_heads",
        "num_kv_heads",
        "gate_low_rank_dim",
        "conv_size",
        "chunk_size",
    )
    _above_zero: ClassVar[tuple[str, ...]] = ("expand_k", "expand_v", "gate_logit_normalizer")
    _at_least_zero: ClassVar[tuple[str, ...]] = ("norm_eps",)

    num_heads: int = 4
    """Heads H."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each shared by several of the queries; None for H."""
    expand_k: float = 0.5
    """Width of all keys together, as a multiple of the model width."""
    expand_v: float = 1.0
    """Width of all values together."""
    gate_low_rank_dim: int = 16
    """Rank of the projection to the decays."""
    gate_logit_normalizer: float = 16.0
    """log-decay = logsigmoid(gate) / this."""
    clamp_min: float | None = None
    """Log-decays are raised to this; None for no limit."""
    use_output_gate: bool = True
    """Whether the normed output is multiplied by swish of a gate."""
    use_short_conv: bool = False
    """Whether queries, keys and values go through a short convolution with SiLU."""
    conv_size: int = 4
    """Width W of that convolution."""
    conv_bias: bool = False
    """Whether it has a bias."""
    norm_eps: float = 1e-5
    """eps of the norm of each head's output."""
    chunk_size: int = 64
    """Tokens a chunk: speed only."""

    def key_width(self, d_model: int) -> int:
        """Width of all query heads together."""
        return int(d_model * self.expand_k)

    def value_width(self, d_model: int) -> int:
        """Width of all output heads together."""
        return int(d_model * self.expand_v)

    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def validate(self, d_model: int) -> None:
        """Raise InputError where the heads do not come out even."""
        widths = (self.key_width(d_model), self.value_width(d_model))
        if (
            any(width % self.num_heads or width < self.num_heads for width in widths)
            or self.num_heads % self.kv_heads()
        ):
            raise InputError(
                expected="num_heads to divide the widths of keys and values, and num_kv_heads to divide num_heads",
                got=f"widths {widths}, num_heads {self.num_heads}, num_kv_heads {self.num_kv_heads}",
                where="ModelConfig",
                fix="change d_model, expand_k, expand_v or the heads",
            )


@dataclass(frozen=True, kw_only=True)
class RWKV6Config(_Config):
    """The time mixing of RWKV-6 (Peng et al. 2024, arXiv 2404.05892)."""

    kind: ClassVar[str] = "rwkv6"
    _positive: ClassVar[tuple[str, ...]] = ("head_size", "mix_rank", "decay_rank", "head_size_divisor", "chunk_size")

    head_size: int = 64
    """Width of keys and values of a head."""
    mix_rank: int = 32
    """Rank of the data-dependent token shift (64 in the published models of width 4096)."""
    decay_rank: int = 64
    """Rank of the data-dependent decay (128 in the published models of width 4096)."""
    head_size_divisor: int = 8
    """eps of the norm of each head's output is 1e-5 times this squared."""
    chunk_size: int = 64
    """Tokens a chunk: speed only."""

    def validate(self, d_model: int) -> None:
        """Raise InputError where the heads do not come out even."""
        if d_model % self.head_size:
            raise InputError(
                expected="head_size to divide d_model",
                got=f"d_model {d_model}, head_size {self.head_size}",
                where="ModelConfig",
                fix="change one of them",
            )


@dataclass(frozen=True, kw_only=True)
class RGLRUConfig(_Config):
    """The recurrent block of Griffin (De et al. 2024, arXiv 2402.19427): two branches, convolution, RG-LRU."""

    kind: ClassVar[str] = "rglru"
    _positive: ClassVar[tuple[str, ...]] = ("lru_width", "num_heads", "d_conv")
    _above_zero: ClassVar[tuple[str, ...]] = ("min_rad", "max_rad")
    _ordered: ClassVar[tuple[tuple[str, ...], ...]] = (("min_rad", "max_rad"),)

    lru_width: int | None = None
    """Width of the recurrence; None for the model width."""
    num_heads: int = 1
    """Blocks of the block-diagonal gates."""
    d_conv: int = 4
    """Width W of the short convolution."""
    min_rad: float = 0.9
    """Smallest initial decay of a step whose recurrence gate is 1/8; at the start gates are about 1/2."""
    max_rad: float = 0.999
    """Largest initial decay of such a step."""
    reset_at_start: bool = True
    """Whether the token at absolute position 0 forgets the state before it, as the published models do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_rad >= 1.0:
            raise InputError(
                expected="a number below 1 for max_rad",
                got=repr(self.max_rad),
                where="RGLRUConfig",
                fix="change max_rad",
            )

    def width(self, d_model: int) -> int:
        """Width of the recurrence."""
        return d_model if self.lru_width is None else self.lru_width

    def validate(self, d_model: int) -> None:
        """Raise InputError where the blocks do not come out even."""
        if self.width(d_model) % self.num_heads:
            raise InputError(
                expected="num_heads to divide the width of the recurrence",
                got=f"width {self.width(d_model)}, num_heads {self.num_heads}",
                where="ModelConfig",
                fix="change one of them",
            )


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(_Config):
    """Causal softmax attention with rotary positions: full or sliding window, grouped or multi-query heads."""

    kind: ClassVar[str] = "attention"
    _positive: ClassVar[tuple[str, ...]] = ("num_heads", "num_kv_heads", "head_dim", "window")
    _above_zero: ClassVar[tuple[str, ...]] = ("rotary_base",)

    num_heads: int = 8
    """Query heads H."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each shared by several of the queries; None for H."""
    head_dim: int | None = None
    """Width of a head; None for the model width divided by H."""
    rotary_dim: int | None = None
    """The first so many numbers of a head are rotated, in two halves; None for all, 0 for no positions."""
    rotary_base: float = 10_000.0
    """Base of the rotary frequencies."""
    window: int | None = None
    """Sliding window in tokens; None for all tokens before."""
    window_reaches: bool = False
    """A query sees `window` tokens, itself included, when False (transformers); itself and the `window` tokens before
    it when True (Griffin's own code)."""
    d_conv: int = 0
    """Width W of a short convolution over queries, keys and values, before the rotation; 0 for none."""
    conv_bias: bool = True
    """Whether that convolution has a bias."""
    qkv_bias: bool = False
    """Whether the projections to queries, keys and values have a bias."""
    out_bias: bool = False
    """Whether the output projection has a bias."""

    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def width(self, d_model: int) -> int:
        """Width of a head."""
        return d_model // self.num_heads if self.head_dim is None else self.head_dim

    def token_floats(self, d_model: int) -> int:
        """Numbers in the key and the value of one token, all heads together."""
        return 2 * self.kv_heads() * self.width(d_model)

    def rotated(self, d_model: int) -> int:
        """How many numbers of a head are rotated."""
        return self.width(d_model) if self.rotary_dim is None else self.rotary_dim

    def reach(self) -> int | None:
        """How many keys a query sees, its own included; None for all."""
        return None if self.window is None else self.window + int(self.window_reaches)

    def validate(self, d_model: int) -> None:
        """Raise InputError where heads or rotations do not come out even."""
        problem = None
        if self.num_heads % self.kv_heads():
            problem = f"num_heads {self.num_heads}, num_kv_heads {self.num_kv_heads}"
        elif self.head_dim is None and d_model % self.num_heads:
            problem = f"d_model {d_model}, num_heads {self.num_heads}"
        elif self.rotated(d_model) % 2 or not 0 <= self.rotated(d_model) <= self.width(d_model):
            problem = f"rotary_dim {self.rotary_dim}, head width {self.width(d_model)}"
        elif self.d_conv < 0:
            problem = f"d_conv {self.d_conv}"
        if problem:
            raise InputError(
                expected="num_kv_heads to divide num_heads, num_heads to divide d_model, an even rotary_dim of at most "
                "the head width, and a d_conv of at least 0",
                got=problem,
                where="ModelConfig",
                fix="change one of them",
            )


@dataclass(frozen=True, kw_only=True)
class GatedMLPConfig(_Config):
    """``down(activation(gate x) * up x)``."""

    kind: ClassVar[str] = "gated"
    _positive: ClassVar[tuple[str, ...]] = ("width",)

    width: int
    """Inner width."""
    activation: Literal["silu", "gelu_tanh"] = "silu"
    """What the gate goes through; gelu_tanh is GELU in its tanh form."""
    bias: bool = False
    """Whether the three projections have a bias."""


@dataclass(frozen=True, kw_only=True)
class RWKV6ChannelMixConfig(_Config):
    """The channel mixing of RWKV-6: ``sigmoid(R x_r) * V relu(K x_k)^2`` with a token shift, which is state."""

    kind: ClassVar[str] = "rwkv6-channel-mix"
    _positive: ClassVar[tuple[str, ...]] = ("width",)

    width: int
    """Inner width; 3.5 times the model width in the published models."""


MixerConfig = Mamba1Config | Mamba2Config | GLAConfig | RWKV6Config | RGLRUConfig | AttentionConfig
MLPConfig = GatedMLPConfig | RWKV6ChannelMixConfig

MIXERS: dict[str, type[MixerConfig]] = {
    config.kind: config for config in (Mamba1Config, Mamba2Config, GLAConfig, RWKV6Config, RGLRUConfig, AttentionConfig)
}
MLPS: dict[str, type[MLPConfig]] = {config.kind: config for config in (GatedMLPConfig, RWKV6ChannelMixConfig)}


def mixer_from_dict(values: Mapping[str, Any]) -> MixerConfig:
    """The mixer record that `to_dict` made plain. A record without a kind is that of Mamba-2."""
    return _from_dict(values, MIXERS, "mixer", default="mamba2")


def mlp_from_dict(values: Mapping[str, Any]) -> MLPConfig:
    """The MLP record that `to_dict` made plain."""
    return _from_dict(values, MLPS, "mlp", default="")


def _from_dict(values: Mapping[str, Any], known: Mapping[str, type[Any]], what: str, *, default: str) -> Any:
    rest = dict(values)
    kind = rest.pop("kind", default)
    if not isinstance(kind, str) or kind not in known:
        raise InputError(
            expected=f"a {what} of a known kind: {', '.join(known)}",
            got=repr(kind),
            where=f"ModelConfig.{what}",
            fix=near_matches(str(kind), known),
        )
    return known[kind].from_plain(rest)


def positive(name: str, value: Any, where: str) -> None:
    """Raise InputError unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            expected=f"a whole number of at least 1 for {name}",
            got=repr(value),
            where=where,
            fix=f"set {name} to 1 or more",
        )


def in_range(
    name: str,
    value: float | None,
    where: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    infinite: bool = False,
) -> None:
    """Raise InputError unless `value` is None or a number within the limits; NaN never is."""
    if value is None:
        return
    too_low = (above is not None and value <= above) or (at_least is not None and value < at_least)
    if math.isnan(value) or too_low or (math.isinf(value) and not infinite):
        limits = "" if above is None else f" above {above:g}"
        limits += "" if at_least is None else f" of at least {at_least:g}"
        raise InputError(
            expected=f"{'a' if infinite else 'a finite'} number{limits} for {name}",
            got=repr(value),
            where=where,
            fix=f"change {name}",
        )
