"""The entries of a record's access list, which say who may do what with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from ._json import JsonObject

Level = Literal["read", "write"]


@dataclass(frozen=True)
class PublicAccessControlEntry:
    """Everybody, signed in or not."""

    level: Level

    def as_dict(self) -> JsonObject:
        return {"public": True, "level": self.level}


@dataclass(frozen=True)
class DirectAccessControlEntry:
    """One user."""

    user_id: str
    level: Level

    def as_dict(self) -> JsonObject:
        return {"user_id": self.user_id, "level": self.level}


@dataclass(frozen=True)
class RoleAccessControlEntry:
    """Everybody who has a role."""

    role: str
    level: Level

    def as_dict(self) -> JsonObject:
        return {"role": self.role, "level": self.level}


@dataclass(frozen=True)
class RelationalAccessControlEntry:
    """Everybody who has a relation to the owner, such as `friend`."""

    relation: str
    level: Level

    def as_dict(self) -> JsonObject:
        return {"relation": self.relation, "level": self.level}


@dataclass(frozen=True)
class ForeignEntry:
    """An entry that this package does not know; it is sent back unchanged."""

    wire: Mapping[str, Any]

    def as_dict(self) -> JsonObject:
        return dict(self.wire)


AccessControlEntry = (
    PublicAccessControlEntry
    | DirectAccessControlEntry
    | RoleAccessControlEntry
    | RelationalAccessControlEntry
    | ForeignEntry
)


def read_acl(
    entries: Iterable[AccessControlEntry | Mapping[str, Any]] | None,
) -> list[AccessControlEntry] | None:
    """Reads `_access`, or what a plugin sets in its place; `None` means open to all."""
    return None if entries is None else [_read_entry(entry) for entry in entries]


def write_acl(
    entries: Iterable[AccessControlEntry | Mapping[str, Any]] | None,
) -> list[JsonObject] | None:
    """Writes `_access`."""
    return None if entries is None else [_read_entry(entry).as_dict() for entry in entries]


def _read_entry(wire: Any) -> AccessControlEntry:
    if isinstance(wire, AccessControlEntry):
        return wire
    if not isinstance(wire, Mapping):
        example = PublicAccessControlEntry("read")
        raise TypeError(
            f"an access list has entries such as {example} or {example.as_dict()}, not {wire!r}"
        )
    level = cast(Level, wire.get("level"))
    if wire.get("public") is True:
        return PublicAccessControlEntry(level)
    for name, entry in (
        ("user_id", DirectAccessControlEntry),
        ("role", RoleAccessControlEntry),
        ("relation", RelationalAccessControlEntry),
    ):
        if isinstance(wire.get(name), str):
            return entry(wire[name], level)
    return ForeignEntry(wire)
