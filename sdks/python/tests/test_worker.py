from __future__ import annotations

import asyncio
import sys
import threading
import unittest
from datetime import datetime, timezone
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from skytrail import ApiError, ConnectionLost, Plugin, Refused, SkygearException, current_request
from skytrail.backoff import Ending
from skytrail.context import Running
from skytrail.errors import CallTimeout

from .stand_in import PATIENCE, WELCOME, Serving, StandInSocket

NOON = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


class Workers(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.plugin = Plugin("TEST")

    async def serving(self, **options: Any) -> tuple[Serving, StandInSocket]:
        serving = await self.enterAsync(Serving(self.plugin, **options))
        self.plugin.connect_to(serving.worker)
        socket = await serving.server.accept()
        await socket.welcome()
        return serving, socket

    async def enterAsync(self, serving: Serving) -> Serving:
        await serving.__aenter__()
        self.addAsyncCleanup(serving.__aexit__)
        return serving

    async def test_requests_are_answered_side_by_side(self) -> None:
        gate = asyncio.Event()

        @self.plugin.op("slow")
        async def slow() -> str:
            await gate.wait()
            return "slow"

        @self.plugin.op("quick")
        async def quick() -> str:
            return "quick"

        _, socket = await self.serving()
        socket.ask("r1", "op", "slow", {})
        socket.ask("r2", "op", "quick", {})
        self.assertEqual((await socket.answer_to("r2"))["result"], "quick")
        gate.set()
        self.assertEqual((await socket.answer_to("r1"))["result"], "slow")

    async def test_a_password_in_the_servers_address_is_not_logged(self) -> None:
        with self.assertLogs("skytrail", "INFO") as logs:
            await self.serving(endpoint="http://ada:a-secret@127.0.0.1:1/app")
            while not logs.output:
                await asyncio.sleep(0)
        self.assertEqual(
            logs.output[0],
            "INFO:skytrail:connected to ws://127.0.0.1:1/app/_/plugin",
        )

    async def test_errors_keep_their_code_and_others_have_a_trace(self) -> None:
        @self.plugin.op("refuse")
        async def refuse() -> None:
            raise SkygearException("no", 77, {"why": "because", "when": NOON})

        @self.plugin.op("break")
        def break_() -> None:
            raise ValueError("oh")

        _, socket = await self.serving()
        socket.ask("r1", "op", "refuse", {})
        error = (await socket.answer_to("r1"))["error"]
        when = {"$type": "date", "$date": "2026-11-20T12:00:00.000000Z"}
        info = {"why": "because", "when": when}
        self.assertEqual(error, {"code": 77, "message": "no", "info": info})
        with self.assertLogs("skytrail", "ERROR"):
            socket.ask("r2", "op", "break", {})
            error = (await socket.answer_to("r2"))["error"]
        self.assertEqual((error["code"], error["message"]), (10000, "oh"))
        self.assertIn("break_", error["info"]["trace"])

    async def test_whatever_a_function_raises_something_is_answered(self) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise ValueError("no text")

        class Unfinished(SkygearException):
            def __init__(self) -> None:
                """Does not call the inherited constructor."""

        raised = [Mute(), Unfinished(), SkygearException("x", 10000, {"why": Mute()})]

        @self.plugin.op("break")
        async def break_(index: int) -> None:
            raise raised[index]

        _, socket = await self.serving()
        with self.assertLogs("skytrail", "ERROR"):
            for index, message in enumerate(["Mute", "Unfinished", "x"]):
                socket.ask(f"r{index}", "op", "break", {"args": [index]})
                error = (await socket.answer_to(f"r{index}"))["error"]
                self.assertEqual(error["code"], 10000)
                self.assertIn(message, error["message"])

    async def test_pings_are_answered_while_functions_block(self) -> None:
        release = threading.Event()
        self.addCleanup(release.set)

        @self.plugin.op("block")
        def block() -> None:
            release.wait(PATIENCE)

        _, socket = await self.serving(window=4)
        for number in range(40):
            socket.ask(f"r{number}", "op", "block", {})
        await socket.settle()
        release.set()
        for _ in range(40):
            await socket.expect("response")

    async def test_a_cancelled_request_is_stopped_and_answered(self) -> None:
        stopped = asyncio.Event()

        @self.plugin.op("wait")
        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        _, socket = await self.serving()
        socket.ask("r1", "op", "wait", {})
        socket.tell("cancel", id="r1", reason="client-gone")
        error = (await socket.answer_to("r1"))["error"]
        self.assertEqual(error["code"], 119)
        self.assertIn("client-gone", error["message"])
        # The same for a request that is already running.
        socket.ask("r2", "op", "wait", {})
        await socket.settle()
        socket.tell("cancel", id="r2", reason="deadline")
        await socket.answer_to("r2")
        self.assertTrue(stopped.is_set())

    async def test_a_request_ends_at_its_deadline_though_the_server_says_nothing(self) -> None:
        @self.plugin.op("wait")
        async def wait() -> None:
            await asyncio.Event().wait()

        _, socket = await self.serving()
        socket.ask("r1", "op", "wait", {}, timeout_ms=20)
        self.assertIn("deadline", (await socket.answer_to("r1"))["error"]["message"])

    async def test_progress_starts_a_deliverys_limit_anew(self) -> None:
        @self.plugin.after_save("note")
        async def slowly(record: Any, original: Any, delivery: Any) -> None:
            running = current_request()
            assert running is not None
            for _ in range(6):
                await asyncio.sleep(0.25)
                running.progress()

        _, socket = await self.serving()
        delivery = {"id": "7/x", "position": 7, "attempt": 2}
        param = {"record": {"_id": "note/1"}, "original": None}
        name = "note.afterSave." + slowly.__qualname__.replace("<locals>.", "")
        socket.ask("r1", "hook", name, param, timeout_ms=1000, delivery=delivery)
        for _ in range(6):
            self.assertEqual((await socket.expect("progress"))["id"], "r1")
        self.assertEqual((await socket.answer_to("r1"))["result"], {"_id": "note/1"})

    async def test_a_thread_that_was_cancelled_answers_when_it_ends(self) -> None:
        entered, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)
        seen: list[bool] = []

        @self.plugin.op("block")
        def block() -> None:
            entered.set()
            release.wait(PATIENCE)
            running = current_request()
            seen.append(running is not None and running.is_cancelled)

        serving, socket = await self.serving()
        socket.ask("r1", "op", "block", {})
        await asyncio.to_thread(entered.wait, PATIENCE)
        socket.tell("cancel", id="r1", reason="deadline")
        await socket.settle()
        self.assertEqual(serving.worker.session.num_in_flight, 1)
        release.set()
        await socket.answer_to("r1")
        self.assertEqual(seen, [True])

    async def test_a_call_is_a_child_of_its_request_in_tasks_and_in_threads(self) -> None:
        @self.plugin.op("async")
        async def in_loop() -> Any:
            return await self.plugin.api.send_action("a")

        @self.plugin.op("sync")
        def in_thread() -> Any:
            return self.plugin.api.as_user("u1").blocking.send_action("b")

        _, socket = await self.serving()
        socket.ask("r1", "op", "async", {}, timeout_ms=5000)
        call = await socket.expect("call")
        self.assertEqual(call["payload"], {"action": "a", "_from_plugin": True})
        self.assertEqual(call["parent"], "r1")
        self.assertLessEqual(call["timeout_ms"], 5000)
        socket.tell("reply", id=call["id"], status=200, body={"result": 1})
        self.assertEqual((await socket.answer_to("r1"))["result"], 1)

        socket.ask("r2", "op", "sync", {})
        call = await socket.expect("call")
        self.assertEqual((call["parent"], call["payload"]["_user_id"]), ("r2", "u1"))
        error = {"code": 102, "message": "no", "info": {"x": 1}}
        socket.tell("reply", id=call["id"], status=403, body={"error": error})
        self.assertEqual((await socket.answer_to("r2"))["error"], error)

    async def test_a_nested_request_is_taken_while_its_cause_waits(self) -> None:
        @self.plugin.op("outer")
        def outer() -> Any:
            return self.plugin.api.blocking.lambda_("inner", 20)

        @self.plugin.op("inner")
        def inner(number: int) -> int:
            return number + 1

        _, socket = await self.serving(window=1)
        socket.ask("r1", "op", "outer", {})
        call = await socket.expect("call")
        args = {"args": call["payload"]["args"]}
        socket.ask("r2", "op", "inner", args, parent=call["id"])
        inner_answer = await socket.answer_to("r2")
        body = {"result": inner_answer["result"]}
        socket.tell("reply", id=call["id"], status=200, body=body)
        self.assertEqual((await socket.answer_to("r1"))["result"], 21)

    async def limited_to(self, max_calls: int) -> StandInSocket:
        """Returns the connection to a server that allows so many calls at a time."""
        serving = await self.enterAsync(Serving(self.plugin))
        self.plugin.connect_to(serving.worker)
        socket = await serving.server.accept()
        await socket.welcome(max_calls=max_calls)
        await socket.settle()
        return socket

    async def calls(self, socket: StandInSocket, number: int) -> list[dict[str, Any]]:
        """Returns so many calls, after which none follows."""
        calls = [await socket.expect("call") for _ in range(number)]
        await socket.settle()
        return calls

    async def test_calls_beyond_the_servers_limit_wait_for_their_turn(self) -> None:
        @self.plugin.op("many")
        async def many(number: int) -> Any:
            send = self.plugin.api.send_action
            return await asyncio.gather(*(send("x", {"n": n}) for n in range(number)))

        socket = await self.limited_to(2)
        socket.ask("r1", "op", "many", {"args": [5]})
        under_way = await self.calls(socket, 2)
        for n in range(5):
            call = under_way.pop(0)
            self.assertEqual((call["parent"], call["payload"]["n"]), ("r1", n))
            socket.tell("reply", id=call["id"], status=200, body={"result": n})
            if n < 3:
                under_way += await self.calls(socket, 1)
        self.assertEqual((await socket.answer_to("r1"))["result"], [0, 1, 2, 3, 4])

        # Those that wait end with the limit of their request, and with their request.
        socket.ask("r2", "op", "many", {"args": [3]}, timeout_ms=30)
        over = [await socket.expect("call") for _ in range(2)]
        self.assertEqual((await socket.answer_to("r2"))["error"]["code"], 122)
        for call in over:
            error = {"code": 10000, "message": "the request is over"}
            socket.tell("reply", id=call["id"], status=499, body={"error": error})
        socket.ask("r3", "op", "many", {"args": [3]})
        await self.calls(socket, 2)
        socket.tell("cancel", id="r3", reason="client-gone")
        kinds = sorted([(await socket.expect_any())["type"] for _ in range(3)])
        self.assertEqual(kinds, ["cancel", "cancel", "response"])
        # Their places are free again.
        socket.ask("r4", "op", "many", {"args": [2]})
        await self.calls(socket, 2)

    async def test_calls_leave_places_to_the_hooks_that_they_wait_for(self) -> None:
        @self.plugin.op("save")
        async def save() -> None:
            await asyncio.gather(*(self.plugin.api.send_action("save") for _ in range(4)))

        @self.plugin.op("hook")
        def hook() -> None:
            self.plugin.api.blocking.send_action("b")

        socket = await self.limited_to(4)
        socket.ask("r1", "op", "save", {})
        [first, *_] = await self.calls(socket, 3)
        socket.ask("r2", "op", "hook", {}, parent=first["id"])
        self.assertEqual((await socket.expect("call"))["parent"], "r2")

    async def test_calls_outside_of_requests_leave_places_to_the_hooks_they_cause(self) -> None:
        @self.plugin.op("hook")
        async def hook() -> None:
            await self.plugin.api.send_action("b")

        socket = await self.limited_to(2)
        saves = [asyncio.create_task(self.plugin.api.send_action("save")) for _ in range(2)]
        await self.calls(socket, 1)
        # The server does not know the request's parent either.
        socket.ask("r1", "op", "hook", {})
        self.assertEqual((await socket.expect("call"))["parent"], "r1")
        for save in saves:
            save.cancel()

    async def test_a_request_that_is_cancelled_as_its_calls_turn_comes_sends_nothing(self) -> None:
        waiting: list[tuple[Running, asyncio.Task[Any]]] = []

        @self.plugin.op("first")
        async def first() -> None:
            await self.plugin.api.send_action("first")
            # The place was given back in this turn of the loop.
            waiting[0][0].cancel("client-gone")

        @self.plugin.op("second")
        async def second() -> None:
            running = current_request()
            assert running is not None
            waiting.append((running, asyncio.create_task(self.plugin.api.send_action("second"))))
            await asyncio.Event().wait()

        socket = await self.limited_to(1)
        socket.ask("r1", "op", "first", {})
        [call] = await self.calls(socket, 1)
        socket.ask("r2", "op", "second", {})
        await socket.settle()
        socket.tell("reply", id=call["id"], status=200, body={"result": None})
        answered = {(await socket.expect("response"))["id"] for _ in range(2)}
        self.assertEqual(answered, {"r1", "r2"})
        with self.assertRaisesRegex(CallTimeout, "client-gone; nothing was sent"):
            await waiting[0][1]
        await socket.settle()

    async def test_a_cancelled_request_cancels_its_calls(self) -> None:
        @self.plugin.op("call")
        async def call() -> None:
            await self.plugin.api.send_action("a")

        @self.plugin.op("call:sync")
        def call_in_thread() -> None:
            self.plugin.api.blocking.send_action("a")

        _, socket = await self.serving()
        for id, name in (("r1", "call"), ("r2", "call:sync")):
            socket.ask(id, "op", name, {})
            asked = await socket.expect("call")
            socket.tell("cancel", id=id, reason="client-gone")
            messages = [await socket.expect_any() for _ in range(2)]
            kinds = {message["type"]: message["id"] for message in messages}
            self.assertEqual(kinds, {"cancel": asked["id"], "response": id})

    async def test_a_call_outside_of_requests_has_no_parent(self) -> None:
        background: list[asyncio.Task[Any]] = []
        release = asyncio.Event()

        async def later() -> Any:
            await release.wait()
            return await self.plugin.api.send_action("later")

        @self.plugin.op("start")
        async def start() -> None:
            background.append(asyncio.create_task(later()))

        _, socket = await self.serving()
        socket.ask("r1", "op", "start", {})
        await socket.answer_to("r1")
        release.set()
        call = await socket.expect("call")
        self.assertNotIn("parent", call)
        socket.tell("reply", id=call["id"], status=200, body={"result": 2})
        self.assertEqual(await background[0], 2)

    async def test_a_broken_connection_is_resumed_and_nobody_notices(self) -> None:
        release = asyncio.Event()

        @self.plugin.op("call")
        async def call() -> Any:
            await release.wait()
            return await self.plugin.api.send_action("a")

        serving, socket = await self.serving()
        socket.ask("r1", "op", "call", {})
        serving.server.refusals = [ConnectionRefusedError("not now")] * 2
        socket.hang_up()
        again = await serving.server.accept()
        # The call is made while the worker is not connected.
        release.set()
        hello = await again.welcome(resumed=True, received=0)
        self.assertEqual(hello["resume"]["session"], "s-1")
        self.assertEqual(hello["resume"]["received"], 1)
        again.seq = socket.seq
        asked = await again.expect("call")
        self.assertEqual((asked["seq"], asked["parent"]), (1, "r1"))
        again.tell("reply", id=asked["id"], status=200, body={"result": "ok"})
        self.assertEqual((await again.answer_to("r1"))["result"], "ok")

    async def test_a_position_counts_until_the_server_has_taken_it(self) -> None:
        serving = await self.enterAsync(Serving(self.plugin, position=7))
        positions = []
        for _ in range(3):
            socket = await serving.server.accept()
            positions.append((await socket.welcome()).get("from"))
            if len(positions) == 2:
                socket.tell("ready", state="ready")
                await socket.settle()
            socket.hang_up(1012)
        self.assertEqual(positions, [7, 7, None])

    async def test_who_keeps_the_position_is_asked_at_every_connection(self) -> None:
        kept = [7]

        async def asynchronous() -> int:
            return kept[0]

        for position in (lambda: kept[0], asynchronous):
            serving = await self.enterAsync(Serving(self.plugin, position=position))
            for number in (7, 8):
                kept[0] = number
                socket = await serving.server.accept()
                self.assertEqual((await socket.welcome())["from"], number)
                socket.tell("ready", state="ready")
                await socket.settle()
                kept[0] = number + 1
                socket.hang_up(1012)

    async def test_a_position_that_cannot_be_told_is_asked_for_again(self) -> None:
        answers = iter([OSError("not now"), 7])

        def position() -> int:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        with self.assertLogs("skytrail", "ERROR"):
            serving = await self.enterAsync(Serving(self.plugin, position=position))
            self.assertEqual((await (await serving.server.accept()).welcome())["from"], 7)

    async def test_answers_that_the_server_has_not_got_are_brought_before_the_end(self) -> None:
        @self.plugin.op("quick")
        async def quick() -> str:
            return "done"

        async def stop(serving: Serving, socket: StandInSocket) -> None:
            serving.worker.stop()
            await socket.expect("drain")

        async def replace(serving: Serving, socket: StandInSocket) -> None:
            socket.tell("drain", reason="newer generation", reconnect=False)
            await socket.settle()

        for leave in (stop, replace):
            serving, socket = await self.serving()
            socket.ask("r1", "op", "quick", {})
            await socket.answer_to("r1")
            await leave(serving, socket)
            # The answer was written but did not arrive.
            socket.hang_up()
            again = await serving.server.accept()
            hello = await again.welcome(resumed=True, received=0)
            self.assertEqual(hello["resume"]["session"], "s-1")
            again.seq = socket.seq
            self.assertEqual((await again.answer_to("r1"))["result"], "done")
            again.tell("drained")
            await asyncio.wait_for(serving.task, PATIENCE)

    async def test_what_runs_in_a_worker_that_was_replaced_is_answered_over_the_next_connection(
        self,
    ) -> None:
        release = asyncio.Event()

        @self.plugin.op("wait")
        async def wait() -> str:
            await release.wait()
            return "done"

        serving, socket = await self.serving()
        socket.ask("r1", "op", "wait", {})
        socket.tell("drain", reason="newer generation", reconnect=False)
        await socket.settle()
        socket.hang_up()
        again = await serving.server.accept()
        await again.welcome(resumed=True, received=0)
        again.seq = socket.seq
        release.set()
        self.assertEqual((await again.answer_to("r1"))["result"], "done")
        again.tell("drained")
        await asyncio.wait_for(serving.task, PATIENCE)

    async def test_a_worker_that_was_replaced_and_lost_its_session_ends(self) -> None:
        @self.plugin.op("wait")
        async def wait() -> None:
            await asyncio.Event().wait()

        def refuse(socket: StandInSocket) -> None:
            socket.hang_up(4005, "older generation")

        def begin_anew(socket: StandInSocket) -> None:
            socket.tell_raw({**WELCOME, "session": "s-2"})

        for act in (refuse, begin_anew):
            serving, socket = await self.serving()
            socket.ask("r1", "op", "wait", {})
            socket.tell("drain", reason="newer generation", reconnect=False)
            await socket.settle()
            socket.hang_up()
            act(await serving.server.accept())
            await asyncio.wait_for(serving.task, PATIENCE)

    async def test_points_that_init_adds_are_there_after_every_start(self) -> None:
        @self.plugin.event("init")
        def add() -> None:
            self.plugin.op("late")(lambda: 1)
            self.plugin.event("server-ready")(lambda: None)
            self.plugin.static_assets("late")(lambda: ".")

        self.plugin.op("early")(lambda: 1)
        serving, socket = await self.serving()
        registrations = []
        for _ in range(3):
            socket.ask("r1", "event", "before-config", {})
            await socket.answer_to("r1")
            socket.ask("r2", "event", "init", {})
            registrations.append((await socket.answer_to("r2"))["result"])
            socket.hang_up(1012)
            socket = await serving.server.accept()
            await socket.welcome(session="s-2")
        self.assertEqual([it["name"] for it in registrations[0]["op"]], ["early", "late"])
        self.assertEqual(len(registrations[0]["handler"]), 1)
        self.assertEqual(registrations[1:], registrations[:1] * 2)

    async def test_a_function_that_exits_fails_its_request_alone(self) -> None:
        @self.plugin.op("async")
        async def in_loop() -> None:
            sys.exit(3)

        @self.plugin.op("sync")
        def in_thread() -> None:
            sys.exit(3)

        _, socket = await self.serving()
        for name in ("async", "sync"):
            with self.assertLogs("skytrail", "ERROR"):
                socket.ask(name, "op", name, {})
                error = (await socket.answer_to(name))["error"]
            self.assertIn("sys.exit(3)", error["message"])

    async def test_a_request_that_the_plugin_itself_cancels_has_failed(self) -> None:
        shared = asyncio.create_task(asyncio.Event().wait())

        @self.plugin.op("share")
        async def share() -> None:
            await shared

        _, socket = await self.serving()
        socket.ask("r1", "op", "share", {})
        socket.ask("r2", "op", "share", {})
        await socket.settle()
        with self.assertLogs("skytrail", "ERROR") as logged:
            socket.tell("cancel", id="r1", reason="client-gone")
            first = (await socket.answer_to("r1"))["error"]
            second = (await socket.answer_to("r2"))["error"]
        self.assertEqual((first["code"], first["message"]), (119, "cancelled: client-gone"))
        own = "the function was cancelled by the plugin's own code"
        self.assertEqual((second["code"], second["message"]), (10000, own))
        self.assertIn("await shared", second["info"]["trace"])
        self.assertEqual([it.getMessage() for it in logged.records], ["op share failed"])

    async def test_a_thread_whose_request_was_cancelled_makes_no_calls_any_more(self) -> None:
        entered, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        @self.plugin.op("block")
        def block() -> None:
            entered.set()
            release.wait(PATIENCE)
            self.plugin.api.blocking.send_action("a")

        _, socket = await self.serving()
        socket.ask("r1", "op", "block", {})
        await asyncio.to_thread(entered.wait, PATIENCE)
        socket.tell("cancel", id="r1", reason="client-gone")
        await socket.settle()
        release.set()
        error = (await socket.answer_to("r1"))["error"]
        self.assertIn("client-gone; nothing was sent", error["message"])

    async def test_what_a_lost_session_had_is_ended(self) -> None:
        ended: list[str] = []
        have_ended = asyncio.Event()

        def note(what: str) -> None:
            ended.append(what)
            if len(ended) == 3:
                have_ended.set()

        @self.plugin.op("async")
        async def in_loop() -> None:
            try:
                await self.plugin.api.send_action("a")
            except asyncio.CancelledError:
                note("cancelled")
                raise

        @self.plugin.op("sync")
        def in_thread() -> None:
            try:
                self.plugin.api.blocking.send_action("b")
            except ConnectionLost as lost:
                loop.call_soon_threadsafe(note, f"in the thread: {lost}")

        async def in_background() -> None:
            try:
                await self.plugin.api.send_action("c")
            except ConnectionLost as lost:
                note(f"in the background: {lost}")

        loop = asyncio.get_running_loop()
        serving, socket = await self.serving()
        background = asyncio.create_task(in_background())
        socket.ask("r1", "op", "async", {})
        socket.ask("r2", "op", "sync", {})
        for _ in range(3):
            await socket.expect("call")
        socket.hang_up()
        again = await serving.server.accept()
        await again.welcome(session="s-2")
        await asyncio.wait_for(have_ended.wait(), PATIENCE)
        await background
        lost = "connection lost; the action may have happened"
        self.assertEqual(
            sorted(ended), ["cancelled", f"in the background: {lost}", f"in the thread: {lost}"]
        )
        # The new session can reuse the old one's ids.
        again.ask("r1", "op", "async", {})
        self.assertEqual((await again.expect("call"))["parent"], "r1")

    async def test_after_a_restart_there_is_nothing_to_resume(self) -> None:
        serving, socket = await self.serving()
        socket.hang_up(1012)
        again = await serving.server.accept()
        self.assertNotIn("resume", await again.welcome())

    async def test_a_server_that_refuses_is_not_asked_again(self) -> None:
        for code in (4003, 4004, 4005, 4007):
            async with Serving(self.plugin) as serving:
                socket = await serving.server.accept()
                await socket.expect("hello")
                socket.hang_up(code, "go away")
                with self.assertRaisesRegex(Refused, f"{code}: go away"):
                    await asyncio.wait_for(serving.task, PATIENCE)

    async def test_a_protocol_error_ends_the_connection_and_the_session(self) -> None:
        for frame in (b"binary", "no json", '{"type":"drained","seq":5}'):
            serving, socket = await self.serving()
            socket.tell_raw(frame)
            self.assertEqual((await socket.expect("(close)"))["code"], 4002)
            again = await serving.server.accept()
            self.assertNotIn("resume", await again.welcome())

    async def test_a_worker_that_stops_drains_first(self) -> None:
        release = asyncio.Event()

        @self.plugin.op("wait")
        async def wait() -> str:
            await release.wait()
            return "done"

        serving, socket = await self.serving()
        socket.ask("r1", "op", "wait", {})
        await socket.settle()
        serving.worker.stop()
        await socket.expect("drain")
        release.set()
        self.assertEqual((await socket.answer_to("r1"))["result"], "done")
        socket.tell("drained")
        self.assertEqual((await socket.expect("(close)"))["code"], 1000)
        await asyncio.wait_for(serving.task, PATIENCE)

    async def test_a_worker_that_stops_waits_no_longer_than_its_limit(self) -> None:
        serving, socket = await self.serving(drain_seconds=0.0)
        serving.worker.stop()
        await socket.expect("drain")
        await asyncio.wait_for(serving.task, PATIENCE)

    async def test_a_worker_without_a_server_stops_at_once(self) -> None:
        async with Serving(self.plugin) as serving:
            refused = asyncio.Event()

            def pause(ending: Ending) -> float:
                refused.set()
                return 60.0

            serving.server.refusals = [ConnectionRefusedError("not now")]
            serving.worker._backoff.pause = pause  # type: ignore[method-assign]
            await asyncio.wait_for(refused.wait(), PATIENCE)
            serving.worker.stop()
            await asyncio.wait_for(serving.task, PATIENCE)

    async def test_what_a_server_that_refuses_asks_for_is_kept(self) -> None:
        for values, seconds in ((["7"], 7.0), ([], 0.0), (["7", "9"], 7.0)):
            async with Serving(self.plugin) as serving:
                refused: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

                def pause(ending: Ending, refused: asyncio.Future[Ending] = refused) -> float:
                    refused.set_result(ending)
                    return 60.0

                headers = Headers([("Retry-After", value) for value in values])
                serving.server.refusals = [InvalidStatus(Response(503, "", headers, b"busy"))]
                serving.worker._backoff.pause = pause  # type: ignore[method-assign]
                ending = await asyncio.wait_for(refused, PATIENCE)
                self.assertEqual((ending.status, ending.retry_after), (503, seconds))
                serving.worker.stop()
                await asyncio.wait_for(serving.task, PATIENCE)

    async def test_a_key_that_the_server_does_not_take_is_called_that(self) -> None:
        serving = Serving(self.plugin)
        serving.server.refusals = [InvalidStatus(Response(401, "", Headers(), b"no"))]
        with self.assertLogs("skytrail", "ERROR") as logged:
            await self.enterAsync(serving)
            await serving.server.accept()
        said = [record.getMessage() for record in logged.records]
        self.assertEqual(len(said), 1)
        self.assertRegex(said[0], "^the server refuses MASTER_KEY: .* 401: no")

    async def test_a_worker_of_an_older_generation_ends_when_it_was_drained(self) -> None:
        serving, socket = await self.serving()
        socket.tell("drain", reason="newer generation", reconnect=False)
        socket.tell("drained")
        await asyncio.wait_for(serving.task, PATIENCE)

    async def test_a_server_that_restarts_in_order_sees_the_worker_again(self) -> None:
        serving, socket = await self.serving()
        socket.tell("drain", reason="restart", reconnect=True, workers=1)
        socket.tell("drained")
        socket.hang_up(1012)
        await (await serving.server.accept()).welcome()

    async def test_a_call_before_there_is_a_connection_waits_for_it(self) -> None:
        async with Serving(self.plugin) as serving:
            self.plugin.connect_to(serving.worker)
            calling = asyncio.create_task(self.plugin.api.send_action("a"))
            socket = await serving.server.accept()
            await socket.welcome()
            call = await socket.expect("call")
            socket.tell("reply", id=call["id"], status=200, body={"result": 1})
            self.assertEqual(await calling, 1)

    async def test_a_call_without_a_running_plugin_fails_at_once(self) -> None:
        with self.assertRaisesRegex(ApiError, "is not running"):
            await Plugin("OTHER").api.send_action("a")
        with self.assertRaisesRegex(ApiError, "is not running"):
            Plugin("OTHER").api.blocking.send_action("a")

    async def test_waiting_for_a_call_in_the_loop_is_refused(self) -> None:
        @self.plugin.op("wrong")
        async def wrong() -> None:
            self.plugin.api.blocking.send_action("a")

        _, socket = await self.serving()
        with self.assertLogs("skytrail", "ERROR"):
            socket.ask("r1", "op", "wrong", {})
            error = (await socket.answer_to("r1"))["error"]
        self.assertIn("await", error["message"])
