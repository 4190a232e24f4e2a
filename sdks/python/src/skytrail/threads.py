"""Threads for functions that are not async.

The pool never makes a job wait for a thread. The server limits how many requests run, and a nested
request that waited for a thread would wait for the request that waits for it. The threads are
daemons, so a function that hangs does not keep the process from exiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

# How long an idle thread waits for its next job before it ends.
IDLE_SECONDS = 10.0

_Job = Callable[[], None]


class Threads:
    """A pool that starts threads on demand and ends idle ones after a while."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._num_idle = 0

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Runs a function in a thread, with the caller's context variables."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = copy_context()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def job() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = context.run(function, *args, **kwargs)
            except StopIteration as stopped:
                # A future cannot hold a `StopIteration`.
                error = RuntimeError(f"the function raised {stopped!r}")
            except BaseException as raised:
                error = raised
            # A closed loop no longer waits for anything.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, result, error)

        self._submit(job)
        return await future

    def _submit(self, job: _Job) -> None:
        with self._lock:
            is_taken = self._num_idle > 0
            if is_taken:
                self._num_idle -= 1
        self._jobs.put(job)
        if not is_taken:
            threading.Thread(target=self._work, daemon=True, name="skytrail function").start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._num_idle == 0:
                        # A job has just been promised to this thread.
                        continue
                    self._num_idle -= 1
                return
            job()
            del job
            with self._lock:
                self._num_idle += 1
