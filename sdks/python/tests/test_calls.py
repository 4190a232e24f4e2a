from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import unittest
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import patch

from skytrail.calls import Calls, Reply, Turns
from skytrail.errors import CallTimeout
from skytrail.messages import Replied

LONG = 600.0
REPLY = Replied("c1", 200, {"result": 1})


async def begin(waiting: Coroutine[Any, Any, Any]) -> tuple[asyncio.Task[Any], Callable[[], Any]]:
    """Starts something that waits for a limited time; returns it and what its timer does."""
    loop = asyncio.get_running_loop()
    timers: list[Callable[[], Any]] = []

    def call_at(when: float, callback: Callable[..., Any], *args: Any, **_: Any) -> Any:
        timers.append(lambda: callback(*args))
        return asyncio.TimerHandle(when, callback, args, loop)

    with patch.object(loop, "call_at", call_at):
        task = asyncio.create_task(waiting)
        while not timers:
            await asyncio.sleep(0)
    return task, timers[0]


class WaitingForReplies(unittest.IsolatedAsyncioTestCase):
    async def test_a_cancellation_that_comes_with_the_reply_is_not_lost(self) -> None:
        calls = Calls()
        waiting, _ = await begin(calls.wait("c1", time.monotonic() + LONG, None))
        calls.take(REPLY)
        waiting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiting

    async def test_a_reply_that_comes_as_its_time_ends_is_not_lost(self) -> None:
        calls = Calls()
        waiting, end_time = await begin(calls.wait("c1", time.monotonic() + LONG, None))
        calls.take(REPLY)
        end_time()
        self.assertEqual(await waiting, Reply(200, {"result": 1}))

    async def test_without_a_reply_the_time_ends_the_waiting(self) -> None:
        waiting, end_time = await begin(Calls().wait("c1", time.monotonic() + LONG, None))
        end_time()
        with self.assertRaises(CallTimeout):
            await waiting

    async def test_a_failure_that_comes_with_a_cancellation_is_not_reported_as_forgotten(
        self,
    ) -> None:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, it: reports.append(it))
        calls = Calls()
        waiting, _ = await begin(calls.wait("c1", time.monotonic() + LONG, None))
        calls.fail()
        waiting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiting
        del waiting
        gc.collect()
        self.assertEqual(reports, [])


class TakingTurns(unittest.IsolatedAsyncioTestCase):
    async def test_a_turn_that_comes_as_its_time_ends_is_not_lost(self) -> None:
        turns = Turns(2)
        await turns.take(0, time.monotonic(), None)
        second, end_time = await begin(turns.take(0, time.monotonic() + LONG, None))
        turns.end()
        end_time()
        with contextlib.suppress(CallTimeout):
            await second
            turns.end()
        await turns.take(0, time.monotonic(), None)

    async def test_a_cancellation_that_comes_with_the_turn_is_not_lost(self) -> None:
        turns = Turns(2)
        await turns.take(0, time.monotonic(), None)
        second, _ = await begin(turns.take(0, time.monotonic() + LONG, None))
        turns.end()
        second.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await second
        await turns.take(0, time.monotonic(), None)

    async def test_many_wait_at_the_cost_of_few_and_get_their_turns_in_order(self) -> None:
        num_tries = 0

        class Counted(Turns):
            def _try_take(self, level: int) -> bool:
                nonlocal num_tries
                num_tries += 1
                return super()._try_take(level)

        order: list[int] = []

        async def call(number: int) -> None:
            await turns.take(number % 2, time.monotonic() + LONG, None)
            order.append(number)
            await asyncio.sleep(0)
            turns.end()

        turns = Counted(1)
        await turns.take(0, time.monotonic(), None)
        calls = [asyncio.create_task(call(number)) for number in range(400)]
        await asyncio.sleep(0)
        # Whoever does not wait any more holds up nobody.
        leaving = [calls[number] for number in (0, 1, 200, 399)]
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        num_tries = 0
        turns.end()
        await asyncio.gather(*calls, return_exceptions=True)
        self.assertLess(num_tries, 4 * 400)
        # What is deeper goes first: the others may wait for it.
        deep, outer = list(range(3, 399, 2)), [*range(2, 200, 2), *range(202, 400, 2)]
        self.assertEqual(order, [*deep, *outer])
