"""The extension points of a plugin: the answer to `init`, and the functions behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from ._json import JsonObject
from .functions import Function
from .providers import AuthProvider

Trigger = Literal["beforeSave", "afterSave", "beforeDelete", "afterDelete"]
CatchUp = Literal["all", "latest", "none"]

METHODS = ("GET", "POST", "PUT")


@dataclass
class Hook:
    """A function that runs before or after records of a type are saved or deleted."""

    function: Function
    trigger: Trigger
    takes_original: bool

    def arguments(self, record: Any, original: Any) -> tuple[Any, ...]:
        return (record, original) if self.takes_original else (record,)


@dataclass
class Points:
    """Everything that was registered, by name."""

    ops: dict[str, Function] = field(default_factory=dict)
    handlers: dict[tuple[str, str], Function] = field(default_factory=dict)
    hooks: dict[str, Hook] = field(default_factory=dict)
    timers: dict[str, Function] = field(default_factory=dict)
    providers: dict[str, AuthProvider] = field(default_factory=dict)
    events: dict[str, list[Function]] = field(default_factory=dict)
    entries: dict[str, list[JsonObject]] = field(default_factory=dict)
    assets: dict[str, Any] = field(default_factory=dict)
    _before: list[dict[Any, Any]] | None = None
    _is_starting: bool = False

    def note_event(self, name: str) -> None:
        """Restores the points from before the first start when another start begins.

        Functions for `init` add theirs at every start of the server.
        """
        is_start = name == "before-config" or (name == "init" and not self._is_starting)
        self._is_starting = name == "before-config"
        if not is_start:
            return
        tables: list[dict[Any, Any]] = [self.ops, self.handlers, self.hooks, self.timers]
        tables += [self.providers, self.events, self.entries, self.assets]
        if self._before is None:
            self._before = [_copy(table) for table in tables]
        for table, before in zip(tables, self._before, strict=True):
            table.clear()
            table.update(_copy(before))

    def registration(self) -> JsonObject:
        """Returns what is sent to the server: every list, including those without points."""
        lists = ("op", "handler", "hook", "timer", "provider")
        events = [{"name": name} for name in self.events]
        return {**{name: list(self.entries.get(name, [])) for name in lists}, "event": events}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was registered."""
        return not any(self.registration().values())

    def add_op(self, name: str, call: Callable[..., Any], entry: JsonObject) -> None:
        _refuse_second("lambda", name, self.ops)
        self.ops[name] = Function(call)
        self._enter("op", {"name": name, **entry})

    def add_handler(
        self, name: str, methods: Iterable[str], call: Callable[..., Any], entry: JsonObject
    ) -> None:
        function = Function(call)
        methods = [method.upper() for method in methods]
        for method in methods:
            _refuse_second("handler", (name, method), self.handlers)
            self.handlers[name, method] = function
        self._enter("handler", {"name": name, "methods": methods, **entry})

    def add_hook(
        self,
        name: str | None,
        trigger: Trigger,
        record_type: str,
        call: Callable[..., Any],
        entry: JsonObject,
    ) -> None:
        function = Function(call)
        if "db" in function.signature.parameters:
            message = "hooks get no database connection; take (record, original) and use `api`"
            raise TypeError(f"{function.name}: {message}")
        if function.num_positional == 0 or function.num_required > 2:
            raise TypeError(f"{function.name}: a hook takes (record) or (record, original)")
        # The server keeps deliveries under this name while the plugin is away, so it must not
        # depend on how the plugin is started: it does not contain the module's name.
        name = name or f"{record_type}.{trigger}.{function.name}"
        _refuse_second("hook", name, self.hooks)
        takes_original = function.num_positional is None or function.num_positional > 1
        self.hooks[name] = Hook(function, trigger, takes_original)
        self._enter("hook", {"name": name, "type": record_type, "trigger": trigger, **entry})

    def add_timer(
        self,
        name: str | None,
        interval: str | float | timedelta,
        call: Callable[..., Any],
        entry: JsonObject,
    ) -> None:
        function = Function(call)
        name = name or function.name
        _refuse_second("timer", name, self.timers)
        self.timers[name] = function
        self._enter("timer", {"name": name, "spec": timer_spec(interval), **entry})

    def add_provider(self, provider_id: str, provider: AuthProvider, entry: JsonObject) -> None:
        _refuse_second("auth provider", provider_id, self.providers)
        self.providers[provider_id] = provider
        identity = {"type": "auth", "id": provider_id, "name": provider_id}
        self._enter("provider", {**identity, **entry})

    def add_event(self, name: str, call: Callable[..., Any]) -> None:
        self.events.setdefault(name, []).append(Function(call))

    def _enter(self, kind: str, entry: JsonObject) -> None:
        self.entries.setdefault(kind, []).append(entry)


def timer_spec(interval: str | float | timedelta) -> str:
    """Returns a timer's spec in the server's syntax."""
    if isinstance(interval, str):
        return interval
    seconds = interval.total_seconds() if isinstance(interval, timedelta) else interval
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"a timer takes a number of seconds or a spec, not {interval!r}")
    if seconds < 1:
        raise ValueError(f"a timer can run once a second at most, not every {interval!r}")
    return f"@every {seconds:g}s" if seconds < 1_000_000 else f"@every {int(seconds)}s"


def _copy(table: dict[Any, Any]) -> dict[Any, Any]:
    return {name: list(it) if isinstance(it, list) else it for name, it in table.items()}


def _refuse_second(kind: str, name: Any, known: Iterable[Any]) -> None:
    if name in known:
        raise ValueError(f"there is already a {kind} {name!r}; give this one another name")
