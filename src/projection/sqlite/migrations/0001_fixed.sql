-- Our own tables; events create those of record types.

CREATE TABLE _checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL
);
INSERT INTO _checkpoint (id, position) VALUES (1, 0);

-- A record type: its definition, and the names of its table and columns.
CREATE TABLE _type (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    table_name TEXT,
    columns TEXT NOT NULL,
    definition TEXT NOT NULL
);

CREATE TABLE _role (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    by_default INTEGER NOT NULL,
    is_admin INTEGER NOT NULL
) WITHOUT ROWID;

-- Who can see, change and search which fields: all rules as one JSON array.
CREATE TABLE _field_access (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    rules TEXT NOT NULL
);

-- Users' auth rows: password hash, providers, roles, as one JSON object.
CREATE TABLE _auth (
    id TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    state TEXT NOT NULL
);

-- Accounts elsewhere that log users in, derived from the auth rows, in v1's layout. v1 keeps tokens of
-- other services in token_response; they are not stored here.
CREATE TABLE _sso_oauth (
    user_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    principal_id TEXT NOT NULL,
    token_response TEXT,
    profile TEXT,
    _created_at INTEGER NOT NULL,
    _updated_at INTEGER NOT NULL,
    PRIMARY KEY (provider, principal_id),
    UNIQUE (user_id, provider)
) WITHOUT ROWID;

CREATE TABLE _sso_custom_token (
    user_id TEXT NOT NULL PRIMARY KEY,
    principal_id TEXT NOT NULL UNIQUE,
    _created_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Accounts at plugins' auth providers, as provider:principal.
CREATE TABLE _auth_provider (
    principal TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX _auth_provider_user ON _auth_provider (user_id);

-- kind: 1 friend, 2 follow
CREATE TABLE _relation (
    kind INTEGER NOT NULL,
    from_user TEXT NOT NULL,
    to_user TEXT NOT NULL,
    PRIMARY KEY (kind, from_user, to_user)
) WITHOUT ROWID;
CREATE INDEX _relation_back ON _relation (kind, to_user);

CREATE TABLE _relation_version (
    kind INTEGER NOT NULL,
    from_user TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (kind, from_user)
) WITHOUT ROWID;

-- The last number of each sequence field.
CREATE TABLE _sequence (
    type INTEGER NOT NULL,
    field TEXT NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (type, field)
) WITHOUT ROWID;

-- Each actor once, as a JSON object.
CREATE TABLE _actor (
    id INTEGER PRIMARY KEY,
    actor TEXT NOT NULL UNIQUE
);

-- One row per event. `stream` is a hash of the stream's name; the event in the log has the name.
CREATE TABLE _history (
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    version INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    time INTEGER NOT NULL
);
-- Hashes are random, so one index over all of them would touch a page per event. In slices of 65,536
-- events the part that is written to stays small; a lookup reads slice by slice.
CREATE INDEX _history_stream ON _history (position >> 16, stream);

-- Events, or parts of them, that could not be applied.
CREATE TABLE _faults (
    position INTEGER NOT NULL,
    stream TEXT NOT NULL,
    reason TEXT NOT NULL
);
-- Indexes that queries or people asked for; `columns` is a JSON array of objects.
-- wish: auto, declared or forbidden; state: built, wanted or none.
CREATE TABLE _index (
    type TEXT NOT NULL,
    columns TEXT NOT NULL,
    wish TEXT NOT NULL,
    is_pinned INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL,
    name TEXT,
    why TEXT NOT NULL,
    built_at INTEGER,
    last_used_at INTEGER,
    num_uses INTEGER NOT NULL DEFAULT 0,
    num_bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (type, columns)
) WITHOUT ROWID;

PRAGMA user_version = 1;
