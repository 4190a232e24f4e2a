-- What is known of files; `size` is the announced one at first, then that of the last upload.
CREATE TABLE _asset (
    id TEXT PRIMARY KEY,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID;

PRAGMA user_version = 2;
