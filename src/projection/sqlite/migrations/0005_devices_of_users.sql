-- Pushes go to all devices of a user.

CREATE INDEX _device_user ON _device (auth_id);

PRAGMA user_version = 5;
