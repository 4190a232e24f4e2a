from __future__ import annotations

import subprocess
import sys
import unittest

PROGRAM = """
import asyncio, logging, sys, time
from skytrail import process

logging.basicConfig()
process.CLEANUP_SECONDS = 0.1

async def ignores_its_end():
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

async def serve():
    if "task" in sys.argv:
        task = asyncio.create_task(ignores_its_end())
    if "thread" in sys.argv:
        task = asyncio.create_task(asyncio.to_thread(time.sleep, 600))
    await asyncio.sleep(0)
    if "refused" in sys.argv:
        raise RuntimeError("not wanted")

process.run_until_signal(serve, lambda: None)
print("cleaning up")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Ending(unittest.TestCase):
    def test_what_ignores_that_it_is_cancelled_does_not_keep_the_process(self) -> None:
        for stubborn in ("task", "thread"):
            done = run(stubborn)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("ignores its cancellation", done.stderr)
            done = run(stubborn, "refused")
            self.assertEqual(done.returncode, 1)
            self.assertIn("not wanted", done.stderr)

    def test_a_program_goes_on_when_everything_has_ended(self) -> None:
        done = run()
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "cleaning up\n", ""))
        done = run("refused")
        self.assertEqual(done.returncode, 1)
        self.assertIn("not wanted", done.stderr)
