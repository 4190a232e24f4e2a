from __future__ import annotations

import asyncio
import contextlib
import time
import unittest
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from skytrail.calls import Turns
from skytrail.errors import CallTimeout

LONG = 600.0


class TakingTurns(unittest.IsolatedAsyncioTestCase):
    async def test_a_turn_that_comes_as_its_time_ends_is_not_lost(self) -> None:
        loop = asyncio.get_running_loop()
        timers: list[Callable[[], Any]] = []

        def call_at(when: float, callback: Callable[..., Any], *args: Any, **_: Any) -> Any:
            timers.append(lambda: callback(*args))
            return asyncio.TimerHandle(when, callback, args, loop)

        turns = Turns(2)
        await turns.take(0, time.monotonic(), None)
        with patch.object(loop, "call_at", call_at):
            second = asyncio.create_task(turns.take(0, time.monotonic() + LONG, None))
            while not timers:
                await asyncio.sleep(0)
        turns.end()
        timers[0]()
        with contextlib.suppress(CallTimeout):
            await second
            turns.end()
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
