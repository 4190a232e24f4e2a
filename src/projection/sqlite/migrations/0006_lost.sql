-- What is not known, since the event with which it began is erased, and where it began.

CREATE TABLE _lost (stream TEXT PRIMARY KEY, place INTEGER NOT NULL);

PRAGMA user_version = 6;
