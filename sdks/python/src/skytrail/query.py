"""Conditions of queries, written as Python expressions.

    (field("room") == room.reference) & ~field("text").like("%spam%")

`field("room.owner")` follows a reference. A condition becomes a list in its JSON form.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .values import Location, encode


class Condition:
    """A condition that a record meets or not."""

    def __init__(self, wire: list[Any]) -> None:
        self._wire = wire

    def to_wire(self) -> list[Any]:
        return self._wire

    def __and__(self, other: Condition) -> Condition:
        return Condition(["and", self._wire, other._wire])

    def __or__(self, other: Condition) -> Condition:
        return Condition(["or", self._wire, other._wire])

    def __invert__(self) -> Condition:
        return Condition(["not", self._wire])

    def __bool__(self) -> bool:
        raise TypeError("combine conditions with & and |, and put each in parentheses")

    def __repr__(self) -> str:
        return f"Condition({self._wire!r})"


class Field:
    """A field in a condition; `field("title")` creates one."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, keypath: str) -> None:
        self._keypath = {"$type": "keypath", "$val": keypath}

    def _is(self, operator: str, value: Any) -> Condition:
        return Condition([operator, self._keypath, encode(value)])

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        return self._is("eq", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        return self._is("neq", value)

    def __lt__(self, value: Any) -> Condition:
        return self._is("lt", value)

    def __le__(self, value: Any) -> Condition:
        return self._is("lte", value)

    def __gt__(self, value: Any) -> Condition:
        return self._is("gt", value)

    def __ge__(self, value: Any) -> Condition:
        return self._is("gte", value)

    def like(self, pattern: str) -> Condition:
        """Matches strings by a pattern: `%` is anything, and `_` is one character."""
        return self._is("like", pattern)

    def ilike(self, pattern: str) -> Condition:
        """Like `like`, but ignores case."""
        return self._is("ilike", pattern)

    def in_(self, values: Iterable[Any]) -> Condition:
        """Matches one of these values."""
        return self._is("in", list(values))

    def contains(self, value: Any) -> Condition:
        """Matches a list that contains this value."""
        return Condition(["in", encode(value), self._keypath])

    def is_within(self, kilometres: float, of: Location) -> Condition:
        """Matches a location that is at most this far away."""
        distance = ["func", "distance", self._keypath, encode(of)]
        return Condition(["lte", distance, kilometres * 1000])

    @property
    def ascending(self) -> list[Any]:
        """For `sort`: smallest first."""
        return [self._keypath, "asc"]

    @property
    def descending(self) -> list[Any]:
        """For `sort`: greatest first."""
        return [self._keypath, "desc"]


def field(keypath: str) -> Field:
    """Returns a field for use in conditions."""
    return Field(keypath)
