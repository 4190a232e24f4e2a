"""The server's side of the protocol, in memory; it does what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close

from skytrail.connection import Options, Socket
from skytrail.worker import Service, Worker

PATIENCE = 10.0
WELCOME: dict[str, Any] = {
    "type": "welcome",
    "session": "s-1",
    "secret": "secret",
    "resumed": False,
    "heartbeat_ms": 10_000,
    "resume_ms": 15_000,
    "max_message": 8 << 20,
    "features": ["resume"],
}


class StandIn:
    """A server to which one worker connects repeatedly."""

    def __init__(self) -> None:
        self.sockets: asyncio.Queue[StandInSocket] = asyncio.Queue()
        self.refusals: list[Exception] = []

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Socket]:
        if self.refusals:
            raise self.refusals.pop(0)
        socket = StandInSocket()
        self.sockets.put_nowait(socket)
        yield socket

    async def accept(self) -> StandInSocket:
        return await asyncio.wait_for(self.sockets.get(), PATIENCE)


class StandInSocket(Socket):
    """One connection: the worker uses `send` and `recv`, the test uses the rest."""

    def __init__(self) -> None:
        self._from_worker: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._to_worker: asyncio.Queue[str | bytes | ConnectionClosed] = asyncio.Queue()
        self.seq = 0
        self.close_code: int | None = None

    async def send(self, text: str, /) -> None:
        self._from_worker.put_nowait(json.loads(text))

    async def recv(self) -> str | bytes:
        frame = await self._to_worker.get()
        if isinstance(frame, ConnectionClosed):
            raise frame
        return frame

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self.close_code is None:
            self.close_code = code
            self._from_worker.put_nowait({"type": "(close)", "code": code, "reason": reason})

    # -- the server ----------------------------------------------------------

    def tell(self, message_type: str, /, **members: Any) -> None:
        """Sends a numbered message."""
        self.seq += 1
        self.tell_raw({"type": message_type, "seq": self.seq, **members})

    def tell_raw(self, message: dict[str, Any] | str | bytes) -> None:
        text = json.dumps(message) if isinstance(message, dict) else message
        self._to_worker.put_nowait(text)

    def hang_up(self, code: int | None = None, reason: str = "") -> None:
        """Ends the connection, with a close frame or without."""
        close = None if code is None else Close(code, reason)
        self._to_worker.put_nowait(ConnectionClosedError(close, None))

    async def expect_any(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._from_worker.get(), PATIENCE)

    async def expect(self, kind: str) -> dict[str, Any]:
        message = await self.expect_any()
        assert message["type"] == kind, f"expected {kind}, saw {message}"
        return message

    async def settle(self) -> None:
        """Waits until the worker has received everything that was sent to it."""
        self.tell_raw({"type": "ping"})
        await self.expect("pong")

    async def welcome(self, **members: Any) -> dict[str, Any]:
        """Receives the hello; returns it."""
        hello = await self.expect("hello")
        self.tell_raw({**WELCOME, **members})
        return hello

    def ask(self, id: str, kind: str, name: str, param: Any = None, **members: Any) -> None:
        self.tell("request", **{"id": id, "kind": kind, "name": name, "param": param, **members})

    async def answer_to(self, id: str) -> dict[str, Any]:
        answer = await self.expect("response")
        assert answer["id"] == id, answer
        return answer


class Serving:
    """A worker that serves while the test talks to it."""

    def __init__(self, service: Service, **options: Any) -> None:
        self.server = StandIn()
        self.worker = Worker(service, Options("TEST", **options), connect=self.server.connect)
        # Quick, and the same in every run.
        self.worker._backoff.pause = lambda ending: 0.0  # type: ignore[method-assign]

    async def __aenter__(self) -> Serving:
        self.task = asyncio.create_task(self.worker.serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
