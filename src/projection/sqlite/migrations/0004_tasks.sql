-- Scheduled tasks: when they run, what is settled, and the last run, as one JSON object each.
CREATE TABLE _task (
    plugin TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (plugin, name)
) WITHOUT ROWID;

PRAGMA user_version = 4;
