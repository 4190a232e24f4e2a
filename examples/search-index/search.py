"""A full-text index next to Skytrail, fed from the log.

    python search.py feed            keep the index up to date, until the program is killed
    python search.py find WORDS      print the records that contain these words
    python search.py find-for USER WORDS
                                     print those of them that the user may read
"""

import os
import sqlite3
import sys

from log import call, consume

URL = os.environ.get("SKYGEAR_ENDPOINT", "http://127.0.0.1:3000").rstrip("/")
KEY = os.environ["MASTER_KEY"]
INDEX = os.environ.get("INDEX", "search.sqlite")
TYPES = os.environ.get("RECORD_TYPES", "note").split(",")
CONSUMER = "search-index"


class Index:
    """Records and their words. Putting a record in twice has the same effect as once."""

    def __init__(self, path):
        # The index can be rebuilt at any time: it need not survive a power loss.
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS record USING fts5(id UNINDEXED, words)")

    def put(self, record_id, words):
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("DELETE FROM record WHERE id = ?", (record_id,))
        if words is not None:
            self.db.execute("INSERT INTO record (id, words) VALUES (?, ?)", (record_id, words))
        self.db.execute("COMMIT")

    def ids(self, record_type):
        rows = self.db.execute("SELECT id FROM record WHERE id GLOB ?", (record_type + "/*",))
        return [row[0] for row in rows]

    def find(self, words):
        quoted = " ".join('"' + word.replace('"', '""') + '"' for word in words)
        rows = self.db.execute("SELECT id FROM record WHERE record MATCH ? ORDER BY rank", (quoted,))
        return [row[0] for row in rows]


def words_of(value):
    """Returns all strings in a value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [word for inner in value for word in words_of(inner)]
    return []


def refresh(index, record_id):
    """Puts a record into the index as it is now, which can be later than the event."""
    (record,) = call(URL, KEY, "record:fetch", ids=[record_id])
    if record["_type"] == "error":
        index.put(record_id, None)
        return
    fields = (value for name, value in record.items() if not name.startswith("_"))
    index.put(record_id, "\n".join(words_of(list(fields))))


def handle(index, event):
    kind, _, name = event["stream"].partition("/")
    if kind == "record":
        refresh(index, name)
    else:
        # A field of the type has been deleted or renamed.
        for record_id in index.ids(name):
            refresh(index, record_id)


def feed(index):
    # The first call creates the consumer, at the start of the log; later calls change nothing.
    call(
        URL,
        KEY,
        "log:consumer:create",
        consumer=CONSUMER,
        record_types=TYPES,
        kinds=["record", "type.field_renamed", "type.field_deleted"],
        **{"from": 1},
    )
    print("feeding", flush=True)
    consume(URL, KEY, CONSUMER, lambda event: handle(index, event))


def readable(user, ids):
    """Returns those of the records that a user may read."""
    if not ids:
        return []
    found = call(URL, KEY, "record:fetch", ids=ids, _user_id=user, _rights="user")
    return [record["_id"] for record in found if record["_type"] == "record"]


def main():
    index = Index(INDEX)
    if sys.argv[1:2] == ["feed"]:
        feed(index)
    elif sys.argv[1:2] == ["find"] and sys.argv[2:]:
        print("\n".join(index.find(sys.argv[2:])))
    elif sys.argv[1:2] == ["find-for"] and sys.argv[3:]:
        print("\n".join(readable(sys.argv[2], index.find(sys.argv[3:]))))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
