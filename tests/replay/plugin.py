"""A plugin in two versions; the second is tried on what the first one created."""

import os
import time

import skytrail
from skytrail import InvalidArgument, Plugin, Record, SkygearException, current_context

IS_NEW = os.environ.get("VERSION") == "2"

plugin = Plugin("TRIED")


@plugin.before_save("note")
async def prepare(note, original):
    title = note["title"]
    if IS_NEW and title == "Banned":
        raise SkygearException("not that title", InvalidArgument)
    slug = title.lower()
    note["slug"] = slug.replace(" ", "-") if IS_NEW else slug
    note["revision"] = 1 if original is None else original["revision"] + 1
    if original is None:
        note["before"] = len(await plugin.api.query("note", limit=1000))
    if title == "Stamped" and not IS_NEW:
        note["stamp"] = "old"
    if title == "Asked":
        note["sandbox"] = bool(current_context().get("sandbox"))
    if title == "Noted" and IS_NEW:
        await plugin.api.save(Record("entry", of=title))


@plugin.before_delete("note")
async def keep(note):
    if IS_NEW and note.get("pinned"):
        raise SkygearException("it is pinned", InvalidArgument)


@plugin.after_save("note")
async def told(note, original):
    if IS_NEW and note["title"] == "Untold":
        raise SkygearException("nobody to tell", InvalidArgument)


@plugin.before_save("user")
async def come(user, original):
    user["came_by"] = current_context().get("request_tag")


@plugin.before_save("letter")
async def stamp(letter, original):
    letter["stamped_at"] = time.time_ns()
    letter["saved_at"] = letter.updated_at


@plugin.after_save("letter")
async def post(letter, original, delivery):
    if IS_NEW or letter["title"] == "Shown":
        told = {"id": delivery.id, "position": delivery.position, "attempt": delivery.attempt}
        raise SkygearException("nobody to post it", InvalidArgument, told)


plugin.run()
