-- Things that are unknown because the event with which they began is erased, and where they began.

CREATE TABLE _lost (stream TEXT PRIMARY KEY, place INTEGER NOT NULL);

PRAGMA user_version = 6;
