-- Captured changes are announced on a channel that has the name of the schema: with a prefix, the longest
-- names would be too long for a channel.
CREATE OR REPLACE FUNCTION _capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog SET extra_float_digits = 1 AS $$
DECLARE
    put text := format(
        'INSERT INTO %I._outbox (transaction, role, at, table_name, key, before, after) '
        'VALUES (pg_current_xact_id()::text::bigint, session_user, '
        'statement_timestamp() AT TIME ZONE ''UTC'', $1, $2, $3, $4)', TG_TABLE_SCHEMA);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD OPERATOR(pg_catalog.*=) NEW THEN
            RETURN NULL;
        END IF;
        IF OLD._id = NEW._id THEN
            EXECUTE put USING TG_TABLE_NAME, NEW._id, to_jsonb(OLD), to_jsonb(NEW);
        ELSE
            EXECUTE put USING TG_TABLE_NAME, OLD._id, to_jsonb(OLD), NULL::jsonb;
            EXECUTE put USING TG_TABLE_NAME, NEW._id, NULL::jsonb, to_jsonb(NEW);
        END IF;
    ELSIF TG_OP = 'INSERT' THEN
        EXECUTE put USING TG_TABLE_NAME, NEW._id, NULL::jsonb, to_jsonb(NEW);
    ELSE
        EXECUTE put USING TG_TABLE_NAME, OLD._id, to_jsonb(OLD), NULL::jsonb;
    END IF;
    PERFORM pg_notify(TG_TABLE_SCHEMA, '');
    RETURN NULL;
END $$;
