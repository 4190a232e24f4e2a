"""Values that JSON cannot represent: dates, references, locations, files.

In JSON they are objects with a `$type`. Dates become `datetime` objects with a time zone; a
`datetime` without one is rejected, because it is ambiguous. A `datetime` cannot hold years before 1
or after 9999, or leap seconds: such dates are sent back unchanged.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ._json import MAX_DEPTH, JsonObject, circular, too_deep


@dataclass(frozen=True)
class RecordID:
    """A record's id: `type/key`."""

    type: str
    key: str

    @classmethod
    def parse(cls, text: str) -> RecordID:
        """Reads `note/1`; the key may itself contain slashes."""
        record_type, slash, key = text.partition("/")
        if not (record_type and slash and key):
            raise ValueError(f"a record id should be type/key, not {text!r}")
        return cls(record_type, key)

    def __str__(self) -> str:
        return f"{self.type}/{self.key}"


@dataclass(frozen=True)
class Reference:
    """A value that refers to a record."""

    id: RecordID

    @classmethod
    def to(cls, target: RecordID | str) -> Reference:
        """Returns a reference to a record, by the record's id."""
        return cls(target if isinstance(target, RecordID) else RecordID.parse(target))


@dataclass(frozen=True)
class Location:
    """A point on earth, in degrees."""

    lng: float
    lat: float


@dataclass(frozen=True)
class Asset:
    """A file. `url` is signed, valid for some minutes, and never stored."""

    name: str
    content_type: str | None = None
    url: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Sequence:
    """Saved into a field, it makes the server number the records."""


@dataclass(frozen=True)
class UnknownValue:
    """A value whose type the server does not know."""

    underlying_type: str | None = None


@dataclass(frozen=True)
class GeoJSON:
    """A shape, as GeoJSON."""

    value: Mapping[str, Any]


@dataclass(frozen=True)
class Foreign:
    """A value that this package cannot represent; it is sent back unchanged.

    Its `$type` is unknown, or it is a date that no `datetime` can hold.
    """

    wire: Mapping[str, Any]


# Digits below a microsecond, which Python cannot hold.
_FRACTION = re.compile(r"(\.\d{1,6})\d*")


def parse_date(text: str) -> datetime:
    """Reads an RFC 3339 date with a time zone; digits below a microsecond are cut off."""
    cut = _FRACTION.sub(lambda found: found.group(1).ljust(7, "0"), text)
    date = datetime.fromisoformat(cut.replace("Z", "+00:00").replace("z", "+00:00"))
    if date.tzinfo is None:
        raise ValueError(f"a date should have a time zone: {text!r}")
    return date.astimezone(timezone.utc)


# The form of a date, whether or not a `datetime` can hold it.
_DATE = re.compile(r"[+-]?\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _read_date(wire: JsonObject) -> datetime | Foreign:
    try:
        return parse_date(wire["$date"])
    except (ValueError, OverflowError):
        if _DATE.fullmatch(wire["$date"]) is None:
            raise
        return Foreign(wire)


def write_date(date: datetime) -> str:
    """Writes a date that has a time zone, in UTC."""
    if date.tzinfo is None:
        raise ValueError(f"a datetime without a time zone is ambiguous: {date!r}")
    text = date.astimezone(timezone.utc).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def decode(wire: Any) -> Any:
    """Turns typed objects into values, at any depth."""
    if isinstance(wire, list):
        return [decode(item) for item in wire]
    if not isinstance(wire, dict):
        return wire
    read = _READERS.get(wire["$type"]) if isinstance(wire.get("$type"), str) else None
    if read is not None:
        return read(wire)
    if "$type" in wire:
        return Foreign(wire)
    return {name: decode(value) for name, value in wire.items()}


def encode(value: Any) -> Any:
    """Turns values into typed objects, at any depth."""
    # The plain cases first; bool and int need not be told apart here.
    if value is None or isinstance(value, str | int | float):
        return value
    # By identity, because comparing records encodes them.
    if any(outer is value for outer in _path.values):
        raise circular()
    if len(_path.values) >= MAX_DEPTH:
        raise too_deep()
    _path.values.append(value)
    try:
        return _encode_object(value)
    finally:
        _path.values.pop()


class _Path(threading.local):
    """The values that a thread is writing, outermost first, also from within a record."""

    def __init__(self) -> None:
        self.values: list[Any] = []


_path = _Path()


def _encode_object(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _write_mapping(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [encode(item) for item in value]
    for known, write in _WRITERS:
        if isinstance(value, known):
            return write(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent: {value!r}")


def _read_record(wire: JsonObject) -> Any:
    from .record import Record

    return Record.from_wire(wire["$record"])


def _write_mapping(value: Mapping[Any, Any]) -> JsonObject:
    from .record import Record

    if isinstance(value, Record):
        return {"$type": "record", "$record": value.to_wire()}
    return {str(name): encode(item) for name, item in value.items()}


def _read_asset(wire: JsonObject) -> Asset:
    return Asset(wire["$name"], wire.get("$content_type"), wire.get("$url"))


_READERS: dict[str, Callable[[JsonObject], Any]] = {
    "date": _read_date,
    "ref": lambda wire: Reference(RecordID.parse(wire["$id"])),
    "geo": lambda wire: Location(wire["$lng"], wire["$lat"]),
    "asset": _read_asset,
    "seq": lambda wire: Sequence(),
    "unknown": lambda wire: UnknownValue(wire.get("$underlying_type")),
    "geojson": lambda wire: GeoJSON(wire["$val"]),
    "record": _read_record,
}


def _write_asset(asset: Asset) -> JsonObject:
    wire: JsonObject = {"$type": "asset", "$name": asset.name}
    if asset.content_type is not None:
        wire["$content_type"] = asset.content_type
    if asset.url is not None:
        wire["$url"] = asset.url
    return wire


def _write_unknown(unknown: UnknownValue) -> JsonObject:
    wire: JsonObject = {"$type": "unknown"}
    if unknown.underlying_type is not None:
        wire["$underlying_type"] = unknown.underlying_type
    return wire


_WRITERS: list[tuple[type, Callable[[Any], JsonObject]]] = [
    (datetime, lambda date: {"$type": "date", "$date": write_date(date)}),
    (Reference, lambda reference: {"$type": "ref", "$id": str(reference.id)}),
    (Location, lambda place: {"$type": "geo", "$lng": place.lng, "$lat": place.lat}),
    (Asset, _write_asset),
    (Sequence, lambda _: {"$type": "seq"}),
    (UnknownValue, _write_unknown),
    (GeoJSON, lambda shape: {"$type": "geojson", "$val": dict(shape.value)}),
    (Foreign, lambda foreign: dict(foreign.wire)),
    (RecordID, lambda record_id: {"$type": "ref", "$id": str(record_id)}),
]
