-- A row is identified by its mark. Numbers can repeat: after a failover or a crash, a transaction can
-- get those of one that was lost, and that the log may have.
ALTER TABLE _outbox ADD COLUMN mark uuid;
UPDATE _outbox SET mark = (SELECT outbox FROM _captured);
ALTER TABLE _outbox ALTER mark SET DEFAULT gen_random_uuid(), ALTER mark SET NOT NULL;
DROP TABLE _captured;
