"""Typed access to the JSON files of a run folder: absent is None, wrong is an `InputError` naming file and key."""

from __future__ import annotations

import math
from typing import Any

from lengthwise.errors import InputError


class Reader:
    """Typed access to the JSON of one file; every complaint names the file and the key."""

    def __init__(self, where: str, value: Any, key: str = "") -> None:
        self.where, self.key = where, key
        if not isinstance(value, dict):
            raise self.wrong("an object", value, key or "the file")
        self.value: dict[str, Any] = value

    def wrong(self, expected: str, got: Any, key: str) -> InputError:
        return InputError(
            expected=f"{expected} at '{key}'",
            got=repr(got)[:80],
            where=self.where,
            fix="measure again, or use the version of lengthwise that wrote this run",
        )

    def _path(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def number(self, key: str) -> float | None:
        """A finite number, or None where it is absent or null."""
        value = self.value.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong("a finite number or null", value, self._path(key))
        return float(value)

    def integer(self, key: str) -> int | None:
        """A whole number, or None where it is absent or null."""
        value = self.number(key)
        if value is not None and value != int(value):
            raise self.wrong("a whole number or null", value, self._path(key))
        return None if value is None else int(value)

    def needed(self, key: str) -> int:
        """A whole number above zero that nothing can be drawn without."""
        value = self.integer(key)
        if value is None or value < 1:
            raise self.wrong("a whole number above zero", self.value.get(key), self._path(key))
        return value

    def index(self, key: str) -> int:
        """A whole number from zero that must be there."""
        value = self.integer(key)
        if value is None or value < 0:
            raise self.wrong("a whole number from zero", self.value.get(key), self._path(key))
        return value

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str | None:
        """A string (one of `choices` where given), or None."""
        value = self.value.get(key)
        if value is not None and (not isinstance(value, str) or (choices and value not in choices)):
            raise self.wrong(" or ".join(choices) if choices else "a text", value, self._path(key))
        return value

    def flag(self, key: str) -> bool | None:
        """True, False, or None."""
        value = self.value.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong("true, false or null", value, self._path(key))
        return value

    def items(self, key: str) -> list[Any]:
        """A list; empty where it is absent or null."""
        value = self.value.get(key)
        if value is not None and not isinstance(value, list):
            raise self.wrong("a list", value, self._path(key))
        return value or []

    def objects(self, key: str) -> list[Reader]:
        """A list of objects."""
        return [Reader(self.where, item, f"{self._path(key)}[{i}]") for i, item in enumerate(self.items(key))]

    def numbers(self, key: str) -> tuple[float | None, ...]:
        """A list of finite numbers or nulls."""
        items = self.items(key)
        inner = Reader(self.where, {str(i): item for i, item in enumerate(items)}, self._path(key))
        return tuple(inner.number(str(i)) for i in range(len(items)))

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        values = self.numbers(key)
        whole = tuple(int(value) for value in values if value is not None and value == int(value))
        if len(whole) != len(values):
            raise self.wrong("whole numbers", self.value.get(key), self._path(key))
        return whole

    def part(self, key: str) -> Reader | None:
        """An object inside, or None where it is absent or null: that part was not measured."""
        value = self.value.get(key)
        return None if value is None else Reader(self.where, value, self._path(key))

    def span(self, key: str) -> tuple[int, int] | None:
        """A pair [start, end], or None."""
        if self.value.get(key) is None:
            return None
        pair = self.integers(key)
        if len(pair) != 2:
            raise self.wrong("a pair [start, end]", self.value[key], self._path(key))
        return pair[0], pair[1]
