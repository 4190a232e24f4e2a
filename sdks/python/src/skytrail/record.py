"""Records: a mapping of fields, with an id, an owner, and an access list."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import Any

from ._json import JsonObject
from .access import AccessControlEntry, PublicAccessControlEntry, read_acl, write_acl
from .values import RecordID, Reference, decode, encode, parse_date


class Record(MutableMapping[str, Any]):
    """A record.

        note = Record("note", {"title": "hi"})     # gets a new id
        note = Record("note/1", title="hi")
        note["title"], note.id.key, note.acl

    What the server keeps about a record (owner, times) is read-only; it is sent back unchanged, and
    the server decides about it.
    """

    def __init__(
        self, id: RecordID | str, data: Mapping[str, Any] | None = None, /, **fields: Any
    ) -> None:
        if isinstance(id, str):
            id = RecordID.parse(id) if "/" in id else RecordID(id, str(uuid.uuid4()))
        self._id = id
        self._data: dict[str, Any] = {**(data or {}), **fields}
        self._meta: JsonObject = {}
        self._acl: list[AccessControlEntry] | None = None
        self._has_acl = False
        self._is_opened = False

    # -- the fields ----------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise KeyError(f"names with a leading _ are reserved: {name}")
        self._data[name] = value

    def __delitem__(self, name: str) -> None:
        del self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.to_wire() == other.to_wire()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Record({str(self._id)!r}, {self._data!r})"

    @property
    def data(self) -> dict[str, Any]:
        """The fields."""
        return self._data

    # -- what the server knows about it --------------------------------------

    @property
    def id(self) -> RecordID:
        """The record's type and key."""
        return self._id

    @property
    def reference(self) -> Reference:
        """A value that refers to this record, for use in other records."""
        return Reference(self._id)

    @property
    def acl(self) -> list[AccessControlEntry] | None:
        """Who may read and write; `None` means everybody.

        Entries are `PublicAccessControlEntry("read")`, `DirectAccessControlEntry(user_id, level)`,
        `RoleAccessControlEntry(role, level)` and `RelationalAccessControlEntry(relation, level)`.
        They can also be given in their JSON form: `{"public": True, "level": "read"}`.
        If you set it to `None`, it is sent as a list that lets everybody write.
        """
        return self._acl

    @acl.setter
    def acl(self, entries: Iterable[AccessControlEntry | Mapping[str, Any]] | None) -> None:
        self._acl, self._has_acl = read_acl(entries), True
        self._is_opened = entries is None

    @property
    def owner_id(self) -> str | None:
        return self._meta.get("_ownerID")

    @property
    def created_at(self) -> datetime | None:
        return self._date("_created_at")

    @property
    def created_by(self) -> str | None:
        return self._meta.get("_created_by")

    @property
    def updated_at(self) -> datetime | None:
        return self._date("_updated_at")

    @property
    def updated_by(self) -> str | None:
        return self._meta.get("_updated_by")

    @property
    def transient(self) -> dict[str, Any]:
        """What arrived with the record and is not stored, such as included records."""
        transient = self._meta.get("_transient") or {}
        return {name: _included(value) for name, value in transient.items()}

    def _date(self, name: str) -> datetime | None:
        text = self._meta.get(name)
        return parse_date(text) if isinstance(text, str) else None

    # -- on the wire ---------------------------------------------------------

    @classmethod
    def from_wire(cls, wire: JsonObject) -> Record:
        """Reads a record from its JSON form."""
        record = cls(RecordID.parse(wire["_id"]))
        for name, value in wire.items():
            if name.startswith("_"):
                record._meta[name] = value
            else:
                record._data[name] = decode(value)
        if "_access" in wire:
            record._acl, record._has_acl = read_acl(wire["_access"]), True
        return record

    def to_wire(self) -> JsonObject:
        """Returns the record's JSON form."""
        wire = {**self._meta, "_id": str(self._id)}
        if self._is_opened:
            # To the server, null is a list that was not sent, so it would keep the one it has.
            wire["_access"] = [PublicAccessControlEntry("write").as_dict()]
        elif self._has_acl:
            wire["_access"] = write_acl(self._acl)
        wire.update((name, encode(value)) for name, value in self._data.items())
        return wire


def _included(wire: Any) -> Any:
    is_record = isinstance(wire, dict) and wire.get("_type") == "record"
    return Record.from_wire(wire) if is_record else decode(wire)
