"""The chat's own rules, and its page."""

import asyncio
from pathlib import Path

from skytrail import (
    DirectAccessControlEntry,
    InvalidArgument,
    Plugin,
    PublicAccessControlEntry,
    Record,
    Reference,
    Response,
    SkygearException,
    current_context,
    field,
)

plugin = Plugin("CHAT")

# Who listens here hears of new rooms; news of a room come on the channel that is its id.
ROOMS = "chat:rooms"
MAX_ROOMS = 50
keys = {}


@plugin.event("init")
def learn_key(config):
    keys["api_key"] = config["app"]["api_key"]


@plugin.event("before-plugins-ready")
async def make_types():
    types = {
        "room": {"title": "string"},
        "message": {
            "room": "ref(room)",
            "text": "string",
            "word_count": "number",
            "author": "string",
            "attachment": "asset",
        },
        # Up to which message somebody has read a room.
        "reading": {"room": "ref(room)", "name": "string", "until": "datetime"},
    }
    record_types = {
        name: {"fields": [{"name": it, "type": kind} for it, kind in fields.items()]}
        for name, fields in types.items()
    }
    await plugin.api.send_action("schema:create", {"record_types": record_types})


# -- rooms -------------------------------------------------------------------


@plugin.before_save("room")
def check_room(room, original):
    if not (room.get("title") or "").strip():
        raise refusal("a room needs a title", "title")


@plugin.after_save("room")
async def announce_room(room, original):
    await plugin.api.publish(ROOMS, {"event": "room", "room": room.to_wire()})


@plugin.op("chat:rooms", user_required=True)
async def rooms():
    """Lists the rooms, each with how much in it the asker has not read."""
    me = current_context()["user_id"]
    found = await plugin.api.query("room", sort=[field("_created_at").ascending], limit=MAX_ROOMS)
    return {"rooms": await asyncio.gather(*(summary(room, me) for room in found))}


async def summary(room, me):
    known = await plugin.api.fetch_many([reading_id(str(room.id), me)])
    read = [it for it in known if isinstance(it, Record)]
    unread = (field("room") == room.reference) & (field("_owner_id") != me)
    if read:
        unread &= field("_created_at") > read[0]["until"]
    counted = await plugin.api.query("message", unread, limit=1, count=True)
    return {"id": str(room.id), "title": room["title"], "unread": counted.overall_count}


# -- messages ----------------------------------------------------------------


@plugin.before_save("message")
async def check(message, original):
    words = (message.get("text") or "").split()
    if not words and message.get("attachment") is None:
        raise refusal("a message needs a text", "text")
    if message.get("room") is None:
        raise refusal("a message needs a room", "room")
    message["word_count"] = len(words)
    if original is not None:
        message["author"] = original.get("author")
    else:
        me = current_context()["user_id"]
        message["author"] = await name_of(me)
        # Everybody reads it, and only who wrote it may change it.
        message.acl = [
            DirectAccessControlEntry(me, "write"),
            PublicAccessControlEntry("read"),
        ]


@plugin.after_save("message")
async def announce(message, original):
    event = "sent" if original is None else "edited"
    news = {"event": event, "message": message.to_wire()}
    await plugin.api.publish(str(message["room"].id), news)


@plugin.op("chat:typing", user_required=True)
async def typing(room):
    me = current_context()["user_id"]
    news = {"event": "typing", "user": me, "name": await name_of(me)}
    await plugin.api.publish(room, news)


@plugin.op("chat:read", user_required=True)
async def read(message):
    """Notes that the asker has read a room up to a message, and tells the room."""
    me = current_context()["user_id"]
    last = await plugin.api.fetch(message)
    room = last["room"]
    reading = Record(reading_id(str(room.id), me), room=room, until=last.created_at)
    reading["name"] = await name_of(me)
    reading.acl = []
    await plugin.api.as_user(me).save(reading)
    await plugin.api.publish(str(room.id), {"event": "read", **receipt(reading, me)})


@plugin.op("chat:readers", user_required=True)
async def readers(room):
    """Says who has read a room, and how far."""
    found = await plugin.api.query("reading", field("room") == Reference.to(room))
    return {"readers": [receipt(it, it.owner_id) for it in found]}


def receipt(reading, user):
    return {"user": user, "name": reading["name"], "until": reading["until"]}


def reading_id(room, user):
    return f"reading/{room.removeprefix('room/')}-{user}"


@plugin.op("chat:statistics", user_required=True)
async def statistics(room):
    api = plugin.api.as_user(current_context()["user_id"])
    messages = await api.query("message", field("room") == Reference.to(room))
    return {"messages": len(messages), "words": sum(it["word_count"] for it in messages)}


async def name_of(user):
    if user not in names:
        found = await plugin.api.fetch(f"user/{user}")
        names[user] = found.get("username") or "somebody"
    return names[user]


# They never change here.
names = {}


def refusal(text, argument):
    return SkygearException(text, InvalidArgument, {"arguments": [argument]})


# -- the page ----------------------------------------------------------------


@plugin.static_assets("chat")
def page():
    return Path(__file__).parent / "page"


@plugin.handler("chat", method=["GET"])
def show_page(request):
    return Response("", 302, {"Location": "/static/chat/index.html"})


@plugin.handler("chat/key", method=["GET"])
def client_key(request):
    return keys


if __name__ == "__main__":
    plugin.run()
