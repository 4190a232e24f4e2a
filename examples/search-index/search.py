"""A full-text index next to Skytrail, fed from the log.

    python search.py feed            keep the index up to date, until the program is killed
    python search.py find WORDS      print the records that contain these words
    python search.py find-for USER WORDS
                                     print those of them that the user may read
"""

import os
import sqlite3
import sys
import time

from log import call, consume

URL = os.environ.get("SKYGEAR_ENDPOINT", "http://127.0.0.1:3000").rstrip("/")
KEY = os.environ["MASTER_KEY"]
INDEX = os.environ.get("INDEX", "search.sqlite")
TYPES = os.environ.get("RECORD_TYPES", "note").split(",")
# Each index has its own: an event goes to only one of a consumer's workers.
CONSUMER = os.environ.get("CONSUMER", "search-index")

# How many records are fetched and stored at once.
PAGE = 50
# How often deleted words are removed from the file, at most.
TIDY_SECONDS = 5
NOT_FOUND = 110


class Index:
    """Records and their words. Putting a record in twice has the same effect as once."""

    def __init__(self, path):
        # The index can be rebuilt at any time: it need not survive a power loss.
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute("PRAGMA secure_delete = ON")
        # FTS5 finds rows only by number and by word.
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS place (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)"
        )
        self.db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS word USING fts5(words)")
        # FTS5 keeps deleted words until it merges its segments. From 3.42 on it can do without.
        self.needs_merge = sqlite3.sqlite_version_info < (3, 42)
        if not self.needs_merge:
            self.db.execute("INSERT INTO word (word, rank) VALUES ('secure-delete', 1)")
        # An earlier run may have been killed before it was tidy.
        self.is_tidy = False
        self.next_tidy = 0

    def put(self, records):
        """Replaces the words of records, given by id; None removes a record."""
        self.db.execute("BEGIN IMMEDIATE")
        for record_id, words in records.items():
            self.db.execute("INSERT OR IGNORE INTO place (id) VALUES (?)", (record_id,))
            row = self.db.execute("SELECT number FROM place WHERE id = ?", (record_id,)).fetchone()
            self.db.execute("DELETE FROM word WHERE rowid = ?", row)
            if words is None:
                self.db.execute("DELETE FROM place WHERE number = ?", row)
            else:
                self.db.execute("INSERT INTO word (rowid, words) VALUES (?, ?)", (*row, words))
        self.db.execute("COMMIT")
        self.is_tidy = False

    def tidy(self):
        """Removes what was deleted or replaced from FTS5's old segments and the write-ahead log."""
        if self.is_tidy or time.monotonic() < self.next_tidy:
            return
        self.next_tidy = time.monotonic() + TIDY_SECONDS
        try:
            if self.needs_merge:
                self.db.execute("INSERT INTO word (word) VALUES ('optimize')")
            (is_busy, _, _) = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self.is_tidy = not is_busy
        except sqlite3.OperationalError:
            # Another program uses the index; this is tried again.
            pass

    def ids(self, record_type):
        rows = self.db.execute("SELECT id FROM place WHERE id GLOB ?", (record_type + "/*",))
        return [row[0] for row in rows]

    def find(self, words):
        quoted = " ".join('"' + word.replace('"', '""') + '"' for word in words)
        rows = self.db.execute(
            "SELECT id FROM word JOIN place ON number = word.rowid WHERE word MATCH ? ORDER BY rank",
            (quoted,),
        )
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


def words_of_record(record):
    """Returns a record's words, or None if there is no such record in the public database."""
    if record["_type"] == "error":
        if record["code"] != NOT_FOUND:
            raise ValueError(record["message"])
        return None
    fields = [value for name, value in record.items() if not name.startswith("_")]
    return "\n".join(words_of(fields))


def refresh(index, ids):
    """Puts records into the index as they are now, which can be later than the event."""
    records = call(URL, KEY, "record:fetch", ids=ids)
    index.put({record_id: words_of_record(it) for record_id, it in zip(ids, records)})


def handle(index, event, extend):
    kind, _, name = event["stream"].partition("/")
    if kind == "record":
        refresh(index, [name])
        return
    if kind == "restore":
        print("the server was restored: build the index again, see README.md", file=sys.stderr)
        return
    # A field of the type has been deleted or renamed. With many records this takes long.
    ids = index.ids(name)
    for start in range(0, len(ids), PAGE):
        refresh(index, ids[start : start + PAGE])
        extend()


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
    consume(URL, KEY, CONSUMER, lambda event, extend: handle(index, event, extend), index.tidy)


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
