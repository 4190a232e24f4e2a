-- What other programs change by SQL is kept here, from the same transaction on, until it is in the log.
-- The setting skytrail.own marks the server's own connections; all other writes are captured.

-- Identifies the outbox: commits say which one they are from.
CREATE TABLE _captured (outbox uuid NOT NULL);
INSERT INTO _captured VALUES (gen_random_uuid());

CREATE TABLE _outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction bigint NOT NULL,
    role text COLLATE "C" NOT NULL,
    at timestamp NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX _outbox_key ON _outbox (table_name, key);
CREATE INDEX _outbox_transaction ON _outbox (transaction, id);

-- Rows that could not be written to the log, and why.
CREATE TABLE _parked (
    id bigint PRIMARY KEY,
    transaction bigint NOT NULL,
    role text COLLATE "C" NOT NULL,
    at timestamp NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    before jsonb,
    after jsonb,
    reason text COLLATE "C" NOT NULL,
    parked_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
);

-- Constraints of other programs that were in the way of the log; they are restored later.
CREATE TABLE _lifted (
    table_name text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    definition text COLLATE "C" NOT NULL,
    is_index boolean NOT NULL,
    PRIMARY KEY (table_name, name)
);

CREATE FUNCTION _put_back(of_table text, named text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lifted _lifted;
BEGIN
    DELETE FROM _lifted WHERE table_name = of_table AND name = named RETURNING * INTO lifted;
    EXECUTE CASE WHEN lifted.is_index THEN lifted.definition
        ELSE format('ALTER TABLE %I ADD CONSTRAINT %I %s', of_table, named, lifted.definition) END;
END $$;

-- Places of rows that other programs insert, after all places that the log assigns.
CREATE SEQUENCE _captured_row AS bigint START 4611686018427387904;
CREATE FUNCTION _next_row() RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER
    RETURN nextval('_captured_row'::regclass);

-- Names refer to the schema that the table is in, even after that is renamed.
CREATE FUNCTION _capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
    PERFORM pg_notify('skytrail.' || TG_TABLE_SCHEMA, '');
    RETURN NULL;
END $$;

CREATE FUNCTION _refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = format(
        'the server does not take %s of "%s" into its log', TG_OP, TG_TABLE_NAME),
        HINT = 'Rows of record types can be inserted, updated and deleted; the rest is the server''s own.';
END $$;

-- Tables that only the log changes.
DO $$
DECLARE
    own text;
BEGIN
    FOREACH own IN ARRAY ARRAY['_checkpoint', '_captured', '_type', '_role', '_field_access', '_auth', '_sso_oauth',
        '_sso_custom_token', '_auth_provider', '_relation', '_relation_version', '_sequence', '_actor',
        '_history', '_faults', '_asset', '_device', '_subscription', '_task'] LOOP
        EXECUTE format('CREATE TRIGGER _refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I '
            'FOR EACH STATEMENT WHEN (current_setting(''skytrail.own'', true) IS DISTINCT FROM ''yes'') '
            'EXECUTE FUNCTION _refuse()', own);
    END LOOP;
END $$;
