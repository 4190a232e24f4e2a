-- The part of a parked row that was not written to the log: these columns, or all of it.
ALTER TABLE _parked ADD COLUMN columns jsonb;
UPDATE _parked SET columns = to_jsonb(string_to_array(substring(reason FROM 26), ', '))
    WHERE starts_with(reason, 'no field has the columns ');

-- Rows only pass through here: their contents must not be in the database's statistics.
ALTER TABLE _outbox ALTER before SET STATISTICS 0, ALTER after SET STATISTICS 0;
ALTER TABLE _parked ALTER before SET STATISTICS 0, ALTER after SET STATISTICS 0;

-- Refuses writes while the store is being left for another, or once it is no longer in use.
CREATE FUNCTION _closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = 'the record store is closed: it is made anew or moves, or has moved',
        HINT = 'Write again when the server is back, where its DATABASE_URL leads then.';
END $$;
