"""Running a worker as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable


def run_until_signal(serve: Callable[[], Awaitable[None]], stop: Callable[[], None]) -> None:
    """Runs a worker; SIGTERM and SIGINT stop it, a second one ends the process at once."""
    num_signals = 0

    def on_signal() -> None:
        nonlocal num_signals
        num_signals += 1
        if num_signals > 1:
            os._exit(130)
        stop()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, on_signal)
            except NotImplementedError:
                # Windows has no handlers of loops.
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
        await serve()

    asyncio.run(main())
