"""The events that a session reports to its owner: the server's messages, parsed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ._json import JsonObject


class ProtocolError(Exception):
    """The server violated the protocol; the connection is of no use any more."""


@dataclass(frozen=True)
class Delivery:
    """An event of the log, delivered at least once, until it is acknowledged.

    `id` is the same at every attempt, and no other delivery to the plugin ever has it: use it as the
    key for having effects only once.
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
    """A request to the plugin."""

    id: str
    kind: str
    name: str
    param: Any = None
    context: JsonObject = field(default_factory=dict)
    timeout: float | None = None
    """Seconds from when it was sent until nobody waits for the answer any more."""
    parent: str | None = None
    """The plugin's own call that caused it."""
    delivery: Delivery | None = None
    session: int = 0
    """The session it belongs to, by this worker's count; an answer in another is useless."""

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
    """The server accepted the connection. `lost`: the previous session has ended."""

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
    """The server's answer to a call."""

    call_id: str
    status: int
    body: Any


@dataclass(frozen=True)
class Registered:
    """Whether the server accepted the points."""

    ok: bool
    points: JsonObject
    problems: list[JsonObject]


@dataclass(frozen=True)
class StateChanged:
    """The startup state of the server's plugins; `ready`: clients are served."""

    state: str


@dataclass(frozen=True)
class Draining:
    """The server sends no new requests."""

    reason: str
    reconnect: bool
    workers: int | None = None
    """How many workers will reconnect, if the server says so."""


@dataclass(frozen=True)
class Drained:
    """No requests are running any more."""


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
