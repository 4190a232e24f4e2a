"""A plugin: the functions that decorators register, and what is needed to run it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

from . import static
from ._json import JsonObject
from .api import Api, Caller, Line
from .connection import Options, Position
from .context import Running
from .dispatch import Dispatcher
from .points import METHODS, CatchUp, Points, Trigger
from .process import run_until_signal
from .providers import AuthProvider
from .worker import Refused, Worker

F = TypeVar("F", bound=Callable[..., Any])
P = TypeVar("P", bound=type[AuthProvider])

log = logging.getLogger("skytrail")

# What the server's own setting may not go below.
MIN_MESSAGE = 1024
# The server's names for levels, so that both can have the same environment.
LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.CRITICAL,
    "PANIC": logging.CRITICAL,
    "OFF": logging.CRITICAL + 1,
}


class Plugin:
    """A plugin: what it does, and the server that it does it for.

    Settings that are not given are read from the environment: `PLUGIN_NAME`, `SKYGEAR_ENDPOINT`,
    `MASTER_KEY`, `PLUGIN_WINDOW`, `PLUGIN_GENERATION`, `PLUGIN_MAX_MESSAGE`.

    Async functions run in the event loop, the others in threads.
    Deliveries start after `position`, for a plugin that stores the position together with its
    effects. A number counts once, when the process starts; a function (async, or run in a thread)
    is called whenever the plugin connects.
    When the plugin is told to stop, running requests may take `drain_seconds` to finish.
    Most decorators take `timeout`, in seconds, after which nobody waits for the answer any more.
    `idempotent` allows the server to send a request to another worker when the first one died
    while working on it.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        endpoint: str | None = None,
        master_key: str | None = None,
        window: int | None = None,
        generation: int | None = None,
        max_message: int | None = None,
        position: Position | None = None,
        drain_seconds: float = Options.drain_seconds,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self.master_key = master_key
        self.window = window
        self.generation = generation
        self.max_message = max_message
        self.position = position
        self.drain_seconds = drain_seconds
        self.points = Points()
        self.assets = static.StaticAssets(self.points.assets)
        self.worker: Worker | None = None
        self._line = Line()
        self.api = Api(self._line)
        self._dispatcher = Dispatcher(self.points)

    # -- what the plugin offers ----------------------------------------------

    def op(
        self,
        name: str,
        *,
        key_required: bool = False,
        user_required: bool = False,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Callable[[F], F]:
        """Registers a lambda: an action of the plugin, called with the client's arguments."""
        entry = {"key_required": key_required, "user_required": user_required}
        entry |= _policy(timeout, idempotent)
        return _register(lambda call: self.points.add_op(name, call, entry))

    lambda_ = op

    def handler(
        self,
        path: str,
        method: str | Iterable[str] = METHODS,
        *,
        key_required: bool = False,
        user_required: bool = False,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Callable[[F], F]:
        """`(request)`: answers HTTP requests to a path; one that ends in `/` also takes all below.

        Returns a string, a `Response`, or anything else, which becomes JSON.
        """
        methods = [method] if isinstance(method, str) else list(method)
        entry = {"key_required": key_required, "user_required": user_required}
        entry |= _policy(timeout, idempotent)
        return _register(lambda call: self.points.add_handler(path, methods, call, entry))

    def before_save(
        self,
        record_type: str,
        *,
        async_: bool = False,
        name: str | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Callable[[F], F]:
        """`(record, original)`: can change the record before it is saved, or reject it by raising.

        With `async_` nobody waits for it, and its changes have no effect.
        """
        entry = {"async": async_, **_policy(timeout, idempotent)}
        return self._hook("beforeSave", record_type, name, entry)

    def after_save(
        self,
        record_type: str,
        *,
        async_: bool = False,
        name: str | None = None,
        timeout: float | None = None,
        catch_up: CatchUp = "all",
    ) -> Callable[[F], F]:
        """`(record, original)`: receives every saved record at least once, also after an absence.

        A parameter `delivery` receives the event's id and attempt. `catch_up` says what the hook
        receives after an absence: all events, the latest of each record, or none.
        """
        entry = {"async": async_, "catch_up": catch_up, **_policy(timeout, False)}
        return self._hook("afterSave", record_type, name, entry)

    def before_delete(
        self,
        record_type: str,
        *,
        async_: bool = False,
        name: str | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Callable[[F], F]:
        """`(record)`: can reject the deletion by raising."""
        entry = {"async": async_, **_policy(timeout, idempotent)}
        return self._hook("beforeDelete", record_type, name, entry)

    def after_delete(
        self,
        record_type: str,
        *,
        async_: bool = False,
        name: str | None = None,
        timeout: float | None = None,
        catch_up: CatchUp = "all",
    ) -> Callable[[F], F]:
        """`(record)`: receives every deleted record; otherwise like `after_save`."""
        entry = {"async": async_, "catch_up": catch_up, **_policy(timeout, False)}
        return self._hook("afterDelete", record_type, name, entry)

    def _hook(
        self, trigger: Trigger, record_type: str, name: str | None, entry: JsonObject
    ) -> Callable[[F], F]:
        return _register(lambda call: self.points.add_hook(name, trigger, record_type, call, entry))

    def every(
        self,
        interval: str | float | timedelta,
        name: str | None = None,
        *,
        timeout: float | None = None,
        time_zone: str | None = None,
        overlap: bool = False,
    ) -> Callable[[F], F]:
        """`()`: runs at an interval in seconds, or by a spec: `@hourly`, `0 30 8 * * MON-FRI`.

        The spec is read in `time_zone`, or in the server's zone by default. Times that fall due
        during a run are skipped, unless runs may overlap.
        """
        entry = _policy(timeout, False)
        if time_zone is not None:
            entry["time_zone"] = time_zone
        if overlap:
            entry["overlap"] = "allow"
        return _register(lambda call: self.points.add_timer(name, interval, call, entry))

    def provides(
        self, kind: str, provider_id: str, *, timeout: float | None = None
    ) -> Callable[[P], P]:
        """Registers a class that authenticates users; the kind is `auth`."""
        if kind != "auth":
            raise ValueError(f"providers are of kind 'auth', not {kind!r}")

        def register(provider: P) -> P:
            self.points.add_provider(provider_id, provider(), _policy(timeout, False))
            return provider

        return register

    def event(self, name: str) -> Callable[[F], F]:
        """Receives an event: `init`, `server-ready`, … with `config`; `schema-changed`.

        A function receives those members of the event that it has parameters for.
        """
        return _register(lambda call: self.points.add_event(name, call))

    def static_assets(self, prefix: str) -> Callable[[F], F]:
        """`()`: returns a folder whose files are served below `/static/<prefix>/`."""

        def register(call: F) -> F:
            if not self.assets.loaders:
                self.points.add_handler(static.HANDLER, ["GET"], self.assets.serve, {})
            self.assets.add(prefix, call)
            return call

        return register

    # -- running -------------------------------------------------------------

    async def answer(self, running: Running) -> Any:
        """Answers a request; for workers and tests."""
        return await self._dispatcher.answer(running)

    def connect_to(self, caller: Caller | None) -> None:
        """Sets where calls of `api` go; for workers and tests, from within the loop."""
        self._line.caller = caller
        self._line.loop = None if caller is None else asyncio.get_running_loop()

    def options(self) -> Options:
        """Returns the settings of a worker: the given ones, then those of the environment."""
        name = self.name or os.environ.get("PLUGIN_NAME")
        if not name:
            raise ValueError("the plugin has no name: Plugin('NAME'), --name, or PLUGIN_NAME")
        return Options(
            plugin=name,
            endpoint=self.endpoint or os.environ.get("SKYGEAR_ENDPOINT") or Options.endpoint,
            master_key=self.master_key or os.environ.get("MASTER_KEY", ""),
            # A worker that takes nothing would never answer; `Worker.set_window(0)` is for pauses.
            window=_number(self.window, "PLUGIN_WINDOW", Options.window, 1),
            generation=_number(self.generation, "PLUGIN_GENERATION", Options.generation, 0),
            max_message=_number(
                self.max_message, "PLUGIN_MAX_MESSAGE", Options.max_message, MIN_MESSAGE
            ),
            position=self.position,
            drain_seconds=_seconds(self.drain_seconds, "drain_seconds"),
        )

    async def serve(self) -> None:
        """Serves until `stop`; reconnects whenever the connection breaks."""
        self.worker = Worker(self, self.options())
        self.connect_to(self.worker)
        try:
            await self.worker.serve()
        finally:
            self.connect_to(None)

    def stop(self) -> None:
        """Finishes what is in flight, then ends `serve`."""
        if self.worker is not None:
            self.worker.stop()

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then finishes what is in flight.

        Functions that ignore their cancellation get some seconds; then the process exits.
        """
        if not logging.getLogger().handlers:
            level = log_level(os.environ.get("LOG_LEVEL"), "LOG_LEVEL")
            logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
        try:
            run_until_signal(self.serve, self.stop)
        except Refused as refused:
            raise SystemExit(f"the server refuses this plugin: {refused}") from None


def _register(add: Callable[[Callable[..., Any]], None]) -> Callable[[F], F]:
    def register(function: F) -> F:
        add(function)
        return function

    return register


def _policy(timeout: float | None, idempotent: bool) -> JsonObject:
    entry: JsonObject = {}
    if timeout is not None:
        if timeout <= 0:
            raise ValueError(f"a timeout should be above 0, not {timeout}")
        entry["timeout_ms"] = max(1, round(timeout * 1000))
    if idempotent:
        entry["idempotent"] = True
    return entry


def _number(given: int | None, variable: str, default: int, least: int) -> int:
    if given is None:
        text = os.environ.get(variable) or str(default)
        name, number = variable, int(text) if text.lstrip("-").isdecimal() else None
    else:
        text, name, number = str(given), variable.removeprefix("PLUGIN_").lower(), given
    if number is None or number < least:
        raise ValueError(f"{name} should be a whole number of at least {least}, not {text}")
    return number


def _seconds(given: float, name: str) -> float:
    if not 0 <= given < math.inf:
        raise ValueError(f"{name} should be a number of seconds, at least 0, not {given}")
    return given


def log_level(text: str | None, name: str) -> int:
    """Returns the level of a setting. Raises `ValueError` for a name that means none.

    Of a filter for the server (`info,skytrail::http=debug`) the part for everything counts, the
    last if there are several. What is about modules (`=`, `::`) or spans (`[`) is not for plugins.
    """
    parts = [part.strip() for part in (text or "").split(",")]
    words = [part.upper() for part in parts if part and not re.search(r"=|::|\[", part)]
    if any(word not in LEVELS for word in words):
        raise ValueError(f"{name} should be DEBUG, INFO, WARNING, ERROR or OFF, not {text}")
    return LEVELS[words[-1] if words else "INFO"]
