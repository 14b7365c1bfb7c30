"""What defines a check, as data. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from lengthwise.errors import InputError, check_settings

Engine = Literal["auto", "lengthwise", "transformers"]
ENGINES: tuple[Engine, ...] = ("auto", "lengthwise", "transformers")
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16", "float64")
MIN_LENGTH = 24
"""A shorter probe has no room for two halves, uneven pieces and padding."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """One check of one model.

    Raises InputError for values out of range.
    """

    model: str
    """A folder, the name of a shipped model or preset, a name on the model hub, or a model type of transformers."""
    config_only: bool = False
    """Check a small random model of the same class instead of the weights."""
    engine: Engine = "auto"
    """Whose code runs the model. auto: ours where it can read the model, else transformers."""
    length: int = 64
    """Tokens of the probe."""
    dtype: Dtype = "float32"
    """Of the weights and the computation."""
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where there is one."""
    seed: int = 0
    """Root of the random tokens, and of the weights of a small random model."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < MIN_LENGTH:
            raise InputError(
                expected=f"a probe of at least {MIN_LENGTH} tokens",
                got=repr(self.length),
                where="CheckConfig.length",
                fix="leave it at 64, or give more than the model's sliding window to have it slide",
            )
        for name, known in (("engine", ENGINES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise InputError(
                    expected=f"{name} among {', '.join(known)}",
                    got=repr(getattr(self, name)),
                    where=f"CheckConfig.{name}",
                    fix="use one of these",
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CheckConfig:
        """The inverse of `to_dict`. Raises InputError for a key that is unknown, with near matches, or missing."""
        check_settings(data, cls, expected="a known setting of a check")
        return cls(**data)
