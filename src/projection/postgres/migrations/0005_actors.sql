-- An actor can be longer than a sorted index permits.
ALTER TABLE _actor DROP CONSTRAINT _actor_actor_key,
    ADD CONSTRAINT _actor_once EXCLUDE USING hash (actor WITH =);
