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
