"""What a session tells its owner: the server's messages, read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ._json import JsonObject


class ProtocolError(Exception):
    """The server sent what the protocol does not allow; the connection is of no use any more."""


@dataclass(frozen=True)
class Delivery:
    """An event of the log that comes until it is acknowledged, at least once.

    `id` is the same at every attempt: the key for having effects only once.
    """

    id: str
    position: int
    attempt: int = 1
    at: str | None = None
    catching_up: bool = False

    @classmethod
    def from_wire(cls, wire: JsonObject) -> Delivery:
        return cls(
            str(wire["id"]),
            int(wire.get("position", 0)),
            int(wire.get("attempt", 1)),
            wire.get("at"),
            bool(wire.get("catching_up", False)),
        )


@dataclass(frozen=True)
class Request:
    """Something to do."""

    id: str
    kind: str
    name: str
    param: Any = None
    context: JsonObject = field(default_factory=dict)
    timeout: float | None = None
    """Seconds from its sending until nobody waits for the answer any more."""
    parent: str | None = None
    """The plugin's own call that caused it."""
    delivery: Delivery | None = None
    session: int = 0
    """The session it belongs to, counted by this worker; an answer elsewhere is of no use."""

    @classmethod
    def from_wire(cls, wire: JsonObject, session: int = 0) -> Request:
        delivery = wire.get("delivery")
        timeout_ms = wire.get("timeout_ms")
        return cls(
            id=str(wire["id"]),
            kind=str(wire["kind"]),
            name=str(wire.get("name", "")),
            param=wire.get("param"),
            context=wire.get("context") or {},
            timeout=None if timeout_ms is None else timeout_ms / 1000,
            parent=wire.get("parent"),
            delivery=None if delivery is None else Delivery.from_wire(delivery),
            session=session,
        )


@dataclass(frozen=True)
class Welcomed:
    """The server took the connection. `lost`: there was a session before, and it is over."""

    resumed: bool
    lost: bool


@dataclass(frozen=True)
class Requested:
    request: Request


@dataclass(frozen=True)
class Cancelled:
    """Nobody waits for the answer to a request any more."""

    request_id: str
    reason: str


@dataclass(frozen=True)
class Replied:
    """What an action answered."""

    call_id: str
    status: int
    body: Any


@dataclass(frozen=True)
class Registered:
    """Whether the points were taken."""

    ok: bool
    points: JsonObject
    problems: list[JsonObject]


@dataclass(frozen=True)
class StateChanged:
    """How far the server's plugins are; `ready`: clients are served."""

    state: str


@dataclass(frozen=True)
class Draining:
    """The server sends no new requests."""

    reason: str
    reconnect: bool


@dataclass(frozen=True)
class Drained:
    """Nothing runs any more."""


@dataclass(frozen=True)
class Noted:
    """Something for the log."""

    text: str


Event = (
    Welcomed
    | Requested
    | Cancelled
    | Replied
    | Registered
    | StateChanged
    | Draining
    | Drained
    | Noted
)
