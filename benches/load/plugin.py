"""The same as plugin.rs, with the Python package: what that costs."""

import skytrail

plugin = skytrail.Plugin("BENCH", window=1024)


@plugin.op("bench:lambda")
async def echo(*args):
    return {"args": args}


@plugin.before_save("hooked")
async def count(record, original):
    record["words"] = 5


@plugin.handler("bench:page", method=["GET"])
async def page(request):
    return "a page of a plugin"


@plugin.after_save("told", async_=True)
async def hear(record, original):
    pass
