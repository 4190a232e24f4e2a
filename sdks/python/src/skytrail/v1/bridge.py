"""Connects a worker of this package to the runtime of v1 (PyPI `skygear`).

That runtime keeps its transports apart from its registry: it has one function per kind of request,
which returns a result or an error. This module calls these functions in threads, as v1 does. The
calls that a plugin makes to the server (`SkygearContainer.send_action`) use the plugin's own
connection. The worker handles everything about that connection: numbers, resuming, draining.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from typing import Any

from skygear import bin as runner
from skygear.container import PayloadEncoder, SkygearContainer
from skygear.options import parse_args
from skygear.settings import parse_all
from skygear.transmitter.common import CommonTransport

from .._json import JsonObject
from ..calls import REPLY_GRACE
from ..connection import Options
from ..context import Running
from ..errors import ApiError, Code, ConnectionLost, SkygearException
from ..functions import Function
from ..messages import Request
from ..plugin import Plugin
from ..process import run_until_signal
from ..threads import Threads
from ..worker import Refused, Worker


class Answered(SkygearException):
    """An error in the form that the runtime of v1 gave it."""

    def __init__(self, error: JsonObject) -> None:
        super().__init__(str(error.get("message", "")), error.get("code") or Code.UnexpectedError)
        self._error = error

    def as_dict(self) -> JsonObject:
        return self._error


class Bridge:
    """Answers requests with v1's functions, and serves as the transport of v1's containers."""

    def __init__(self, options: Options) -> None:
        self._functions = CommonTransport()
        self._answer = Function(self._outcome)
        self._threads = Threads()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.worker = Worker(self, options)

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.worker.serve()

    async def answer(self, running: Running) -> Any:
        """Answers a request."""
        outcome = await self._answer.run(self._threads, running.request)
        if outcome.get("error") is not None:
            raise Answered(outcome["error"])
        return outcome.get("result")

    def _outcome(self, request: Request) -> JsonObject:
        kind, name, context = request.kind, request.name, request.context
        param = request.param if request.param is not None else {}
        outcome: JsonObject
        if kind == "event":
            outcome = self._functions.call_event_func(name, param)
        elif kind == "handler":
            outcome = self._functions.call_handler(context, name, param)
        elif kind == "provider":
            rest = {member: value for member, value in param.items() if member != "action"}
            outcome = self._functions.call_provider(context, name, param["action"], rest)
        else:
            outcome = self._functions.call_func(context, kind, name, param)
        return outcome

    def send_action(
        self, action_name: str, payload: JsonObject, url: str | None = None, timeout: float = 60
    ) -> Any:
        """Runs an action and returns its whole answer. As in v1, errors are returned, too."""
        wire = json.loads(json.dumps(payload, cls=PayloadEncoder))
        try:
            if self._loop is None:
                raise ConnectionLost("the plugin is not running yet; nothing was sent")
            call = self.worker.call(wire, timeout)
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
            return future.result(timeout + 2 * REPLY_GRACE).body
        except ApiError as error:
            return {"error": error.as_dict()}
        except concurrent.futures.CancelledError:
            return {"error": ConnectionLost("cancelled; the action may have happened").as_dict()}


def main() -> None:
    """Does what the runtime's own program does, with its options and its environment."""
    options = parse_args()
    runner.setup_logging(options)
    SkygearContainer.set_default_app_name(options.appname)
    SkygearContainer.set_default_endpoint(options.skygear_endpoint)
    SkygearContainer.set_default_apikey(options.apikey)
    runner.load(options)
    parse_all()
    settings = Plugin(endpoint=options.skygear_endpoint, master_key=options.masterkey)
    try:
        bridge = Bridge(settings.options())
    except ValueError as error:
        raise SystemExit(str(error)) from None
    SkygearContainer.set_default_transport(bridge)
    try:
        run_until_signal(bridge.serve, bridge.worker.stop)
    except Refused as refused:
        raise SystemExit(f"the server refuses this plugin: {refused}") from None
