"""Reports what a plugin sees of deliveries and deployments; `plugin.mjs` is the same in JavaScript.

A note's `mode` says how its delivery ends. `both:state` reports what was seen.
"""

import asyncio
import os

import skytrail
from skytrail import Drop, Plugin, RetryAfter

GENERATION = int(os.environ.get("PLUGIN_GENERATION", "0"))
FROM = os.environ.get("FROM")

plugin = Plugin("BOTH", position=None if FROM is None else int(FROM))
seen = []


@plugin.op("both:state")
async def state():
    return {"generation": GENERATION, "pid": os.getpid(), "seen": seen}


@plugin.op("both:slow")
async def slow(path):
    """Works until there is a file."""
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    return GENERATION


@plugin.op("both:history")
async def history(id):
    versions = [version async for version in plugin.api.history(id, page=2)]
    first = versions[-1]
    old = await plugin.api.fetch(id, as_of=first.position)
    then = [it["n"] for it in await plugin.api.query(old.id.type, as_of=first.time)]
    restored = await plugin.api.restore(id, first)
    latest = [version async for version in plugin.api.history(id, after=versions[0].position)]
    return {
        "kinds": [version.kind for version in versions],
        "changes": [[it.changes["n"].before, it.changes["n"].after] for it in versions],
        "records": [None if it.record is None else it.record["n"] for it in versions],
        "users": [version.actor.get("user") for version in versions],
        "old": old["n"],
        "then": then,
        "restored": restored["n"],
        "latest": [version.actor.get("plugin") for version in latest],
    }


if GENERATION < 2:

    @plugin.op("both:old")
    async def old():
        return "old"

else:

    @plugin.op("both:new")
    async def new():
        return "new"


@plugin.after_save("note", async_=True, timeout=3.5)
async def told(note, original, delivery):
    mode = note.get("mode")
    seen.append(
        {
            "n": note["n"],
            "mode": mode,
            "position": delivery.position,
            "attempt": delivery.attempt,
            "catching_up": delivery.catching_up,
        }
    )
    if mode == "drop":
        raise Drop("not for me")
    if mode == "retry" and delivery.attempt == 1:
        raise RetryAfter(0.1)
    if mode == "long":
        # Takes longer than its limit, but never stays silent that long.
        for _ in range(8):
            await asyncio.sleep(0.5)
            skytrail.progress()


@plugin.after_save("sign", async_=True, catch_up="latest")
async def latest(sign, original):
    seen.append({"sign": "latest", "n": sign["n"]})


@plugin.after_save("sign", async_=True, catch_up="none")
async def none(sign, original):
    seen.append({"sign": "none", "n": sign["n"]})


plugin.run()
