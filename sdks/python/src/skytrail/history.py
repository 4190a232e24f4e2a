"""The history of records: their versions, and points in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ._json import JsonObject
from .record import Record
from .values import decode, parse_date, write_date

#: A point in the past: a position of the log, or a time with a zone.
Moment = int | datetime


def write_moment(moment: Moment | None) -> int | str | None:
    """Writes a moment in its JSON form."""
    return write_date(moment) if isinstance(moment, datetime) else moment


@dataclass(frozen=True)
class Change:
    """The value of a field before and after; `None` where it had no value."""

    before: Any
    after: Any


@dataclass(frozen=True)
class Version:
    """A version of a record: who created it and when, and what it changed."""

    #: The log position of the event that created it; can be used as a moment.
    position: int
    #: The version's number, from 1.
    version: int
    #: `record.created`, `record.changed`, `record.replaced` or `record.deleted`.
    kind: str
    time: datetime
    #: `user`, `key`, `origin`, `plugin`.
    actor: Mapping[str, str]
    request_id: str | None
    #: Hooks that took part: `plugin`, `hook`, `changed`.
    hooks: list[JsonObject]
    #: The record as of this version; `None` when it was deleted.
    record: Record | None
    #: What changed, by field; access list and owner are `_access` and `_ownerID`.
    changes: Mapping[str, Change]

    @classmethod
    def from_wire(cls, wire: JsonObject) -> Version:
        """Reads a version from its JSON form."""
        record = wire.get("record")
        changes = (wire.get("changes") or {}).items()
        return cls(
            position=wire["position"],
            version=wire["version"],
            kind=wire["kind"],
            time=parse_date(wire["time"]),
            actor=wire.get("actor") or {},
            request_id=wire.get("request_id"),
            hooks=wire.get("hooks") or [],
            record=None if record is None else Record.from_wire(record),
            changes={
                name: Change(decode(it.get("before")), decode(it.get("after")))
                for name, it in changes
            },
        )
