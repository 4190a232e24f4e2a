"""Runs a plugin in tests, without a server.

    tester = PluginTester(plugin)
    tester.on_action("record:query", [Record("note/1", title="hi")])

    await tester.start()
    assert await tester.lambda_("note:titles", user_id="u1") == ["hi"]
    saved = await tester.before_save(Record("note/2", title=" trim me "))

Everything is converted to JSON and back, as on its way to a server. The calls that the plugin makes
are kept in `calls`, and the test sets their answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from . import _json
from ._json import JsonObject
from .api import Caller
from .calls import Reply
from .context import Running, enter
from .errors import ApiError, SkygearException, UndefinedOperation, to_wire
from .messages import Delivery
from .messages import Request as Asked
from .plugin import Plugin
from .record import Record
from .values import decode, encode
from .web import Headers, Request, Response

Answer = Any | Callable[[JsonObject], Any]


class PluginTester(Caller):
    """Stands in for the server. See the module's description."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.calls: list[JsonObject] = []
        """The payloads of the calls that the plugin made, with typed values decoded."""
        self.published: list[tuple[list[str], Any]] = []
        """What the plugin published: channels and data."""
        self.num_progress = 0
        """How often the plugin reported progress on a delivery."""
        self._answers: dict[str, Answer] = {}
        self._num_requests = 0

    # -- the server that the plugin sees -------------------------------------

    def on_action(self, action: str, answer: Answer) -> None:
        """Sets the answer to an action.

        It is a result, an exception to raise, or a function of the payload that returns either.
        Records can be used where the server would send them.
        """
        self._answers[action] = answer

    async def call(self, payload: JsonObject, timeout: float | None = None) -> Reply:
        """Answers a call of the plugin."""
        seen = decode(_travel(payload))
        self.calls.append(seen)
        action = seen["action"]
        if action == "pubsub:publish":
            self.published.append((seen["channels"], seen["data"]))
            return Reply(200, {})
        if action not in self._answers:
            error = SkygearException(f"the test has no answer to {action}", UndefinedOperation)
            return Reply(404, {"error": error.as_dict()})
        answer = self._answers[action]
        try:
            returned = answer(seen) if callable(answer) else answer
            if isinstance(returned, Exception):
                raise returned
            return Reply(200, {"result": _travel(_with_records(returned))})
        except SkygearException as error:
            return Reply(getattr(error, "status", 400), {"error": error.as_dict()})

    # -- what the server asks ------------------------------------------------

    async def start(self, config: Mapping[str, Any] | None = None) -> JsonObject:
        """Sends the events of a start; returns the points as the server receives them."""
        param = {"config": dict(config or {"app": {"name": "test"}})}
        await self.event("before-config", param)
        registration = await self.event("init", param)
        for name in ("after-config", "before-plugins-ready", "after-plugins-ready", "server-ready"):
            await self.event(name, param)
        assert isinstance(registration, dict)
        return registration

    async def event(self, name: str, param: Mapping[str, Any] | None = None) -> Any:
        """Sends an event."""
        return await self.ask("event", name, dict(param or {}))

    async def lambda_(self, name: str, /, *args: Any, user_id: str | None = None, **kw: Any) -> Any:
        """Calls a lambda with a list or with named arguments."""
        param: JsonObject = {"action": name}
        if args or kw:
            param["args"] = encode(kw or list(args))
        return decode(await self.ask("op", name, param, user_id=user_id))

    async def request(
        self,
        method: str,
        url: str,
        data: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        user_id: str | None = None,
    ) -> Response:
        """Sends an HTTP request to the handler of its path."""
        parts = urlsplit(url)
        # Handlers get the path decoded.
        path = unquote(parts.path)
        body = data.encode() if isinstance(data, str) else data
        request = Request(method, path, parts.query, Headers(headers), body)
        name = self._handler(path, method)
        answer = await self.ask("handler", name, request.to_wire(), user_id=user_id)
        return Response.from_wire(answer)

    async def before_save(
        self, record: Record, original: Record | None = None, *, user_id: str | None = None
    ) -> Record:
        """Runs the hooks that run before a save; returns what would be stored."""
        return await self._hooks("beforeSave", record, original, user_id, None)

    async def after_save(
        self,
        record: Record,
        original: Record | None = None,
        *,
        user_id: str | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        """Runs the hooks that run after a save."""
        delivery = delivery or self._delivery()
        await self._hooks("afterSave", record, original, user_id, delivery)

    async def before_delete(self, record: Record, *, user_id: str | None = None) -> None:
        """Runs the hooks that run before a deletion."""
        await self._hooks("beforeDelete", record, None, user_id, None)

    async def after_delete(
        self, record: Record, *, user_id: str | None = None, delivery: Delivery | None = None
    ) -> None:
        """Runs the hooks that run after a deletion."""
        delivery = delivery or self._delivery()
        await self._hooks("afterDelete", record, None, user_id, delivery)

    async def run_timer(self, name: str) -> None:
        """Runs a timer now."""
        await self.ask("timer", name, None)

    async def provider(self, provider_id: str, action: str, auth_data: Any) -> JsonObject:
        """Asks an auth provider; `action` is `login`, `logout`, or `info`."""
        param = {"action": action, "auth_data": encode(auth_data)}
        result = await self.ask("provider", provider_id, param)
        assert isinstance(result, dict)
        return result

    async def login(self, provider_id: str, auth_data: Any) -> JsonObject:
        """Asks an auth provider who a user is."""
        return await self.provider(provider_id, "login", auth_data)

    async def ask(
        self,
        kind: str,
        name: str,
        param: Any,
        *,
        user_id: str | None = None,
        timeout: float | None = 30.0,
        delivery: Delivery | None = None,
    ) -> Any:
        """Sends any request; returns its result in JSON form, or raises `ApiError`."""
        self._num_requests += 1
        context = {"user_id": user_id, "access_key_type": "client"} if user_id else {}
        request = Asked(
            f"r{self._num_requests}", kind, name, _travel(param), context, timeout, None, delivery
        )
        running = Running(request, self._count_progress)
        self.plugin.connect_to(self)
        task = running.task = asyncio.create_task(self._answer(running))
        try:
            return _travel(await asyncio.wait_for(task, timeout))
        except Exception as error:
            raise ApiError.from_wire(_travel(to_wire(error))) from error
        finally:
            running.is_finished = True

    async def _answer(self, running: Running) -> Any:
        enter(running)
        return await self.plugin.answer(running)

    def _count_progress(self) -> None:
        self.num_progress += 1

    def _delivery(self) -> Delivery:
        position = self._num_requests + 1
        return Delivery(id=f"{position}/test", position=position)

    async def _hooks(
        self,
        trigger: str,
        record: Record,
        original: Record | None,
        user_id: str | None,
        delivery: Delivery | None,
    ) -> Record:
        wire = _record_wire(record)
        before = None if original is None else _record_wire(original)
        for entry in self.plugin.points.registration()["hook"]:
            if (entry["trigger"], entry["type"]) == (trigger, record.id.type):
                param = {"record": wire, "original": before}
                name = entry["name"]
                answer = await self.ask("hook", name, param, user_id=user_id, delivery=delivery)
                wire = answer if trigger == "beforeSave" else wire
        return Record.from_wire(wire)

    def _handler(self, path: str, method: str) -> str:
        """Finds a handler as the server does: the exact path, or else the longest prefix of it."""
        names = {name for name, its_method in self.plugin.points.handlers if its_method == method}
        paths = {f"/{name.replace(':', '/').lstrip('/')}": name for name in names}
        fitting = [it for it in paths if path == it or (it.endswith("/") and path.startswith(it))]
        if not fitting:
            raise ApiError(f"no handler for {method} {path}", UndefinedOperation, {}, 404)
        return paths[max(fitting, key=len)]


def _travel(value: Any) -> Any:
    """Converts a value to JSON and back, as if it were sent."""
    return json.loads(_json.write(value))


def _record_wire(record: Record) -> JsonObject:
    return {"_type": "record", "_access": None, **record.to_wire()}


def _with_records(value: Any) -> Any:
    """Encodes a result; records and errors become their slots."""
    if isinstance(value, Record):
        return _record_wire(value)
    if isinstance(value, SkygearException):
        return {"_type": "error", **value.as_dict()}
    if isinstance(value, list | tuple):
        return [_with_records(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _with_records(item) for name, item in value.items()}
    return encode(value)
