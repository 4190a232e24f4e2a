"""A session with the server, without input and output.

Texts go in (`receive`) and come out (`take_output`); time is an argument. Sent messages are
numbered and kept until the server has acknowledged them, so that a session that lost its socket
can be resumed: after the next `hello`, each side sends again what the other has not seen, and
skips what it has. Nothing here waits, and nothing here knows of sockets or tasks.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _json
from ._json import JsonObject
from .errors import Code, MessageTooLarge, to_wire
from .messages import (
    Cancelled,
    Drained,
    Draining,
    Event,
    Noted,
    ProtocolError,
    Registered,
    Replied,
    Request,
    Requested,
    StateChanged,
    Welcomed,
)

SUBPROTOCOL = "skygear.plugin.v1"
SDK = "skytrail-py/0.1"
MAX_MESSAGE = 8 * 1024 * 1024
# How much is kept for a resume; the server keeps the same.
MAX_KEPT_MESSAGES = 1000
MAX_KEPT_BYTES = 8 * 1024 * 1024
# When this much was received and nothing sent has acknowledged it, a ping does, so that the
# server's buffer of sent messages does not overflow.
ACK_MESSAGES = 100
ACK_BYTES = 1024 * 1024
# The space that a message's own members take in addition to its content.
ENVELOPE_BYTES = 64
# The longest explanation of why an answer cannot be sent; the explanation itself has to fit.
MAX_COMPLAINT_CHARS = 1000
# The largest integer that every JSON reader can hold exactly.
MAX_CODE = 2**53


@dataclass(frozen=True)
class Hello:
    """What a worker says about itself."""

    plugin: str
    worker: str
    generation: int = 0
    window: int = 16
    max_message: int = MAX_MESSAGE


@dataclass(frozen=True)
class Limits:
    """What the server has said about itself."""

    heartbeat: float = 10.0
    resume: float = 15.0
    max_message: int = MAX_MESSAGE
    max_calls: int = 64
    """How many calls may be under way."""


@dataclass
class _Kept:
    seq: int
    body: str
    num_bytes: int


class Session:
    """The state of one worker's session, over any number of sockets."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.limits = Limits()
        self.window = hello.window
        self.is_open = False
        """Whether the server has welcomed the current socket."""
        self.number = 0
        """The session's number; a new one begins when the server does not resume."""
        self._identity: tuple[str, str] | None = None
        self._in_flight: dict[str, Request] = {}
        self._num_calls = 0
        self._output: list[str] = []
        self._last_sent = self._last_received = 0.0
        self._begin()

    def _begin(self) -> None:
        self.number += 1
        self._sent = self._received = self._acknowledged = 0
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        # The highest number that was dropped before the server had it.
        self._forgotten = 0
        self._in_flight.clear()
        self._unacked_messages = self._unacked_bytes = 0

    # -- sockets come and go -------------------------------------------------

    @property
    def is_resumable(self) -> bool:
        """Whether the server may still have this session, and nothing that it needs was dropped."""
        return self._identity is not None and self._forgotten <= self._acknowledged

    @property
    def is_settled(self) -> bool:
        """Whether the server has everything that was sent, or can no longer get it."""
        return not self._kept or not self.is_resumable

    @property
    def num_in_flight(self) -> int:
        """How many requests have not been answered."""
        return len(self._in_flight)

    def connect(self, now: float, position: int | None = None) -> None:
        """Says hello on a new socket. Deliveries start after `position`."""
        hello = self.hello
        message: JsonObject = {
            "type": "hello",
            "plugin": hello.plugin,
            "worker": hello.worker,
            "generation": hello.generation,
            # The window of a hello must be at least 1; a worker that pauses says so afterwards.
            "window": max(1, self.window),
            "max_message": hello.max_message,
            "features": ["resume", "deliver"],
            "sdk": SDK,
        }
        if position is not None:
            message["from"] = position
        if self.is_resumable and self._identity is not None:
            session, secret = self._identity
            resume = {"session": session, "secret": secret, "received": self._received}
            message["resume"] = resume
        self.is_open = False
        self._last_sent = self._last_received = now
        self._output = [_json.write(message)]

    def disconnect(self) -> None:
        """Handles the loss of the socket; what is sent from now on is kept for the next one."""
        self.is_open = False
        self._output = []

    def forget(self) -> None:
        """Gives the session up, because the server has: the next one is new."""
        self._identity = None

    # -- sending -------------------------------------------------------------

    def respond(self, request: Request, outcome: JsonObject) -> bool:
        """Answers a request with `{"result": …}` or `{"error": …}`, once.

        An answer that cannot be sent becomes an error. Lone surrogates in an error are replaced,
        so that it can be sent. Returns false if nobody waits: the request belongs to a session
        that is over, or was answered.
        """
        if request.session != self.number or self._in_flight.pop(request.id, None) is None:
            return False
        envelope = {"type": "response", "id": request.id}
        try:
            self._send({**envelope, **outcome}, is_mended="error" in outcome)
        except Exception as error:
            why = str(to_wire(error)["message"])[:MAX_COMPLAINT_CHARS]
            complaint = _complaint(outcome.get("error"), why)
            self._send({**envelope, "error": complaint}, is_mended=True)
        return True

    def call(self, payload: JsonObject, parent: str | None, timeout: float) -> str:
        """Calls an action; returns the id of the call.

        Raises `MessageTooLarge`, and `TypeError` or `ValueError` for what is not JSON.
        """
        call_id = f"c{self._num_calls + 1}"
        message: JsonObject = {"type": "call", "id": call_id, "payload": payload}
        if parent is not None:
            message["parent"] = parent
        message["timeout_ms"] = max(1, int(timeout * 1000))
        self._send(message)
        self._num_calls += 1
        return call_id

    def cancel(self, call_id: str) -> None:
        """Tells the server that nobody waits for a call's reply any more."""
        self._send({"type": "cancel", "id": call_id})

    def progress(self, request: Request) -> None:
        """Tells the server that a delivery is still being worked on: its limit starts anew."""
        if request.session == self.number and request.id in self._in_flight:
            self._send({"type": "progress", "id": request.id})

    def set_window(self, size: int) -> None:
        """Changes how many requests are accepted at once; 0 pauses."""
        self.window = size
        if self.is_open:
            self._send({"type": "window", "size": size})

    def drain(self, reason: str, limit: float) -> None:
        """Asks the server to send no new requests."""
        self._send({"type": "drain", "reason": reason, "drain_ms": int(limit * 1000)})

    def _send(self, message: JsonObject, *, is_mended: bool = False) -> None:
        text = _json.write({**message, "seq": self._sent + 1}, is_mended=is_mended)
        num_bytes = len(text.encode())
        limit = min(self.limits.max_message, self.hello.max_message)
        if num_bytes + ENVELOPE_BYTES > limit:
            what = "an answer" if message["type"] == "response" else "a message"
            # The server sends back the smaller of the two limits.
            whose = "server" if limit < self.hello.max_message else "plugin"
            raise MessageTooLarge(num_bytes, limit, what, whose)
        self._sent += 1
        # Kept without the closing brace: the acknowledgement is added when it is written.
        kept = _Kept(self._sent, text[:-1], num_bytes)
        self._keep(kept)
        if self.is_open:
            self._output.append(self._finish(kept))

    def _finish(self, kept: _Kept) -> str:
        self._unacked_messages = self._unacked_bytes = 0
        return f'{kept.body},"ack":{self._received}}}'

    def _send_unnumbered(self, kind: str) -> None:
        self._unacked_messages = self._unacked_bytes = 0
        self._output.append(_json.write({"type": kind, "ack": self._received}))

    def _keep(self, kept: _Kept) -> None:
        self._kept.append(kept)
        self._kept_bytes += kept.num_bytes
        while len(self._kept) > MAX_KEPT_MESSAGES or self._kept_bytes > MAX_KEPT_BYTES:
            self._forgotten = self._kept[0].seq
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._kept_bytes -= self._kept.popleft().num_bytes

    def _acknowledge(self, seq: int) -> None:
        if seq > self._sent:
            raise ProtocolError(f"{seq} acknowledged, only {self._sent} sent")
        self._acknowledged = max(self._acknowledged, seq)
        while self._kept and self._kept[0].seq <= seq:
            self._drop_oldest()

    def take_output(self, now: float) -> list[str]:
        """Returns the texts to write to the socket, in order."""
        output, self._output = self._output, []
        if output:
            self._last_sent = now
        return output

    # -- time ----------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Sends a ping if nothing was sent for long; returns false when the server seems dead."""
        if self.is_open and now - self._last_sent >= self.limits.heartbeat:
            self._send_unnumbered("ping")
        return now - self._last_received < 3 * self.limits.heartbeat

    # -- receiving -----------------------------------------------------------

    def receive(self, text: str, now: float) -> list[Event]:
        """Takes one text from the server; returns the events that follow from it.

        Raises `ProtocolError` for what the server should never send.
        """
        self._last_received = now
        try:
            message = json.loads(text)
            if not isinstance(message, dict):
                raise ProtocolError("not an object")
            return self._receive(message, len(text))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"not JSON: {error}") from None
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"a member is missing or wrong: {error}") from None

    def _receive(self, message: JsonObject, num_bytes: int) -> list[Event]:
        kind = message["type"]
        if not self.is_open:
            if kind != "welcome":
                raise ProtocolError(f"{kind} before welcome")
            return self._take_welcome(message)
        if message.get("ack") is not None:
            self._acknowledge(message["ack"])
        if kind == "ping":
            self._send_unnumbered("pong")
        if kind in ("ping", "pong"):
            return []
        seq = message.get("seq")
        if seq is not None and not self._is_new(seq):
            return []
        reader = _READERS.get(kind)
        if seq is None and reader is not None:
            raise ProtocolError(f"{kind} without a number")
        unknown: list[Event] = [Noted(f"unknown message type {kind!r}")]
        events = unknown if reader is None else reader(self, message)
        self._owe_acknowledgement(num_bytes)
        return events

    def _is_new(self, seq: int) -> bool:
        if seq > self._received + 1:
            raise ProtocolError(f"a gap: {seq} arrived after {self._received}")
        if seq <= self._received:
            return False
        self._received = seq
        return True

    def _owe_acknowledgement(self, num_bytes: int) -> None:
        self._unacked_messages += 1
        self._unacked_bytes += num_bytes
        if self._unacked_messages >= ACK_MESSAGES or self._unacked_bytes >= ACK_BYTES:
            self._send_unnumbered("ping")

    def _take_welcome(self, message: JsonObject) -> list[Event]:
        self.limits = Limits(
            heartbeat=message["heartbeat_ms"] / 1000,
            resume=message.get("resume_ms", 0) / 1000,
            max_message=message.get("max_message", MAX_MESSAGE),
            max_calls=message.get("max_calls", Limits.max_calls),
        )
        had_session = self._sent > 0 or self._received > 0
        resumed = message.get("resumed") is True
        if resumed:
            self._resume(message["received"])
        else:
            self._begin()
            can_resume = "resume" in message.get("features", [])
            self._identity = (message["session"], message["secret"]) if can_resume else None
        self.is_open = True
        if self.window == 0:
            self.set_window(0)
        return [Welcomed(resumed, lost=had_session and not resumed)]

    def _resume(self, received: int) -> None:
        if self._identity is None or received < self._forgotten:
            raise ProtocolError("the server resumed a session that cannot be resumed")
        self._acknowledge(received)
        self._output.extend(self._finish(kept) for kept in self._kept)

    def _take_request(self, message: JsonObject) -> list[Event]:
        request = Request.from_wire(message, self.number)
        if request.id in self._in_flight:
            raise ProtocolError(f"a second request {request.id}")
        self._in_flight[request.id] = request
        return [Requested(request)]

    def _take_cancel(self, message: JsonObject) -> list[Event]:
        return [Cancelled(message["id"], message.get("reason", ""))]

    def _take_reply(self, message: JsonObject) -> list[Event]:
        return [Replied(message["id"], message["status"], message.get("body"))]

    def _take_registered(self, message: JsonObject) -> list[Event]:
        points, problems = message.get("points") or {}, message.get("problems") or []
        return [Registered(message["ok"] is True, points, problems)]

    def _take_drain(self, message: JsonObject) -> list[Event]:
        workers = message.get("workers")
        workers = workers if isinstance(workers, int) else None
        return [Draining(message.get("reason", ""), message.get("reconnect") is True, workers)]


def _complaint(error: Any, why: str) -> JsonObject:
    """Returns what is answered when an answer cannot be sent.

    An error keeps its code and message; its info is replaced by the reason, for developers.
    """
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(error, dict) and isinstance(code, int) and abs(code) <= MAX_CODE:
        message = str(error.get("message"))[:MAX_COMPLAINT_CHARS]
        info = {"trace": f"its info cannot be sent: {why}"}
        return {"code": code, "message": message, "info": info}
        # The client did nothing wrong, so the code must not say so.
    return {"code": int(Code.UnexpectedError), "message": why}


_READERS: dict[str, Callable[[Session, Any], list[Event]]] = {
    "request": Session._take_request,
    "cancel": Session._take_cancel,
    "reply": Session._take_reply,
    "registered": Session._take_registered,
    "ready": lambda _, message: [StateChanged(message.get("state", ""))],
    "drain": Session._take_drain,
    "drained": lambda _, message: [Drained()],
    "warning": lambda _, message: [Noted(f"the server warns: {message.get('message')}")],
}
