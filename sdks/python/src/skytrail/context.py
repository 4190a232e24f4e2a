"""What a running function can know about the request that it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ._json import JsonObject
from .messages import Delivery, Request


class Running:
    """A request that is being answered.

    Functions get it from `current_request()`, in threads, too.
    """

    def __init__(self, request: Request, send_progress: Callable[[], None] | None = None) -> None:
        self.request = request
        self.is_cancelled = False
        """Nobody waits any more. Functions in threads cannot be stopped, and can check this."""
        self.cancel_reason = ""
        self.is_finished = False
        self.level = 0
        """The level of its calls: one deeper than the call that caused it, or 1."""
        # What a cancellation cancels, in this order: the calls that the request waits for, then
        # the task, unless its work is in a thread, which has to end by itself.
        self.calls: set[Any] = set()
        self.task: Any = None
        self.is_in_thread = False
        self._send_progress = send_progress
        self._deadline: float | None = None
        self.renew()

    @property
    def context(self) -> JsonObject:
        """Who caused the request: `user_id`, `access_key_type`, `request_id`, `request_tag`."""
        return self.request.context

    @property
    def user_id(self) -> str | None:
        """The user who caused the request."""
        return self.request.context.get("user_id")

    @property
    def delivery(self) -> Delivery | None:
        """The event of the log that is delivered, for after-hooks."""
        return self.request.delivery

    @property
    def seconds_left(self) -> float | None:
        """How many seconds remain for the answer; `None` means no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def progress(self) -> None:
        """Reports that a delivery is still being worked on; its limit starts anew."""
        if self.request.delivery is not None and self._send_progress is not None:
            self._send_progress()
            self.renew()

    def renew(self) -> None:
        """Starts the limit anew."""
        timeout = self.request.timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def cancel(self, reason: str) -> None:
        """Stops the work on the request as far as it can be stopped."""
        if self.is_cancelled or self.is_finished:
            return
        self.is_cancelled, self.cancel_reason = True, reason
        for call in list(self.calls):
            call.cancel()
        if self.task is not None and not self.is_in_thread:
            self.task.cancel()


_running: ContextVar[Running | None] = ContextVar("skytrail_request", default=None)


def current_request() -> Running | None:
    """Returns the request that the running function answers, if it answers one."""
    return _running.get()


def current_context() -> JsonObject:
    """Returns who caused the running request: `user_id`, `access_key_type`, …"""
    running = _running.get()
    return {} if running is None else running.context


def progress() -> None:
    """Reports that the running delivery is still being worked on."""
    running = _running.get()
    if running is not None:
        running.progress()


def enter(running: Running) -> None:
    """Makes a request the running one of this task."""
    _running.set(running)
