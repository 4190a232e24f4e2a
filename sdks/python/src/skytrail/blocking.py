"""The API for functions that are not async: the same calls; the thread waits for each."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from ._json import JsonObject
from .context import current_request
from .errors import LOST, CallTimeout, ConnectionLost

if TYPE_CHECKING:
    from .api import Api, Line, Records
    from .history import Moment, Version
    from .record import Record
    from .values import RecordID, Reference

T = TypeVar("T")


class BlockingApi:
    """`plugin.api.blocking`: for functions that run in threads, never for async ones."""

    def __init__(self, api: Api, line: Line) -> None:
        self._api, self._line = api, line

    def as_user(self, user_id: str) -> BlockingApi:
        """Returns an API that acts as a user."""
        return BlockingApi(self._api.as_user(user_id), self._line)

    def with_rights_of(self, user_id: str) -> BlockingApi:
        """Returns an API that acts as a user and may do only what that user may."""
        return BlockingApi(self._api.with_rights_of(user_id), self._line)

    def send_action(
        self, action: str, payload: JsonObject | None = None, *, timeout: float | None = None
    ) -> Any:
        """Runs any action by its name and returns its result. Raises `ApiError`."""
        return self._wait(self._api.send_action(action, payload, timeout=timeout))

    def lambda_(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a lambda."""
        return self._wait(self._api.lambda_(name, *args, **kwargs))

    def save(self, record: Record, **options: Any) -> Record:
        """Saves a record."""
        return self._wait(self._api.save(record, **options))

    def fetch(self, id: RecordID | Reference | str, **options: Any) -> Record:
        """Fetches a record."""
        return self._wait(self._api.fetch(id, **options))

    def query(self, record_type: str, where: Any = None, **options: Any) -> Records:
        """Finds records."""
        return self._wait(self._api.query(record_type, where, **options))

    def history(
        self, id: Record | RecordID | Reference | str, *, page: int = 50, **options: Any
    ) -> Iterator[Version]:
        """Iterates over a record's versions, newest first, one page at a time."""
        while True:
            call = self._api.history_page(id, limit=page, **options)
            versions, following = self._wait(call)
            yield from versions
            if following is None:
                return
            options["until"] = following

    def restore(
        self, id: Record | RecordID | Reference | str, as_of: Moment | Version
    ) -> Record:
        """Saves a record as it was, as a new version."""
        return self._wait(self._api.restore(id, as_of))

    def delete(self, id: Record | RecordID | Reference | str, **options: Any) -> None:
        """Deletes a record."""
        self._wait(self._api.delete(id, **options))

    def publish(self, channels: str | Iterable[str], data: Any) -> None:
        """Publishes to a channel, or to several at once."""
        self._wait(self._api.publish(channels, data))

    def push_to_users(
        self, users: Iterable[str], notification: JsonObject, *, topic: str | None = None
    ) -> None:
        """Sends a notification to all devices of users, or only to those with a topic."""
        self._wait(self._api.push_to_users(users, notification, topic=topic))

    def push_to_devices(
        self, devices: Iterable[str], notification: JsonObject, *, topic: str | None = None
    ) -> list[str]:
        """Like `push_to_users`, for devices. Returns the ids of those that exist."""
        return self._wait(self._api.push_to_devices(devices, notification, topic=topic))

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        loop = self._line.loop
        if loop is None or loop.is_closed():
            call.close()
            raise ConnectionLost("the plugin is not running; nothing was sent")
        if loop is _running_loop():
            call.close()
            raise RuntimeError("async functions must await `api`; `api.blocking` blocks the plugin")
        try:
            return asyncio.run_coroutine_threadsafe(call, loop).result()
        except concurrent.futures.CancelledError:
            running = current_request()
            if running is not None and running.cancel_reason == LOST:
                raise ConnectionLost() from None
            raise CallTimeout("cancelled; the action may have happened") from None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
