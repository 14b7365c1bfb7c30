"""Settings against the types that their record declares: they come from files and scripts, which nobody checked."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lengthwise.errors import InputError, near_matches

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text that is not empty",
    NoneType: "None",
}
_SHOWN = 200


def check_types(record: Any) -> None:
    """Raise InputError for the first field of a dataclass whose value is not what its annotation says.

    A whole number is a number, but true and false are none, and an empty text is no text. A list where a tuple belongs
    becomes one, so that a record made of JSON equals one made in Python. To be called first in `__post_init__`.

    Args:
        record: an object of a dataclass; annotations of numbers, texts, flags, records, `None`, `Literal`, `tuple`,
            `|` and `Any`.
    """
    kind = type(record)
    for name, hint in _hints(kind).items():  # type: ignore[arg-type]  # a class is hashable
        value = getattr(record, name)
        try:
            taken = _taken(value, hint)
        except TypeError:
            raise _misfit(kind.__name__, name, value, hint) from None
        if taken is not value:
            object.__setattr__(record, name, taken)  # records are frozen


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _taken(value: Any, hint: Any) -> Any:
    """The value, lists as tuples. Raises TypeError where it is not of the type."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        for part in parts:
            try:
                return _taken(value, part)
            except TypeError:
                continue
    elif origin is tuple:
        if isinstance(value, list | tuple):
            kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
            if len(kinds) == len(value):
                found = tuple(map(_taken, value, kinds))
                unchanged = isinstance(value, tuple) and all(a is b for a, b in zip(found, value, strict=True))
                return value if unchanged else found
    elif origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in parts):
            return value
    elif hint in (int, float):
        if _is_number(value) and (hint is float or isinstance(value, int)):
            return value
    elif hint is str:
        if isinstance(value, str) and value:
            return value
    elif isinstance(value, origin or hint):
        return value
    raise TypeError


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:  # a whole number beyond all floats
        return False
    return True


def _misfit(record: str, name: str, value: Any, hint: Any) -> InputError:
    shown = repr(value)
    parts = (hint, *get_args(hint))
    choices = [str(choice) for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    fix = f"change {name}"
    if isinstance(value, str) and choices:
        fix = near_matches(value, choices)
    elif isinstance(value, str) and any(is_dataclass(part) and hasattr(part, "kind") for part in parts):
        fix = f'write {{"kind": {json.dumps(value)}}} for {name}'
    return InputError(
        expected=f"{name}: {_in_words(hint)}",
        got=shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}...",
        where=record,
        fix=fix,
    )


def _in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_in_words(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple and parts[-1] is Ellipsis:
        return f"a list (each: {_in_words(parts[0])})"
    if origin is tuple:
        return f"a list of {len(parts)} ({', '.join(map(_in_words, parts))})"
    if hint in _WORDS:
        return _WORDS[hint]
    name = (origin or hint).__name__
    return f"a record of {name}" if is_dataclass(hint) else f"a {name}"
