"""Calls to the server that wait for their replies."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
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


class Turns:
    """Lets as many calls be under way as the server allows; the others of a level wait in order.

    A call can wait for a hook of this plugin, whose own calls are one level deeper. If the outer
    ones took every place, all would wait for ever: each level leaves half of what remains to the
    deeper ones. Calls outside of requests are level 0, and alone there: the server does not say
    which requests they cause.
    """

    def __init__(self, max_calls: int) -> None:
        self._max = max_calls
        self._num_taken = 0
        # By level. Taking the first of a plain dict passes over all that were removed before it.
        self._waiting: defaultdict[int, OrderedDict[asyncio.Future[None], None]]
        self._waiting = defaultdict(OrderedDict)

    @property
    def max_calls(self) -> int:
        return self._max

    @max_calls.setter
    def max_calls(self, number: int) -> None:
        self._max = number
        self._admit()

    async def take(self, level: int, until: float, running: Running | None) -> None:
        """Takes a place, at a time at the latest, or until its request is cancelled.

        Raises `CallTimeout`.
        """
        if self._try_take(level):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[level][future] = None
        if running is not None:
            running.calls.add(future)
        try:
            if not await is_done(future, until - time.monotonic()):
                bound = f"{self._max}, PLUGIN_MAX_CALLS"
                raise CallTimeout(f"too many calls at once: {bound}; nothing was sent")
            future.result()
        except asyncio.CancelledError:
            # The place may have come in the same turn of the loop.
            if has_result(future):
                self.end()
            raise
        finally:
            self._waiting[level].pop(future, None)
            if running is not None:
                running.calls.discard(future)

    def end(self) -> None:
        """Gives a place back."""
        self._num_taken -= 1
        self._admit()

    def _try_take(self, level: int) -> bool:
        is_free = self._num_taken < self._max - (self._max >> (level + 1))
        self._num_taken += is_free
        return is_free

    def _admit(self) -> None:
        # The deepest first: where it finds no place, those above find none either.
        for level in sorted(self._waiting, reverse=True):
            waiting = self._waiting[level]
            while waiting:
                future = next(iter(waiting))
                if not future.done():
                    if not self._try_take(level):
                        return
                    future.set_result(None)
                del waiting[future]


async def is_done(future: asyncio.Future[Any], seconds: float) -> bool:
    """Waits for a future, at most so long; returns whether it is done.

    `asyncio.wait_for` is wrong when two things happen in one turn of the loop: up to Python 3.11
    it swallows a cancellation that comes with the result; later it loses a result that comes as
    the time ends.
    """
    await asyncio.wait([future], timeout=max(0.0, seconds))
    return future.done()


def has_result(future: asyncio.Future[Any]) -> bool:
    """Returns whether a future is done and was not cancelled."""
    return future.done() and not future.cancelled()


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
            if not await is_done(future, max(0.0, until - time.monotonic()) + REPLY_GRACE):
                raise CallTimeout()
            return future.result()
        finally:
            if has_result(future):
                # After a cancellation nobody else reads a failure, and asyncio would report that.
                future.exception()
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
