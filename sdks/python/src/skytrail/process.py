"""Runs a worker as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

log = logging.getLogger("skytrail")

# How long functions may keep running after the plugin has ended.
CLEANUP_SECONDS = 5.0


def run_until_signal(serve: Callable[[], Awaitable[None]], stop: Callable[[], None]) -> None:
    """Runs a worker; SIGTERM and SIGINT stop it, and a second signal ends the process at once.

    The process also ends, some seconds after the plugin has ended, if a function ignores its
    cancellation: the loop would wait for it.
    """
    num_signals = 0
    patience: threading.Timer | None = None

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
                # Event loops on Windows have no signal handlers.
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
        nonlocal patience
        try:
            await serve()
        except BaseException as error:
            patience = _end_later(error)
            raise
        patience = _end_later()

    try:
        asyncio.run(main())
    finally:
        if patience is not None:
            patience.cancel()


def _end_later(error: BaseException | None = None) -> threading.Timer:
    """Ends the process after a while, unless the timer is cancelled."""

    def give_up() -> None:
        if error is not None:
            log.error("the plugin has ended: %s", error)
        log.error("the process exits, although a function ignores its cancellation")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0 if error is None else 1)

    timer = threading.Timer(CLEANUP_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    return timer
