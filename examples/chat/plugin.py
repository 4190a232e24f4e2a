"""The chat's own rules, and its page."""

import asyncio
from pathlib import Path

from skytrail import (
    DirectAccessControlEntry,
    InvalidArgument,
    Plugin,
    Record,
    Reference,
    Response,
    RoleAccessControlEntry,
    SkygearException,
    current_context,
    field,
)

plugin = Plugin("CHAT")

# Everybody with an account has this role, and only this role may read what is said.
MEMBER = "member"
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
        # `until`: the time up to which somebody has read a room.
        "reading": {"room": "ref(room)", "name": "string", "until": "datetime"},
    }
    record_types = {
        name: {"fields": [{"name": it, "type": kind} for it, kind in fields.items()]}
        for name, fields in types.items()
    }
    await plugin.api.send_action("role:default", {"roles": [MEMBER]})
    await plugin.api.send_action("schema:create", {"record_types": record_types})


def keep_for_members(record, owner):
    """Lets every member read a record, and only its owner change it."""
    record.acl = [
        DirectAccessControlEntry(owner, "write"),
        RoleAccessControlEntry(MEMBER, "read"),
    ]


# -- rooms -------------------------------------------------------------------


@plugin.before_save("room")
def check_room(room, original):
    if not (room.get("title") or "").strip():
        raise refusal("a room needs a title", "title")
    if original is None:
        keep_for_members(room, current_context()["user_id"])


# -- what was read -----------------------------------------------------------


@plugin.before_save("reading")
async def check_reading(reading, original):
    me = current_context()["user_id"]
    room = reading.get("room")
    if room is None or str(reading.id) != reading_id(str(room.id), me):
        raise refusal("users can only save what they themselves have read", "_id")
    if reading.get("until") is None:
        raise refusal("a reading needs a time", "until")
    if original is not None:
            # The user may have read further in another tab.
        reading["until"] = max(reading["until"], original["until"])
    reading["name"] = await name_of(me)
    keep_for_members(reading, me)


@plugin.op("chat:unread", user_required=True)
async def unread(rooms):
    """Counts, for each room, the messages that the user has not read."""
    if len(rooms) > MAX_ROOMS:
        raise refusal(f"at most {MAX_ROOMS} rooms at once", "rooms")
    me = current_context()["user_id"]
    found = await plugin.api.fetch_many([reading_id(room, me) for room in rooms]) if rooms else []
    read = {str(it["room"].id): it["until"] for it in found if isinstance(it, Record)}
    counts = await asyncio.gather(*(count(me, room, read.get(room)) for room in rooms))
    return {"unread": dict(zip(rooms, counts, strict=True))}


async def count(me, room, until):
    of_others = (field("room") == Reference.to(room)) & (field("_owner_id") != me)
    if until:
        of_others &= field("_created_at") > until
    found = await plugin.api.as_user(me).query("message", of_others, limit=1, count=True)
    return found.overall_count


def reading_id(room, user):
    return f"reading/{room.removeprefix('room/')}-{user}"


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
        keep_for_members(message, me)


@plugin.after_save("message")
async def announce(message, original):
    """Announces that there is something, but not what: anybody can listen to a channel."""
    event = "sent" if original is None else "edited"
    await plugin.api.publish(str(message["room"].id), {"event": event, "id": str(message.id)})


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


# A cache: names never change here.
names = {}


def refusal(text, argument):
    return SkygearException(text, InvalidArgument, {"arguments": [argument]})


# -- the page ----------------------------------------------------------------


@plugin.static_assets("chat")
def page():
    return Path(__file__).parent / "page"


@plugin.static_assets("chat/live")
def live_queries():
    return Path(__file__).parents[2] / "sdks" / "live" / "src"


@plugin.handler("chat", method=["GET"])
def show_page(request):
    return Response("", 302, {"Location": "/static/chat/index.html"})


@plugin.handler("chat/key", method=["GET"])
def client_key(request):
    return keys


if __name__ == "__main__":
    plugin.run()
