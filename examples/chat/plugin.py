"""The chat's plugin: no empty messages, a word count, and news for everyone in the room."""

import logging
import os

from skytrail_plugin import Plugin, Refused

plugin = Plugin(
    "CHAT",
    endpoint=os.environ.get("SKYGEAR_ENDPOINT", "http://127.0.0.1:3000"),
    master_key=os.environ["MASTER_KEY"],
)


@plugin.before_save("message")
async def check(record, original):
    words = (record.get("text") or "").split()
    if not words:
        raise Refused(108, "a message needs a text", arguments=["text"])
    record["word_count"] = len(words)
    return record


@plugin.after_save("message")
async def announce(record, original):
    event = "sent" if original is None else "edited"
    await plugin.publish(record["room"]["$id"], {"event": event, "message": record})


@plugin.lambda_("chat:statistics", user_required=True)
async def statistics(room):
    messages = await plugin.call(
        "record:query",
        record_type="message",
        predicate=["eq", {"$type": "keypath", "$val": "room"}, {"$type": "ref", "$id": room}],
        _user_id=plugin.context["user_id"],
    )
    return {"messages": len(messages), "words": sum(it["word_count"] for it in messages)}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    plugin.run()
