"""Calls to the server that wait for their replies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from .context import Running
from .errors import CallTimeout, ConnectionLost
from .messages import Replied

# A reply may be on its way when a call's time is over, because the server enforces the limit, too.
REPLY_GRACE = 5.0


@dataclass(frozen=True)
class Reply:
    """The server's answer to a call."""

    status: int
    body: Any


class Calls:
    """The calls that wait for a reply."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    async def wait(self, call_id: str, until: float, running: Running | None) -> Reply:
        """Waits for a reply, at most until `until`, or until the call's request is cancelled."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = future
        if running is not None:
            running.calls.add(future)
        try:
            return await asyncio.wait_for(future, max(0.0, until - time.monotonic()) + REPLY_GRACE)
        except asyncio.TimeoutError:
            raise CallTimeout() from None
        finally:
            if running is not None:
                running.calls.discard(future)

    def take(self, reply: Replied) -> None:
        """Passes on a reply, if anybody still waits for it."""
        future = self._waiting.pop(reply.call_id, None)
        if future is not None and not future.done():
            future.set_result(Reply(reply.status, reply.body))

    def forget(self, call_id: str) -> bool:
        """Stops waiting; returns whether the reply had not arrived yet."""
        return self._waiting.pop(call_id, None) is not None

    def fail(self) -> None:
        """Ends the waiting for replies that will not arrive."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionLost())
