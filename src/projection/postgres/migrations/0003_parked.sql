-- What of a parked row was not taken in: these columns, or all of it.
ALTER TABLE _parked ADD COLUMN columns jsonb;
UPDATE _parked SET columns = to_jsonb(string_to_array(substring(reason FROM 26), ', '))
    WHERE starts_with(reason, 'no field has the columns ');

-- Rows pass by here: what they hold is not to be in the database's statistics.
ALTER TABLE _outbox ALTER before SET STATISTICS 0, ALTER after SET STATISTICS 0;
ALTER TABLE _parked ALTER before SET STATISTICS 0, ALTER after SET STATISTICS 0;

-- Refuses who writes while the store is left for another, or is not the one in use any more.
CREATE FUNCTION _closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = 'the record store is closed: it is made anew or moves, or has moved',
        HINT = 'Write again when the server is back, where its DATABASE_URL leads then.';
END $$;
