"""The chat's plugin: no empty messages, a word count, and news for everyone in the room."""

from skytrail import InvalidArgument, Plugin, Reference, SkygearException, current_context, field

plugin = Plugin("CHAT")


@plugin.before_save("message")
def check(message, original):
    words = (message.get("text") or "").split()
    if not words:
        raise SkygearException("a message needs a text", InvalidArgument, {"arguments": ["text"]})
    message["word_count"] = len(words)


@plugin.after_save("message")
async def announce(message, original):
    event = "sent" if original is None else "edited"
    news = {"event": event, "message": message.to_wire()}
    await plugin.api.publish(str(message["room"].id), news)


@plugin.op("chat:statistics", user_required=True)
async def statistics(room):
    api = plugin.api.as_user(current_context()["user_id"])
    messages = await api.query("message", field("room") == Reference.to(room))
    return {"messages": len(messages), "words": sum(it["word_count"] for it in messages)}


if __name__ == "__main__":
    plugin.run()
