"""Errors a user can cause or meet, each with the same four parts.

A message says what was expected, what came, where, and what to do next. The command line prints it without a
traceback and leaves with `exit_code`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any


class LengthwiseError(Exception):
    """Base of all deliberate errors.

    Args:
        expected: what would have been right, e.g. ``"a length above the training context 64"``.
        got: what came instead, with the offending value.
        where: name, shape, file or key that was read.
        fix: what to do next, as an instruction.
    """

    exit_code: int = 1

    def __init__(self, *, expected: str, got: str, where: str, fix: str) -> None:
        self.expected, self.got, self.where, self.fix = expected, got, where, fix
        super().__init__(f"expected {expected}; got {got}; in {where}; {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, which worker processes need.
        return _rebuild, (type(self), self.expected, self.got, self.where, self.fix)


def _rebuild(kind: type[LengthwiseError], expected: str, got: str, where: str, fix: str) -> LengthwiseError:
    return kind(expected=expected, got=got, where=where, fix=fix)


class InputError(LengthwiseError, ValueError):
    """Wrong usage or wrong input; nothing was computed. Exit code 2."""

    exit_code = 2


class RunFailure(LengthwiseError, RuntimeError):
    """A run that began well and cannot go on; what was finished is on disk. Exit code 1."""

    exit_code = 1


def near_matches(name: str, known: Iterable[str]) -> str:
    """Help for a misspelled name: the closest known names, or all of them where none is close."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    return "known: " + ", ".join(names) if names else "none is known"


def check_keys(given: Iterable[str], known: Sequence[str], *, expected: str, where: str) -> None:
    """Raise InputError, with near matches, for the first of `given` that is not `known`: no setting is ever ignored."""
    for key in given:
        if key not in known:
            raise InputError(expected=expected, got=repr(key), where=where, fix=near_matches(key, known))


def check_settings(given: Iterable[str], config: type[Any], *, expected: str) -> None:
    """Raise InputError for a setting that the dataclass `config` does not know, and for one that it needs.

    Args:
        given: names of the settings, e.g. of a file.
        config: what they are settings of.
        expected: what a known one is, e.g. ``"a known setting of a measurement"``.
    """
    names, known = list(given), fields(config)
    check_keys(names, [each.name for each in known], expected=expected, where=config.__name__)
    needed = [each.name for each in known if each.default is MISSING and each.default_factory is MISSING]
    if missing := [name for name in needed if name not in names]:
        raise InputError(
            expected="every setting without a default",
            got=f"no {', '.join(missing)}",
            where=config.__name__,
            fix=f"add {', '.join(missing)}",
        )
