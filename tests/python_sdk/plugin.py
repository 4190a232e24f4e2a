"""A plugin that uses every extension point once, for the tests of the package `skytrail`.

Every effect is visible from outside: `demo:seen` reports what happened in this process.
"""

import asyncio
import os
import threading
import time
from pathlib import Path

import skytrail
from skytrail import (
    AuthProvider,
    InvalidArgument,
    InvalidCredentials,
    PublicAccessControlEntry,
    Record,
    Reference,
    Response,
    SkygearException,
    current_context,
    field,
)

SEEN = {"pid": os.getpid(), "events": [], "ticks": 0, "deliveries": [], "cancelled": 0}


@skytrail.op("demo:echo")
async def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs, "types": [type(it).__name__ for it in args]}


@skytrail.op("demo:context", user_required=True)
def context():
    return {**current_context(), "thread": threading.current_thread().name}


@skytrail.op("demo:fail")
def fail(mode):
    if mode == "known":
        raise SkygearException("no such thing", InvalidArgument, {"arguments": ["mode"]})
    raise ValueError("a plain exception")


@skytrail.op("demo:sleep", timeout=20)
async def sleep(seconds, blocking=False):
    SEEN["events"].append("sleeping")
    try:
        if blocking:
            await asyncio.to_thread(time.sleep, seconds)
        else:
            await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        SEEN["cancelled"] += 1
        raise
    return {"slept": seconds}


@skytrail.op("demo:write_away")
async def write_away(title):
    """Saves a record once the connection is cut, and leaves a mark that it does."""
    place = Path(os.environ["PLACE"])
    while not (place / "away").exists():
        await asyncio.sleep(0.01)
    with open(place / "saving", "a", encoding="utf-8") as saving:
        saving.write(f"{title}\n")
    saved = await skytrail.api.save(Record("note", title=title))
    return saved["revision"]


@skytrail.op("demo:hasty", timeout=3)
async def hasty():
    await sleep(60)


@skytrail.op("demo:seen")
async def seen():
    return SEEN


@skytrail.op("demo:notes", user_required=True)
async def notes(room):
    api = skytrail.api.as_user(current_context()["user_id"])
    found = await api.query(
        "note",
        field("room") == Reference.to(room),
        sort=[field("title").ascending],
        count=True,
    )
    return {"titles": [note["title"] for note in found], "count": found.overall_count}


@skytrail.op("demo:write")
def write(title):
    """Saves from a thread; meanwhile the save's own hooks run in this worker."""
    saved = skytrail.api.blocking.save(Record("note", title=title))
    return {"id": str(saved.id), "revision": saved["revision"]}


@skytrail.op("demo:write_as", user_required=True)
async def write_as(title):
    saved = await skytrail.api.as_user(current_context()["user_id"]).save(
        Record("note", title=title)
    )
    return saved.owner_id


@skytrail.op("demo:tidy")
async def tidy(id):
    fetched = await skytrail.api.fetch(id)
    await skytrail.api.delete(fetched)
    return fetched["title"]


@skytrail.op("demo:nest")
async def nest(depth):
    """Calls itself to the given depth."""
    return 0 if depth == 0 else 1 + await skytrail.api.lambda_("demo:nest", depth - 1)


@skytrail.handler("demo/hello", method=["GET"])
def hello(request):
    return "hello " + request.args.get("name", "nobody")


@skytrail.handler("demo/hello", method=["POST"])
async def post(request):
    headers = {"X-Demo-Path": request.path, "Set-Cookie": ["a=1", "b=2"]}
    return Response(b"\x00\xff" + request.data, 201, headers)


@skytrail.handler("demo/tree/", method=["GET"])
def tree(request):
    return {"path": request.path, "query": request.query_string}


@skytrail.before_save("note")
def check(note, original):
    title = note.get("title")
    if not title:
        raise SkygearException("title is required", InvalidArgument, {"arguments": ["title"]})
    note["title"] = title.strip()
    note["revision"] = 1 if original is None else original["revision"] + 1
    if title == "public":
        note.acl = [PublicAccessControlEntry("read")]


@skytrail.after_save("note")
async def announce(note, original, delivery):
    SEEN["deliveries"].append(delivery.id if delivery else None)
    await skytrail.api.publish("notes", {"id": str(note.id), "at": note.updated_at})


@skytrail.before_delete("note")
async def keep_locked(note):
    if note.get("locked"):
        raise SkygearException("the note is locked", InvalidArgument)


@skytrail.after_delete("note", async_=True)
def gone(note):
    SEEN["events"].append(f"gone {note['title']}")


@skytrail.every("@every 1s")
def tick():
    SEEN["ticks"] += 1


@skytrail.event("before-plugins-ready")
async def before_ready(config):
    SEEN["events"].append(f"before-plugins-ready of {config['app']['name']}")
    (known,) = await skytrail.api.fetch_many(["room/1"])
    if isinstance(known, Record):
        return
    room = await skytrail.api.save(Record("room/1", name="the first"))
    await skytrail.api.save(Record("note/first", title="first", room=room.reference))


@skytrail.event("schema-changed")
def schema_changed(**types):
    SEEN["types"] = sorted(types)


@skytrail.provides("auth", "demo.provider")
class DemoProvider(AuthProvider):
    async def login(self, auth_data):
        if auth_data.get("pin") != "1234":
            raise SkygearException("wrong pin", InvalidCredentials)
        return {"principal_id": auth_data["name"], "auth_data": {"name": auth_data["name"]}}


@skytrail.static_assets("demo")
def assets():
    return Path(__file__).parent / "assets"


if __name__ == "__main__":
    skytrail.run()
