"""A small client for Skytrail's plugin transport (WebSocket, asyncio).

    plugin = Plugin("CHAT", "http://127.0.0.1:3000", master_key)

    @plugin.before_save("message")
    async def check(record, original):
        if not record.get("text"):
            raise Refused(108, "a message needs a text")

    plugin.run()

A plugin connects out to the server, shows the master key, and answers what it
is asked. It comes back by itself when the connection breaks, as a new session:
what was under way is lost then, and the server tells those who waited for it.
"""

import asyncio
import contextvars
import json
import logging
import os
import random
import signal

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

log = logging.getLogger("skytrail.plugin")

SUBPROTOCOL = "skygear.plugin.v1"
MAX_MESSAGE = 8 * 1024 * 1024
UNEXPECTED_ERROR = 10000
# The server will not change its mind about these: unknown plugin, registration refused, older
# generation, taken over.
FINAL_CLOSE_CODES = {4003, 4004, 4005, 4007}

# The request that the running function answers: (id, context).
_request = contextvars.ContextVar("request", default=(None, {}))


class Refused(Exception):
    """Raise it in a function to answer with this error; `info` is for programs to read."""

    def __init__(self, code, message, **info):
        super().__init__(message)
        self.code, self.message, self.info = code, message, info

    def to_wire(self):
        wire = {"code": self.code, "message": self.message}
        return {**wire, "info": self.info} if self.info else wire


class CallFailed(Refused):
    """An action that the plugin asked for has failed. Unless it is caught, it is the answer, too."""


