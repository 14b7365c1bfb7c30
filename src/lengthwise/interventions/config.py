"""What a user may set about an intervention, as data.

This file imports neither torch nor numpy, so that a command line can read it while printing help.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from lengthwise.errors import InputError, check_settings, near_matches
from lengthwise.settings import check_types

InterventionKind = Literal["zero", "random-noise", "fitted-noise", "state-passing", "tbtt"]

KINDS: tuple[str, ...] = get_args(InterventionKind)

# Which options a kind reads, with the value used when the option is left at None. An option that is set for a kind
# that does not read it is an error: a setting without effect must not pass unnoticed.
_OPTIONS: dict[str, dict[str, Any]] = {
    "zero": {},
    "random-noise": {"sigma": None, "sigma_relative": None, "zero_prob": 0.0},
    "fitted-noise": {"beta": 0.1, "zero_start_statistics": False, "zero_prob": 0.0},
    "state-passing": {"zero_prob": 0.1, "carry_short": False, "permute": False},
    "tbtt": {"zero_prob": 0.0, "carry_short": True},
}


@dataclass(frozen=True, kw_only=True)
class InterventionConfig:
    """How the state is initialised at each training step (Buitrago Ruiz & Gu, arXiv 2507.02782, section 4).

    Options left at None take the default of their kind when the config is made, so two configs that mean the same
    compare equal and a stored config shows the values that were used. Options of other kinds stay None.

    Raises InputError for an unknown kind, a value out of range, and an option its kind does not read.
    """

    kind: InterventionKind = "zero"
    """zero, random-noise, fitted-noise, state-passing or tbtt."""
    zero_prob: float | None = None
    """Probability in [0, 1] that a sequence starts from zero instead; one coin per sequence for all layers.
    0.1 for state-passing, 0 for the others."""
    sigma: float | None = None
    """random-noise: standard deviation of the noise in the state's own unit."""
    sigma_relative: float | None = None
    """random-noise: standard deviation as a multiple of the std of the first batch's final states, taken over all
    layers. The default, 1.0, when sigma is not given."""
    beta: float | None = None
    """fitted-noise: weight of the OLD value in the moving average, in [0, 1); 0.1 means mostly the newest batch."""
    zero_start_statistics: bool | None = None
    """fitted-noise: take statistics only from sequences that started from zero; needs zero_prob > 0."""
    carry_short: bool | None = None
    """state-passing, tbtt: carry the short convolution's buffer as well. False for state-passing, True for tbtt."""
    permute: bool | None = None
    """state-passing: permute the rows before passing them on; needed when the reader does not shuffle."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                expected=f"an intervention, one of {', '.join(KINDS)}",
                got=repr(self.kind),
                where="InterventionConfig.kind",
                fix=near_matches(str(self.kind), KINDS),
            )
        check_types(self)
        known = _OPTIONS[self.kind]
        for field in fields(self):
            if field.name == "kind":
                continue
            value = getattr(self, field.name)
            if field.name in known:
                if value is None:
                    object.__setattr__(self, field.name, known[field.name])
            elif value is not None:
                raise InputError(
                    expected=f"options that {self.kind} reads ({', '.join(known) or 'none'})",
                    got=f"{field.name}={value!r}",
                    where="InterventionConfig",
                    fix=f"remove {field.name} or choose another intervention",
                )
        self._check_values()

    def _check_values(self) -> None:
        if self.kind == "random-noise":
            if self.sigma is not None and self.sigma_relative is not None:
                raise InputError(
                    expected="either sigma or sigma_relative",
                    got=f"sigma={self.sigma!r} and sigma_relative={self.sigma_relative!r}",
                    where="InterventionConfig",
                    fix="keep one of them",
                )
            if self.sigma is None and self.sigma_relative is None:
                object.__setattr__(self, "sigma_relative", 1.0)
        self._check_range("zero_prob", 0.0, 1.0)
        self._check_range("sigma", 0.0, math.inf)
        self._check_range("sigma_relative", 0.0, math.inf)
        self._check_range("beta", 0.0, 1.0, high_included=False)
        if self.zero_start_statistics and not self.zero_prob:
            raise InputError(
                expected="zero_prob above 0 when statistics come from zero-start sequences only",
                got=f"zero_prob={self.zero_prob!r}",
                where="InterventionConfig",
                fix="set zero_prob (for example 0.1), otherwise only the first batch would ever be measured",
            )

    def _check_range(self, name: str, low: float, high: float, *, high_included: bool = True) -> None:
        value = getattr(self, name)
        if value is None:
            return
        fits = low <= value and (value <= high if high_included else value < high) and math.isfinite(value)
        if not fits:
            bracket = "]" if high_included and math.isfinite(high) else ")"
            raise InputError(
                expected=f"a number in [{low:g}, {high:g}{bracket}",
                got=f"{name}={value!r}",
                where="InterventionConfig",
                fix=f"choose {name} in that range",
            )

    def to_dict(self) -> dict[str, Any]:
        """The kind and the options it reads, ready for JSON."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in _OPTIONS[self.kind]}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InterventionConfig:
        """The inverse of `to_dict`. Raises InputError for an unknown key."""
        check_settings(data, cls, expected="a known option of an intervention")
        return cls(**data)
