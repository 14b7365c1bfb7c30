"""Does a model carry its state rightly? Properties that must hold, tried on a few random tokens."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lengthwise.check.config import CheckConfig

if TYPE_CHECKING:
    from lengthwise.check.findings import PROPERTIES, Finding, trust, worst
    from lengthwise.check.run import CheckResult, check

__all__ = ["PROPERTIES", "CheckConfig", "CheckResult", "Finding", "check", "trust", "worst"]

# The config is wanted by command lines that must not import torch; everything else is imported when it is asked for.
_HOMES = {
    "findings": ("PROPERTIES", "Finding", "trust", "worst"),
    "run": ("CheckResult", "check"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"lengthwise.check.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
