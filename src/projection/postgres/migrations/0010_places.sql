-- The places of records whose rows other programs have deleted, or given another id. A place is the position
-- at which the log created the record: the next row with its id gets it, until the log has deleted the record.
CREATE TABLE _place (
    table_name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    place bigint NOT NULL,
    PRIMARY KEY (table_name, key)
);
-- So far they were in the outbox: they are read from there when the table gets its trigger.

-- A session that inserts a row waits for one that is deleting its place.
CREATE FUNCTION _keep_place() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    known bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD._id = NEW._id THEN
        NEW._row := OLD._row;
        RETURN NEW;
    END IF;
    EXECUTE format('SELECT place FROM %I._place WHERE table_name = $1 AND key = $2 FOR UPDATE', TG_TABLE_SCHEMA)
        INTO known USING TG_TABLE_NAME::text, NEW._id;
    -- The default is a place after all positions.
    IF known IS NOT NULL THEN
        NEW._row := known;
    ELSIF TG_OP = 'UPDATE' OR NEW._row < 4611686018427387904 THEN
        EXECUTE format('SELECT %I._next_row()', TG_TABLE_SCHEMA) INTO NEW._row;
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION _capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog SET extra_float_digits = 1 AS $$
DECLARE
    put text := format(
        'INSERT INTO %I._outbox (transaction, role, at, table_name, key, before, after) '
        'VALUES (pg_current_xact_id()::text::bigint, session_user, '
        'statement_timestamp() AT TIME ZONE ''UTC'', $1, $2, $3, $4)', TG_TABLE_SCHEMA);
BEGIN
    IF TG_OP = 'UPDATE' AND OLD OPERATOR(pg_catalog.*=) NEW THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        EXECUTE put USING TG_TABLE_NAME, NEW._id, NULL::jsonb, to_jsonb(NEW);
    ELSIF TG_OP = 'UPDATE' AND OLD._id = NEW._id THEN
        EXECUTE put USING TG_TABLE_NAME, NEW._id, to_jsonb(OLD), to_jsonb(NEW);
    ELSE
        EXECUTE put USING TG_TABLE_NAME, OLD._id, to_jsonb(OLD), NULL::jsonb;
        IF TG_OP = 'UPDATE' THEN
            EXECUTE put USING TG_TABLE_NAME, NEW._id, NULL::jsonb, to_jsonb(NEW);
        END IF;
        -- Rows that others have inserted have later places.
        IF OLD._row < 4611686018427387904 THEN
            EXECUTE format('INSERT INTO %I._place AS p VALUES ($1, $2, $3) ON CONFLICT (table_name, key) '
                'DO UPDATE SET place = excluded.place WHERE p.place <> excluded.place', TG_TABLE_SCHEMA)
                USING TG_TABLE_NAME, OLD._id, OLD._row;
        END IF;
    END IF;
    PERFORM pg_notify(TG_TABLE_SCHEMA, '');
    RETURN NULL;
END $$;