class Plugin:
    """Which functions there are, and the connection over which they are asked for."""

    def __init__(self, name, endpoint, master_key, window=16):
        self.name, self.window = name, window
        self.url = endpoint.rstrip("/").replace("http", "ws", 1) + "/_/plugin"
        self.master_key = master_key
        self.functions = {}
        self.points = {"op": [], "hook": []}
        self.session = None
        self.is_stopping = False

    # -- what the plugin offers ------------------------------------------------------------------

    def before_save(self, record_type):
        """`async (record, original)`: may change and return the record, or raise `Refused`."""
        return self._hook("beforeSave", record_type)

    def after_save(self, record_type):
        """`async (record, original)`: told of every saved record; `original` is None for a new one."""
        return self._hook("afterSave", record_type)

    def before_delete(self, record_type):
        """`async (record, original)`: may raise `Refused`."""
        return self._hook("beforeDelete", record_type)

    def after_delete(self, record_type):
        """`async (record, original)`: told of every deleted record."""
        return self._hook("afterDelete", record_type)

    def lambda_(self, name, key_required=False, user_required=False):
        """`async (*args)` or `async (**args)`: an action of its own that clients may ask for."""

        def register(function):
            flags = {"key_required": key_required, "user_required": user_required}
            self.points["op"].append({"name": name, **flags})
            self.functions["op", name] = function
            return function

        return register

    def _hook(self, trigger, record_type):
        def register(function):
            name = f"{trigger}:{record_type}:{function.__name__}"
            point = {"name": name, "type": record_type, "trigger": trigger, "async": False}
            self.points["hook"].append(point)
            self.functions["hook", name] = function
            return function

        return register

    # -- what the plugin may ask -----------------------------------------------------------------

    @property
    def context(self):
        """Who caused the request that is being answered: `user_id`, `access_key_type`, …"""
        return _request.get()[1]

    async def call(self, action, **payload):
        """Runs an action with the master key's rights and returns its result.

        With `_user_id` it runs as that user. Raises `CallFailed`.
        """
        if self.session is None:
            raise CallFailed(UNEXPECTED_ERROR, "not connected")
        reply = await self.session.call({"action": action, **payload})
        error = reply["body"].get("error")
        if error is not None or reply["status"] >= 400:
            error = error or {"message": f"status {reply['status']}"}
            info = error.get("info", {})
            raise CallFailed(error.get("code", UNEXPECTED_ERROR), error["message"], **info)
        return reply["body"].get("result")

    async def publish(self, channels, data):
        """Publishes to one channel or a list of them."""
        channels = [channels] if isinstance(channels, str) else list(channels)
        await self.call("pubsub:publish", channels=channels, data=data)

    # -- running ---------------------------------------------------------------------------------

    def run(self):
        """Serves until SIGTERM or SIGINT; then finishes what is under way."""
        asyncio.run(self.serve())

    async def serve(self):
        """Connects, and connects again whenever the connection is lost."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        pause = 0.5
        while not self.is_stopping:
            try:
                headers = {"X-Skygear-API-Key": self.master_key}
                async with connect(
                    self.url,
                    additional_headers=headers,
                    subprotocols=[SUBPROTOCOL],
                    max_size=MAX_MESSAGE,
                ) as socket:
                    pause = 0.5
                    self.session = Session(self, socket)
                    await self.session.serve()
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else None
                if code in FINAL_CLOSE_CODES:
                    raise SystemExit(f"the server refused: {code} {closed.rcvd.reason}")
                log.warning("connection lost: %s", closed)
            except (OSError, InvalidHandshake) as error:
                log.warning("no connection to %s: %s", self.url, error)
            finally:
                self.session = None
            if not self.is_stopping:
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, 30)

    def stop(self):
        """Takes no new requests, finishes what is under way, then ends."""
        self.is_stopping = True
        if self.session is None:
            raise SystemExit(0)
        self.session.drain()


class Session:
    """One connection: numbered messages, requests to answer, calls that wait for a reply."""

    def __init__(self, plugin, socket):
        self.plugin, self.socket = plugin, socket
        self.outbox = asyncio.Queue()
        self.received = 0
        self.tasks = {}
        self.calls = {}
        self.num_calls = 0

    async def serve(self):
        """Answers until the connection ends."""
        hello = {
            "type": "hello",
            "plugin": self.plugin.name,
            "worker": f"{os.uname().nodename}:{os.getpid()}",
            "window": self.plugin.window,
            "max_message": MAX_MESSAGE,
            "features": [],
            "sdk": "skytrail-plugin-py/0.1",
        }
        await self.socket.send(json.dumps(hello))
        welcome = json.loads(await self.socket.recv())
        writer = asyncio.create_task(self.write(welcome["heartbeat_ms"] / 1000))
        try:
            async for text in self.socket:
                message = json.loads(text)
                self.received = message.get("seq", self.received)
                self.take(message)
        finally:
            writer.cancel()
            self.end()

    async def write(self, heartbeat):
        """Sends what is in the outbox, numbered without gaps, and a ping when there is nothing."""
        sent = 0
        while True:
            try:
                message = await asyncio.wait_for(self.outbox.get(), heartbeat)
            except asyncio.TimeoutError:
                message = {"type": "ping"}
            if message["type"] == "close":
                return await self.socket.close()
            if message["type"] not in ("ping", "pong"):
                sent += 1
                message["seq"] = sent
            await self.socket.send(json.dumps({**message, "ack": self.received}))

    def send(self, kind, **members):
        self.outbox.put_nowait({"type": kind, **members})

    def take(self, message):
        """Takes one message of the server. Work goes into tasks: reading must go on."""
        kind = message["type"]
        if kind == "request":
            task = self.tasks[message["id"]] = asyncio.create_task(self.run(message))
            task.add_done_callback(lambda done: self.answer(message, done))
        elif kind == "reply":
            waiting = self.calls.pop(message["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif kind == "cancel" and message["id"] in self.tasks:
            self.tasks[message["id"]].cancel()
        elif kind == "ping":
            self.send("pong")
        elif kind == "drain":
            log.info("the server stops: %s", message.get("reason"))
        elif kind == "drained":
            self.send("close")
        elif kind == "ready":
            log.info("ready")
        elif kind == "warning" or kind == "registered" and not message["ok"]:
            log.warning("the server says: %s", message)

    async def run(self, request):
        """Runs the function that a request is for and returns the result."""
        _request.set((request["id"], request.get("context", {})))
        kind, name, param = request["kind"], request["name"], request.get("param") or {}
        if kind == "event":
            return self.plugin.points if name == "init" else None
        function = self.plugin.functions.get((kind, name))
        if function is None:
            raise Refused(117, f"no {kind} named {name}")
        if kind == "hook":
            record = param["record"]
            return await function(record, param.get("original")) or record
        args = param.get("args", [])
        return await (function(**args) if isinstance(args, dict) else function(*args))

    def answer(self, request, done):
        """Sends what a request came to, also when it was cancelled."""
        del self.tasks[request["id"]]
        error = None
        if done.cancelled():
            error = {"code": UNEXPECTED_ERROR, "message": "cancelled"}
        elif isinstance(done.exception(), Refused):
            error = done.exception().to_wire()
        elif done.exception() is not None:
            log.error("%s failed", request["name"], exc_info=done.exception())
            error = {"code": UNEXPECTED_ERROR, "message": str(done.exception())}
        outcome = {"error": error} if error else {"result": done.result()}
        self.send("response", id=request["id"], **outcome)

    async def call(self, payload):
        """Sends a call and waits for its reply."""
        self.num_calls += 1
        members = {"id": f"c{self.num_calls}", "payload": payload}
        parent = _request.get()[0]
        if parent is not None:
            members["parent"] = parent
        waiting = asyncio.get_running_loop().create_future()
        self.calls[members["id"]] = waiting
        self.send("call", **members)
        return await waiting

    def drain(self):
        self.send("drain", reason="stopping")

    def end(self):
        """Ends what belongs to a connection that is gone."""
        for task in list(self.tasks.values()):
            task.cancel()
        lost = CallFailed(UNEXPECTED_ERROR, "connection lost; the action may have happened")
        for waiting in self.calls.values():
            if not waiting.done():
                waiting.set_exception(lost)
        self.calls.clear()
