-- Devices and their subscriptions.

-- `version` is that of the device's stream, `subscriptions_version` that of its subscriptions' stream.
CREATE TABLE _device (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    auth_id TEXT,
    type TEXT NOT NULL,
    token TEXT,
    topic TEXT,
    last_registered_at INTEGER NOT NULL,
    subscriptions_version INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX _device_token ON _device (token);

-- `auth_id` is the user of a private database, empty for the public one; `query` is a JSON object,
-- the parameters of `record:query`.
CREATE TABLE _subscription (
    device_id TEXT NOT NULL,
    auth_id TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    notification_info TEXT,
    query TEXT NOT NULL,
    PRIMARY KEY (device_id, auth_id, id)
) WITHOUT ROWID;

PRAGMA user_version = 3;
