"""Finds the function for a request, calls it, and encodes what it returns."""

from __future__ import annotations

import logging
from typing import Any

from ._json import JsonObject
from .context import Running
from .errors import InvalidArgument, SkygearException, UndefinedOperation
from .functions import Function
from .points import Points
from .providers import run_provider
from .record import Record
from .threads import Threads
from .values import decode, encode
from .web import Request, Response

log = logging.getLogger("skytrail")


class Dispatcher:
    """Calls functions with a request's arguments, and encodes what they return."""

    def __init__(self, points: Points, threads: Threads | None = None) -> None:
        self.points = points
        self.threads = threads or Threads()

    async def answer(self, running: Running) -> Any:
        """Returns the result of a request, ready for JSON, or raises."""
        request = running.request
        name, param = request.name, request.param if request.param is not None else {}
        match request.kind:
            case "op":
                return await self._op(_find(self.points.ops, "lambda", name), param)
            case "handler":
                return await self._handler(name, param)
            case "hook":
                return await self._hook(name, param, running)
            case "timer":
                function = _find(self.points.timers, "timer", name)
                return encode(await function.run(self.threads))
            case "provider":
                provider = _find(self.points.providers, "auth provider", name)
                auth_data = decode(param.get("auth_data") or {})
                return await run_provider(provider, param["action"], auth_data, self.threads)
            case "event":
                return await self._event(name, param)
            case kind:
                raise SkygearException(f"unknown kind of request: {kind}", UndefinedOperation)

    async def _op(self, function: Function, param: JsonObject) -> Any:
        args, kwargs = _arguments(param)
        complaint = function.complaint(*args, **kwargs)
        if complaint is not None:
            raise SkygearException(complaint, InvalidArgument, {"arguments": ["args"]})
        return encode(await function.run(self.threads, *args, **kwargs))

    async def _handler(self, name: str, param: JsonObject) -> JsonObject:
        function = _find(self.points.handlers, "handler", (name, param["method"]))
        returned = await function.run(self.threads, Request.from_wire(param))
        return Response.of(returned).to_wire()

    async def _hook(self, name: str, param: JsonObject, running: Running) -> JsonObject:
        hook = _find(self.points.hooks, "hook", name)
        record = Record.from_wire(param["record"])
        original = param.get("original")
        arguments = hook.arguments(record, None if original is None else Record.from_wire(original))
        extra = {"delivery": running.delivery} if hook.function.takes_delivery else {}
        returned = await hook.function.run(self.threads, *arguments, **extra)
        if hook.trigger != "beforeSave" or returned is None:
            # What other hooks return has no effect, and the server expects the record.
            return record.to_wire()
        if not isinstance(returned, Record):
            raise TypeError(f"a before_save hook returns the record or nothing, not {returned!r}")
        return returned.to_wire()

    async def _event(self, name: str, param: JsonObject) -> Any:
        self.points.note_event(name)
        for function in self.points.events.get(name, []):
            await function.run(self.threads, **function.known_names(param))
        # Functions for `init` can add points.
        return self.points.registration() if name == "init" else None


def _find(known: dict[Any, Any], kind: str, name: Any) -> Any:
    if name not in known:
        raise SkygearException(f"this plugin has no {kind} {name!r}", UndefinedOperation)
    return known[name]


def _arguments(param: JsonObject) -> tuple[list[Any], dict[str, Any]]:
    args = param.get("args", [])
    if isinstance(args, list):
        return decode(args), {}
    if isinstance(args, dict) and "$type" not in args:
        return [], decode(args)
    message = "args should be a list or an object"
    raise SkygearException(message, InvalidArgument, {"arguments": ["args"]})
