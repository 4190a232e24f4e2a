"""Conditions of queries, written as Python expressions.

    (field("room") == room.reference) & ~field("text").like("%spam%")

`field("room.owner")` looks through a reference. A condition becomes the list that travels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .values import Location, encode


class Condition:
    """Something that is true of a record or not."""

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
        raise TypeError("combine conditions with & and |, and put each into parentheses")

    def __repr__(self) -> str:
        return f"Condition({self._wire!r})"


class Field:
    """A field in a condition; `field("title")` makes one."""

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
        """Text with `%` for anything and `_` for one character."""
        return self._is("like", pattern)

    def ilike(self, pattern: str) -> Condition:
        """As `like`, in any case."""
        return self._is("ilike", pattern)

    def in_(self, values: Iterable[Any]) -> Condition:
        """One of these values."""
        return self._is("in", list(values))

    def contains(self, value: Any) -> Condition:
        """A list with this value in it."""
        return Condition(["in", encode(value), self._keypath])

    def is_within(self, kilometres: float, of: Location) -> Condition:
        """A location not farther than this."""
        distance = ["func", "distance", self._keypath, encode(of)]
        return Condition(["lte", distance, kilometres * 1000])

    @property
    def ascending(self) -> list[Any]:
        """For `sort`: the least first."""
        return [self._keypath, "asc"]

    @property
    def descending(self) -> list[Any]:
        """For `sort`: the greatest first."""
        return [self._keypath, "desc"]


def field(keypath: str) -> Field:
    """Names a field in a condition."""
    return Field(keypath)
