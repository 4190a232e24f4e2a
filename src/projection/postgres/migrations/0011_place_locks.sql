-- A session that tries to insert a row, and inserts none, must not hold what the log needs. So a place is only
-- read before the row is there, and locked afterwards. If the log has deleted the place meanwhile, the row gets
-- another one.
CREATE OR REPLACE FUNCTION _keep_place() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog AS $$
DECLARE
    known bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD._id = NEW._id THEN
        -- What `_capture` sets stays.
        IF (NEW._row::text = current_setting('skytrail.place', true)) IS NOT TRUE THEN
            NEW._row := OLD._row;
        END IF;
        RETURN NEW;
    END IF;
    EXECUTE format('SELECT place FROM %I._place WHERE table_name = $1 AND key = $2', TG_TABLE_SCHEMA)
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
    is_named boolean := TG_OP = 'INSERT';
    known bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD._id = NEW._id THEN
        -- Only this function changes the place of a row that keeps its id.
        OLD._row := NEW._row;
        IF OLD OPERATOR(pg_catalog.*=) NEW THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_OP = 'INSERT' THEN
        EXECUTE put USING TG_TABLE_NAME, NEW._id, NULL::jsonb, to_jsonb(NEW);
    ELSIF TG_OP = 'UPDATE' AND OLD._id = NEW._id THEN
        EXECUTE put USING TG_TABLE_NAME, NEW._id, to_jsonb(OLD), to_jsonb(NEW);
    ELSE
        EXECUTE put USING TG_TABLE_NAME, OLD._id, to_jsonb(OLD), NULL::jsonb;
        IF TG_OP = 'UPDATE' THEN
            is_named := true;
            EXECUTE put USING TG_TABLE_NAME, NEW._id, NULL::jsonb, to_jsonb(NEW);
        END IF;
        -- Rows that others have inserted have later places.
        IF OLD._row < 4611686018427387904 THEN
            EXECUTE format('INSERT INTO %I._place AS p VALUES ($1, $2, $3) ON CONFLICT (table_name, key) '
                'DO UPDATE SET place = excluded.place WHERE p.place <> excluded.place', TG_TABLE_SCHEMA)
                USING TG_TABLE_NAME, OLD._id, OLD._row;
        END IF;
    END IF;
    IF is_named AND NEW._row < 4611686018427387904 THEN
        -- From here on the log waits for this transaction before it deletes the place.
        EXECUTE format('SELECT place FROM %I._place WHERE table_name = $1 AND key = $2 FOR SHARE', TG_TABLE_SCHEMA)
            INTO known USING TG_TABLE_NAME::text, NEW._id;
        IF known IS DISTINCT FROM NEW._row THEN
            IF known IS NULL THEN
                EXECUTE format('SELECT %I._next_row()', TG_TABLE_SCHEMA) INTO known;
            END IF;
            PERFORM set_config('skytrail.place', known::text, true);
            EXECUTE format('UPDATE %I.%I SET _row = $1 WHERE _id = $2 AND _row = $3', TG_TABLE_SCHEMA, TG_TABLE_NAME)
                USING known, NEW._id, NEW._row;
            PERFORM set_config('skytrail.place', '', true);
        END IF;
    END IF;
    PERFORM pg_notify(TG_TABLE_SCHEMA, '');
    RETURN NULL;
END $$;
