-- A row is known by its mark. Numbers come again: when another server takes over, or after a crash, a
-- transaction may get those of one that was lost, and which the log may have.
ALTER TABLE _outbox ADD COLUMN mark uuid;
UPDATE _outbox SET mark = (SELECT outbox FROM _captured);
ALTER TABLE _outbox ALTER mark SET DEFAULT gen_random_uuid(), ALTER mark SET NOT NULL;
DROP TABLE _captured;
