"""A worker that records everything it does, for a test to read after the worker was killed."""

import asyncio
import os

import skytrail

plugin = skytrail.Plugin("WORK")
WORKER = os.environ["WORKER"]
BOOK = os.open(os.environ["BOOK"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(what, about):
    """Writes one line in one write: a killed worker has written all of it, or nothing."""
    os.write(BOOK, f"{what} {about}\n".encode())


@plugin.op("work:do")
async def do(token):
    note("did", token)
    await asyncio.sleep(0.002)
    return WORKER


@plugin.before_save("job")
async def check(record, original):
    note("before", record.id.key)


@plugin.after_save("job", async_=True)
async def saved(record, original):
    note("after", record.id.key)
