"""A worker: keeps the connection to the server, and runs the requests that arrive over it.

One task reads, one writes, one watches the clock, and every request has its own task. So pings are
answered and nested requests are accepted, whatever the plugin's functions do. The session
(`session`) knows what the messages mean; the service (`Plugin`, or the bridge to v1) answers
requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from ._json import JsonObject
from .backoff import PROTOCOL_ERROR, Backoff, Ending, retry_after
from .calls import Calls, Reply, Turns, is_done
from .connection import CLOSE_TIMEOUT, Connect, Options, Socket, open_socket
from .context import Running, current_request, enter
from .errors import LOST, ApiError, CallTimeout, Code, ConnectionLost, SkygearException, to_wire
from .functions import Function
from .messages import (
    Cancelled,
    Drained,
    Draining,
    Event,
    Noted,
    ProtocolError,
    Registered,
    Replied,
    Request,
    Requested,
    StateChanged,
    Welcomed,
)
from .session import Session
from .threads import Threads

log = logging.getLogger("skytrail")

# The server enforces the limit of a request and sends a cancel. The worker's own limit is for when
# the server is away. It fires later, so that the two do not race for what the client is told.
LIMIT_GRACE = 0.5
CALL_TIMEOUT = 60.0
# The close code of a client that leaves because the connection is faulty.
GOING_AWAY = 1001


class Refused(Exception):
    """The server rejects this worker, and would do so again."""


class Service(Protocol):
    """Answers requests."""

    async def answer(self, running: Running) -> Any:
        """Returns the result, ready for JSON, or raises."""


class Worker:
    """A worker; see the module's description."""

    def __init__(
        self,
        service: Service,
        options: Options,
        connect: Connect | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.service = service
        self.options = options
        self.session = Session(options.hello())
        self.state = "connecting"
        """`connecting`, `registering`, `registered`, `ready`, or `stopped`."""
        self._connect = connect or (lambda: open_socket(options))
        self._backoff = backoff or Backoff()
        self._running: dict[str, Running] = {}
        self._threads = Threads()
        self._calls = Calls()
        self._turns = Turns(self.session.limits.max_calls)
        # The levels of the calls under way, by id.
        self._levels: dict[str, int] = {}
        self._has_output = asyncio.Event()
        self._is_open = asyncio.Event()
        self._stopping = asyncio.Event()
        # Set when nothing is left to do.
        self._done = asyncio.Event()
        self._is_replaced = False
        # Whether the server has accepted the position where deliveries start.
        self._has_started = False
        self._lost_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- the connection ------------------------------------------------------

    async def serve(self) -> None:
        """Serves until drained; reconnects whenever the connection is lost.

        Raises `Refused` when the server rejects this worker.
        """
        self._loop = asyncio.get_running_loop()
        self._lost_at = time.monotonic()
        try:
            while not self._done.is_set():
                ending = await self._connection()
                if not self._done.is_set():
                    self._after(ending)
                    await self._pause(self._backoff.pause(ending))
        finally:
            self.state = "stopped"
            self._abandon("the worker stops")

    def _after(self, ending: Ending) -> None:
        """Decides what ends together with a lost connection."""
        if ending.is_final and not self._is_replaced:
            raise Refused(f"{ending.close_code}: {ending.reason or 'no reason given'}")
        seconds_away = time.monotonic() - self._lost_at
        is_over = ending.is_final or ending.is_session_lost
        is_over = is_over or seconds_away > self.session.limits.resume
        if is_over or not self.session.is_resumable:
            self.session.forget()
            self._abandon(LOST)
        why = ending.reason or ending.close_code or "no reason"
        if ending.is_key_refused:
            log.error("the server refuses MASTER_KEY: %s; next try in half a minute", why)
        else:
            log.warning("connection lost: %s", why)
        if (self._is_replaced or self._stopping.is_set()) and self._has_nothing_left():
            self._done.set()

    def _has_nothing_left(self) -> bool:
        return not self._running and self.session.is_settled

    async def _pause(self, seconds: float) -> None:
        """Waits before the next attempt, or until the worker should stop."""
        signal = self._done if self._stopping.is_set() else self._stopping
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(signal.wait(), seconds)

    async def _connection(self) -> Ending:
        """Runs one connection from its beginning to its end."""
        try:
            position = await self._position()
        except Exception as error:
            log.exception("cannot tell where deliveries should start")
            return Ending(reason=f"no position: {error}")
        try:
            async with self._connect() as connection:
                return await self._talk(connection, position)
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                return Ending(reason="closed without a close frame")
            return Ending(closed.rcvd.code, reason=closed.rcvd.reason)
        except InvalidStatus as refused:
            body = bytes(refused.response.body or b"")[:300].decode("utf-8", "replace")
            status = refused.response.status_code
            if 300 <= status < 400:
                location = [*refused.response.headers.get_all("Location"), ""][0]
                shown = self.options.endpoint_at(location)
                reason = f"SKYGEAR_ENDPOINT redirects to {shown}: use that address"
                return Ending(status=status, reason=reason)
            asked = [*refused.response.headers.get_all("Retry-After"), ""][0]
            reason = f"refused with status {status}: {body}"
            return Ending(status=status, reason=reason, retry_after=retry_after(asked))
        except (OSError, InvalidHandshake, InvalidURI, asyncio.TimeoutError) as error:
            return Ending(reason=f"no connection to {self.options.shown_url}: {error}")
        finally:
            if self._is_open.is_set():
                self._lost_at = time.monotonic()
            self.session.disconnect()
            self._is_open.clear()

    async def _position(self) -> int | None:
        """Returns the position that deliveries start after, if the plugin decides that."""
        position = self.options.position
        if callable(position):
            return int(await Function(position).run(self._threads))
        # A number was right when the process started; later the server knows better.
        return None if self._has_started else position

    async def _talk(self, connection: Socket, position: int | None) -> Ending:
        """Reads, writes, and watches the clock until one of them ends."""
        self.session.connect(time.monotonic(), position)
        self._has_output.set()
        steps = {
            "reads": self._read(connection),
            "writes": self._write(connection),
            "clock": self._watch(),
            "end": self._wait_for_end(),
        }
        tasks = [asyncio.create_task(step, name=f"skytrail {name}") for name, step in steps.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            ending = next(task.result() for task in tasks if task in done)
        except ProtocolError as error:
            ending = Ending(PROTOCOL_ERROR, reason=str(error))
        await connection.close(ending.close_code or GOING_AWAY, ending.reason[:100])
        return ending

    async def _read(self, connection: Socket) -> Ending:
        while True:
            text = await connection.recv()
            if not isinstance(text, str):
                raise ProtocolError("a binary frame")
            for event in self.session.receive(text, time.monotonic()):
                self._take(event)
            self._has_output.set()

    async def _write(self, connection: Socket) -> Ending:
        while True:
            await self._has_output.wait()
            self._has_output.clear()
            for text in self.session.take_output(time.monotonic()):
                await connection.send(text)

    async def _watch(self) -> Ending:
        while self.session.tick(time.monotonic()):
            self._has_output.set()
            await asyncio.sleep(min(1.0, self.session.limits.heartbeat / 4))
        return Ending(reason="the server is silent")

    async def _wait_for_end(self) -> Ending:
        await self._done.wait()
        return Ending(1000, reason="drained")

    # -- what the server says ------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Welcomed():
                self._welcomed(event)
            case Requested(request):
                self._start(request)
            case Cancelled(request_id, reason):
                if request_id in self._running:
                    self._running[request_id].cancel(reason)
            case Replied():
                self._calls.take(event)
            case Registered():
                self._registered(event)
            case StateChanged(state):
                self.state = state
                self._has_started |= state == "ready"
                log.info("plugin %s is %s", self.options.plugin, state)
            case Draining(reason, reconnect, workers):
                log.info("the server is draining this worker: %s", reason)
                self._is_replaced = not reconnect
                self._backoff.num_workers = workers
            case Drained():
                if self._stopping.is_set() or self._is_replaced:
                    self._done.set()
            case Noted(text):
                log.warning("%s", text)

    def _welcomed(self, event: Welcomed) -> None:
        self._backoff.reset()
        if event.lost:
            self._abandon(LOST)
        if not event.resumed:
            self.state = "registering"
            if self._is_replaced:
                # It reconnected for the session that it had, and for nothing else.
                self._done.set()
        log.info("%s %s", "resumed at" if event.resumed else "connected to", self.options.shown_url)
        self._is_open.set()
        self._turns.max_calls = self.session.limits.max_calls
        if self._stopping.is_set():
            self._ask_to_drain()

    def _registered(self, event: Registered) -> None:
        if event.ok:
            self.state = "registered"
            counts = ", ".join(f"{kind}: {number}" for kind, number in event.points.items())
            log.info("registered: %s", counts)
        for problem in event.problems:
            log.error("refused: %s %s", problem.get("list"), problem)

    def _abandon(self, reason: str) -> None:
        """Ends everything of a session that is over: its requests and all calls."""
        for running in list(self._running.values()):
            running.cancel(reason)
        self._running.clear()
        self._calls.fail()

    # -- requests ------------------------------------------------------------

    def _start(self, request: Request) -> None:
        running = Running(request, lambda: self._send_progress(request))
        running.level = self._levels.get(request.parent or "", 0) + 1
        self._running[request.id] = running
        # A task has its own context: what one request sets, no other sees.
        running.task = asyncio.create_task(self._answer(running), name=f"skytrail {request.name}")
        timer = self._limit(running, asyncio.get_running_loop())
        running.task.add_done_callback(lambda task: self._finish(running, task, timer))

    async def _answer(self, running: Running) -> Any:
        enter(running)
        try:
            return await self.service.answer(running)
        except SystemExit as ended:
            # It would end the loop, and with it all other requests.
            raise RuntimeError(f"the function called sys.exit({ended.code!r})") from ended
        except asyncio.CancelledError as cancelled:
            if running.is_cancelled:
                raise
            # As when it awaits a task that it shares with a request that was cancelled.
            message = "the function was cancelled by the plugin's own code"
            raise RuntimeError(message) from cancelled

    def _finish(
        self, running: Running, task: asyncio.Task[Any], timer: asyncio.TimerHandle | None
    ) -> None:
        """Sends a request's outcome, also when it was cancelled before it began."""
        running.is_finished = True
        if timer is not None:
            timer.cancel()
        request = running.request
        if self._running.get(request.id) is running:
            del self._running[request.id]
        self.session.respond(request, outcome_of(running, task))
        self._has_output.set()
        # Last, because logging may run the plugin's own handler, which can fail.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SkygearException):
            log.error("%s %s failed", request.kind, request.name, exc_info=error)

    def _limit(
        self, running: Running, loop: asyncio.AbstractEventLoop
    ) -> asyncio.TimerHandle | None:
        """Cancels a request when its time is over, also while the socket is disconnected."""
        left = running.seconds_left
        if left is None:
            return None

        def check() -> None:
            left = running.seconds_left or 0.0
            if running.is_finished:
                return
            if left > 0:
                loop.call_later(left + LIMIT_GRACE, check)
            else:
                running.cancel("deadline")

        return loop.call_later(left + LIMIT_GRACE, check)

    def _send_progress(self, request: Request) -> None:
        self._soon(lambda: self.session.progress(request))

    def set_window(self, size: int) -> None:
        """Changes how many requests are accepted at once; 0 pauses. Callable from any thread."""
        self._soon(lambda: self.session.set_window(size))

    def _soon(self, act: Callable[[], None]) -> None:
        def run() -> None:
            act()
            self._has_output.set()

        if self._loop is not None:
            self._loop.call_soon_threadsafe(run)

    # -- calls ---------------------------------------------------------------

    async def call(self, payload: JsonObject, timeout: float | None = None) -> Reply:
        """Calls an action of the server, with the rights of the master key.

        Within a request the call is its child: it ends with the request, and requests that it
        causes are sent to this worker. It waits while as many calls are in flight as the
        server allows. Raises `ConnectionLost`, `CallTimeout`, `MessageTooLarge`.
        """
        running = current_request()
        if running is not None and running.is_finished:
            running = None
        _check_wanted(running)
        limit = CALL_TIMEOUT if timeout is None else timeout
        if running is not None and running.seconds_left is not None:
            limit = min(limit, running.seconds_left)
        until = time.monotonic() + limit
        await self._turns.take(0 if running is None else running.level, until, running)
        try:
            return await self._send(payload, until, running)
        finally:
            self._turns.end()

    async def _send(self, payload: JsonObject, until: float, running: Running | None) -> Reply:
        # The request may have ended while the call waited.
        _check_wanted(running)
        await self._until_open(max(0.0, until - time.monotonic()))
        _check_wanted(running)
        # The server does not know requests of a session that is over.
        is_child = running is not None and running.request.session == self.session.number
        parent = running.request.id if running is not None and is_child else None
        call_id = self.session.call(payload, parent, max(0.0, until - time.monotonic()))
        self._levels[call_id] = 0 if running is None else running.level
        self._has_output.set()
        try:
            return await self._calls.wait(call_id, until, running)
        finally:
            del self._levels[call_id]
            if self._calls.forget(call_id):
                self.session.cancel(call_id)
                self._has_output.set()

    async def _until_open(self, limit: float) -> None:
        """Waits for a session. One that lost its socket and can be resumed counts."""
        if self._is_open.is_set() or self.session.is_resumable:
            return
        opening = asyncio.ensure_future(self._is_open.wait())
        try:
            if not await is_done(opening, limit):
                raise ConnectionLost("not connected; nothing was sent")
        finally:
            opening.cancel()

    # -- stopping ------------------------------------------------------------

    def stop(self) -> None:
        """Takes no new requests, finishes those that run, ends `serve`. For the loop only."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        log.info("stopping; %d requests in flight", len(self._running))
        if self._is_open.is_set():
            self._ask_to_drain()
        elif self._has_nothing_left():
            self._done.set()
        # The server enforces the limit; this is for when it does not, or is away.
        limit = self.options.drain_seconds + CLOSE_TIMEOUT
        asyncio.get_running_loop().call_later(limit, self._done.set)

    def _ask_to_drain(self) -> None:
        self.session.drain("stopping", self.options.drain_seconds)
        self._has_output.set()


def _check_wanted(running: Running | None) -> None:
    """Raises if the request that a call belongs to does not wait for it any more."""
    if running is None:
        return
    if running.is_cancelled:
        if running.cancel_reason == LOST:
            raise ConnectionLost("connection lost; nothing was sent")
        raise CallTimeout(f"cancelled: {running.cancel_reason}; nothing was sent")
    if running.is_finished:
        message = "the request that the call belongs to is over; nothing was sent"
        raise ApiError(message, Code.UnexpectedError, {}, 499)


def outcome_of(running: Running, task: asyncio.Task[Any]) -> JsonObject:
    """Returns the answer of a finished task."""
    if task.cancelled():
        message = f"cancelled: {running.cancel_reason or 'the worker stops'}"
        return {"error": {"code": int(Code.PluginTimeout), "message": message}}
    error = task.exception()
    return {"result": task.result()} if error is None else {"error": to_wire(error)}
