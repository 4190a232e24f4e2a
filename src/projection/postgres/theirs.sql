-- Tells the server's own objects in an app's schema from those of other programs, and keeps the latter
-- when the former are replaced. These functions exist only within the transaction that uses them. Arguments
-- named `used` are the app's schema, `filled` the one that was filled next to it, and `kept` the one with
-- the previous store.

-- Returns the format of the store in a schema; 0 if that cannot be read any more, NULL if there is no store.
CREATE FUNCTION _theirs_version(place name) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    version bigint;
BEGIN
    IF to_regclass(format('%I._checkpoint', place)) IS NOT NULL THEN
        EXECUTE format('SELECT coalesce(max(format), 0) FROM %I._checkpoint', place) INTO version;
        RETURN version;
    END IF;
    RETURN (SELECT 0 FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(place)) AND proname = '_capture' LIMIT 1);
END $$;

-- Lists the server's own tables, views and sequences in a schema. A new migration adds its tables here, unless
-- they have the trigger `_refuse`, and its views and sequences. `known` is the newest format that this
-- program knows: a store of a newer one has views and sequences with other names.
CREATE FUNCTION _theirs_own(place name, known bigint) RETURNS SETOF oid LANGUAGE plpgsql AS $$
DECLARE
    space oid := to_regnamespace(quote_ident(place));
    tables text[] := '{}';
    version bigint := _theirs_version(place);
BEGIN
    IF version IS NULL THEN
        RETURN;
    END IF;
    IF to_regclass(format('%I._type', place)) IS NOT NULL THEN
        EXECUTE format('SELECT coalesce(array_agg(table_name), ''{}'') FROM %I._type', place) INTO tables;
    END IF;
    tables := tables || ARRAY['_checkpoint', '_type', '_role', '_field_access', '_auth', '_sso_oauth',
        '_sso_custom_token', '_auth_provider', '_relation', '_relation_version', '_sequence', '_actor', '_history',
        '_faults', '_asset', '_device', '_subscription', '_task', '_index', '_outbox', '_parked', '_lifted', '_lost',
        '_numbered', '_place'];
    RETURN QUERY SELECT c.oid FROM pg_class AS c WHERE c.relnamespace = space AND (
        c.relkind = 'r' AND (
            c.relname::text = ANY (tables)
            OR c.relname ~ '^_past_[0-9]+$'
                AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = '_until')
            OR EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
                WHERE t.tgrelid = c.oid AND p.pronamespace = space AND p.proname IN ('_refuse', '_capture')))
        OR c.relkind = 'v' AND c.relname IN ('_auth_role', '_friend', '_follow', '_user')
        OR c.relkind = 'S' AND c.relname = '_captured_row'
        OR c.relkind IN ('v', 'S') AND version > known AND starts_with(c.relname, '_')
            AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
                AND refclassid = 'pg_class'::regclass AND refobjsubid > 0 AND deptype IN ('a', 'i')));
END $$;

-- Lists the server's own functions in a schema.
CREATE FUNCTION _theirs_own_functions(place name, known bigint) RETURNS SETOF oid LANGUAGE sql AS $$
    SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(place))
        AND NOT starts_with(proname, '_theirs_')
        AND (_theirs_version(place) IS NOT NULL
                AND proname IN ('_utc', '_next_row', '_keep_place', '_capture', '_refuse', '_put_back', '_closed')
            OR _theirs_version(place) > known AND starts_with(proname, '_'))
$$;

-- Lists what else is in a schema: what belongs to a table moves with it and is left out.
CREATE FUNCTION _theirs_objects(place name, known bigint) RETURNS TABLE (kind text, named text) LANGUAGE plpgsql AS $$
DECLARE
    own oid[] := ARRAY(SELECT _theirs_own(place, known) UNION ALL SELECT _theirs_own_functions(place, known));
BEGIN
    RETURN QUERY SELECT o.type, o.identity
    FROM pg_depend AS d, pg_identify_object(d.classid, d.objid, 0) AS o
    WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = to_regnamespace(quote_ident(place))
        AND d.deptype = 'n' AND d.objid <> ALL (own) AND d.classid <> 'pg_default_acl'::regclass
        AND NOT (d.classid = 'pg_proc'::regclass
            AND EXISTS (SELECT FROM pg_proc WHERE oid = d.objid AND starts_with(proname, '_theirs_')))
        AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = d.classid AND e.objid = d.objid AND e.objsubid = 0
            AND (e.deptype = 'e' OR e.deptype IN ('a', 'i') AND e.refclassid = 'pg_class'::regclass AND e.refobjsubid > 0))
    ORDER BY 1, 2;
END $$;

-- Writes the statements that grant what an access list has.
CREATE FUNCTION _theirs_grants(what text, list aclitem[], owner oid) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(format('GRANT %s ON %s TO %s%s;', privilege_type, what,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), ' '), '')
    FROM aclexplode(list) WHERE grantee <> owner
$$;

-- Returns the full name of a relation, which CREATE needs.
CREATE FUNCTION _theirs_named(id oid) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s.%I', relnamespace::regnamespace, relname) FROM pg_class WHERE oid = id
$$;

-- Lists what other programs have built on the server's own objects in a schema, each with the statement
-- that creates it, without the schema's name.
CREATE FUNCTION _theirs_needing(place name, known bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    own oid[] := ARRAY(SELECT _theirs_own(place, known));
    own_functions oid[] := ARRAY(SELECT _theirs_own_functions(place, known));
    row_types oid[] := ARRAY(SELECT t.oid FROM pg_type AS t JOIN pg_class AS c ON c.reltype IN (t.oid, t.typelem)
        WHERE c.oid = ANY (own) AND c.reltype <> 0);
    path text := current_setting('search_path');
    listed jsonb;
BEGIN
    PERFORM set_config('search_path', quote_ident(place), true);
    SELECT coalesce(jsonb_agg(item), '[]') INTO listed FROM (
        SELECT jsonb_build_object('kind', 'constraint', 'name', o.conname, 'id', o.conrelid, 'key', o.conindid,
            'of', o.confrelid, 'text', pg_get_constraintdef(o.oid, true)) AS item
        FROM pg_constraint AS o WHERE o.contype = 'f' AND o.conparentid = 0
            AND o.confrelid = ANY (own) AND o.conrelid <> ALL (own)
        UNION ALL SELECT jsonb_build_object('kind', 'inheriting table', 'name', h.inhrelid::regclass, 'id', h.inhrelid,
            'of', h.inhparent)
        FROM pg_inherits AS h WHERE h.inhparent = ANY (own) AND h.inhrelid <> ALL (own)
        -- A table that inherits from a record table, or was created like one, has its defaults.
        UNION ALL SELECT jsonb_build_object('kind', 'default', 'name', a.attname, 'id', d.adrelid,
            'of', d.adrelid::regclass, 'text', pg_get_expr(d.adbin, d.adrelid))
        FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE d.adrelid <> ALL (own) AND a.attgenerated = '' AND EXISTS (SELECT FROM pg_depend AS e
            WHERE e.classid = 'pg_attrdef'::regclass AND e.objid = d.oid
            AND (e.refclassid = 'pg_proc'::regclass AND e.refobjid = ANY (own_functions)
                OR e.refclassid = 'pg_class'::regclass AND e.refobjid = ANY (own)))
        UNION ALL SELECT jsonb_build_object('kind', 'reference', 'name', o.conname, 'id', o.conrelid)
        FROM pg_constraint AS o WHERE o.contype = 'f' AND o.conparentid = 0
            AND o.conrelid = ANY (own) AND o.confrelid <> ALL (own)
        UNION ALL SELECT jsonb_build_object('kind', CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END,
            'name', c.relname, 'id', c.oid, 'text', rtrim(pg_get_viewdef(c.oid), ';'),
            'options', array_to_string(c.reloptions, ', '), 'is_filled', c.relispopulated,
            'indexes', (SELECT string_agg(pg_get_indexdef(i.indexrelid, 0, true), '; ') FROM pg_index AS i
                WHERE i.indrelid = c.oid))
        FROM pg_class AS c WHERE c.relkind IN ('v', 'm') AND c.oid <> ALL (own) AND EXISTS (
            SELECT FROM pg_rewrite AS r JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            WHERE r.ev_class = c.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (own))
        UNION ALL SELECT jsonb_build_object('kind', CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
            'name', p.proname, 'id', p.oid, 'signature', p.oid::regprocedure, 'text', pg_get_functiondef(p.oid))
        FROM pg_proc AS p WHERE p.prokind IN ('f', 'p') AND p.oid <> ALL (own_functions) AND EXISTS (SELECT FROM pg_depend AS d
            WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'n'
            AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (own)
                OR d.refclassid = 'pg_type'::regclass AND d.refobjid = ANY (row_types)))
        UNION ALL SELECT jsonb_build_object('kind', 'trigger', 'name', t.tgname, 'id', t.tgrelid, 'of', c.relname,
            'text', pg_get_triggerdef(t.oid, true) || CASE t.tgenabled
                WHEN 'D' THEN format('; ALTER TABLE %I DISABLE TRIGGER %I', c.relname, t.tgname)
                WHEN 'A' THEN format('; ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', c.relname, t.tgname)
                WHEN 'R' THEN format('; ALTER TABLE %I ENABLE REPLICA TRIGGER %I', c.relname, t.tgname)
                ELSE '' END)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE c.oid = ANY (own) AND NOT t.tgisinternal AND NOT starts_with(t.tgname, '_')
        UNION ALL SELECT jsonb_build_object('kind', 'rule', 'name', r.rulename, 'id', c.oid, 'of', c.relname,
            'text', rtrim(pg_get_ruledef(r.oid, true), ';'))
        FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
        WHERE c.oid = ANY (own) AND c.relkind = 'r'
        UNION ALL SELECT jsonb_build_object('kind', 'index', 'name', x.relname, 'id', c.oid, 'of', c.relname,
            'text', pg_get_indexdef(x.oid, 0, true))
        FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_class AS c ON c.oid = i.indrelid
        WHERE c.oid = ANY (own) AND NOT i.indisunique AND NOT starts_with(x.relname, '_')
            AND NOT EXISTS (SELECT FROM pg_constraint AS o WHERE o.conindid = x.oid)) AS items;
    PERFORM set_config('search_path', path, true);
    RETURN listed;
END $$;

-- Builds one such thing on the objects that have the names now.
CREATE FUNCTION _theirs_build(item jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id oid := (item ->> 'id')::oid;
    code text := item ->> 'text';
    named text;
    grants text;
    owner oid;
    is_restricted boolean;
BEGIN
    CASE item ->> 'kind'
    WHEN 'constraint' THEN
        -- It is gone if the key was dropped because of another one.
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', id::regclass, item ->> 'name');
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', id::regclass, item ->> 'name', code);
    WHEN 'reference' THEN
        -- The constraint is in the new store's table of those that are to be restored.
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', id::regclass, item ->> 'name');
    WHEN 'default' THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', id::regclass, item ->> 'name', code);
    WHEN 'view' THEN
        EXECUTE format('CREATE OR REPLACE VIEW %s%s AS %s', _theirs_named(id), ' WITH (' || (item ->> 'options') || ')', code);
    WHEN 'materialized view' THEN
        named := _theirs_named(id);
        SELECT relowner, _theirs_grants(named, relacl, relowner) INTO owner, grants FROM pg_class WHERE oid = id;
        EXECUTE format('DROP MATERIALIZED VIEW %s', id::regclass);
        EXECUTE format('CREATE MATERIALIZED VIEW %s%s AS %s WITH NO DATA; %s', named,
            ' WITH (' || (item ->> 'options') || ')', code, item ->> 'indexes');
        EXECUTE grants;
        IF owner <> quote_ident(current_user)::regrole THEN
            EXECUTE format('ALTER MATERIALIZED VIEW %s OWNER TO %s', named, owner::regrole);
        END IF;
        -- Only now, since the query runs with its owner's rights.
        IF (item ->> 'is_filled')::boolean THEN
            EXECUTE format('REFRESH MATERIALIZED VIEW %s', named);
        END IF;
    WHEN 'function', 'procedure' THEN
        named := format('%s %s', item ->> 'kind', item ->> 'signature');
        SELECT proowner, proacl IS NOT NULL, _theirs_grants(named, proacl, proowner) INTO owner, is_restricted, grants
            FROM pg_proc WHERE oid = id;
        BEGIN
            EXECUTE format('DROP %s %s', item ->> 'kind', id::regprocedure);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            -- It can only be replaced, which is enough if nothing but its body needs the tables.
            NULL;
        END;
        EXECUTE code;
        -- A new function has this right, whatever the old one had.
        IF is_restricted THEN
            EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', named);
        END IF;
        EXECUTE grants;
        IF owner <> quote_ident(current_user)::regrole THEN
            EXECUTE format('ALTER %s OWNER TO %s', named, owner::regrole);
        END IF;
    WHEN 'inheriting table' THEN
        -- Only its owner knows whether the new table's columns are the right ones.
        RAISE feature_not_supported USING MESSAGE = (SELECT format('ALTER TABLE %s NO INHERIT %s, INHERIT %I changes that',
            id::regclass, oid::regclass, relname) FROM pg_class WHERE oid = (item ->> 'of')::oid);
    WHEN 'trigger' THEN
        EXECUTE format('DROP TRIGGER %I ON %s', item ->> 'name', id::regclass);
        EXECUTE code;
    WHEN 'rule' THEN
        EXECUTE format('DROP RULE %I ON %s', item ->> 'name', id::regclass);
        EXECUTE code;
    WHEN 'index' THEN
        EXECUTE code;
    END CASE;
END $$;

-- Ends all foreign keys that refer to a table by this index. Nobody needs to own their tables for this.
CREATE FUNCTION _theirs_drop_key(key oid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    statement text := coalesce(
        (SELECT format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', conrelid::regclass, conname)
            FROM pg_constraint WHERE conindid = key AND contype IN ('p', 'u')),
        (SELECT format('DROP INDEX %s CASCADE', oid::regclass) FROM pg_class WHERE oid = key));
BEGIN
    IF statement IS NOT NULL THEN
        EXECUTE statement;
    END IF;
END $$;

-- Puts one that cannot be built into the table of what is to be restored, and removes it from the old objects
-- as far as possible.
CREATE FUNCTION _theirs_lift(item jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    id oid := (item ->> 'id')::oid;
    named text := format('the %s %s', item ->> 'kind', item ->> 'name');
    of_table text := item ->> 'of';
    code text := item ->> 'text';
BEGIN
    CASE item ->> 'kind'
    WHEN 'constraint' THEN
        BEGIN
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', id::regclass, item ->> 'name');
        EXCEPTION WHEN insufficient_privilege THEN
            -- It is another role's table. Without the key that it refers to, the constraint ends as well.
            PERFORM _theirs_drop_key((item ->> 'key')::oid);
        END;
        named := format('%s of %s', named, id::regclass);
        code := format('ALTER TABLE %s ADD CONSTRAINT %I %s', id::regclass, item ->> 'name', code);
        INSERT INTO _lifted SELECT relname, item ->> 'name', code, true FROM pg_class WHERE oid = id ON CONFLICT DO NOTHING;
        RETURN format('%s is lifted until it can be created again: %s', named, item ->> 'error');
    WHEN 'view', 'materialized view' THEN
        code := format('CREATE %s %s%s AS %s%s%s', upper(item ->> 'kind'), _theirs_named(id),
                ' WITH (' || (item ->> 'options') || ')', code,
                CASE item ->> 'kind' WHEN 'view' THEN '' ELSE ' WITH NO DATA' END, '; ' || (item ->> 'indexes'))
            || '; ' || (SELECT _theirs_grants(_theirs_named(id), relacl, relowner)
                || format(' ALTER %s %s OWNER TO %s', upper(item ->> 'kind'), _theirs_named(id), relowner::regrole)
                FROM pg_class WHERE oid = id)
            || CASE WHEN item ->> 'kind' <> 'view' AND (item ->> 'is_filled')::boolean
                THEN format('; REFRESH MATERIALIZED VIEW %s', _theirs_named(id)) ELSE '' END;
        of_table := item ->> 'name';
        BEGIN
            -- The schema's owner could drop it, but not create it again with the same owner.
            IF NOT (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = id) THEN
                RAISE insufficient_privilege USING MESSAGE = 'it belongs to another role';
            END IF;
            EXECUTE format('DROP %s %s', item ->> 'kind', id::regclass);
        EXCEPTION WHEN OTHERS THEN
            RETURN format('%s still shows the previous store, and has to be created again: %s (%s)', named,
                item ->> 'error', SQLERRM);
        END;
    WHEN 'inheriting table' THEN
        RETURN format('the table %s still inherits from the previous store''s table: %s', id::regclass, item ->> 'error');
    WHEN 'default' THEN
        RETURN format('%s of %s still needs the previous store, and has to be set again: %s', named, of_table,
            item ->> 'error');
    WHEN 'function', 'procedure', 'reference' THEN
        RETURN format('%s still needs the previous store, and has to be created again: %s', named, item ->> 'error');
    ELSE
        named := format('%s of %s', named, of_table);
    END CASE;
    INSERT INTO _lifted VALUES (of_table, format('%s %s', item ->> 'kind', item ->> 'name'), code, true)
        ON CONFLICT DO NOTHING;
    RETURN format('%s is left out until it can be created again: %s', named, item ->> 'error');
END $$;

-- Builds all of them, each when what it needs is there; returns what is said of the others.
CREATE FUNCTION _theirs_build_all(items jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    pending jsonb := items;
    failed jsonb;
    item jsonb;
BEGIN
    LOOP
        failed := '[]';
        FOR item IN SELECT jsonb_array_elements(pending) LOOP
            BEGIN
                PERFORM _theirs_build(item);
            EXCEPTION
            WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR operator_intervention
                OR system_error THEN
                -- This can pass, so it is no reason to do without anything.
                RAISE;
            WHEN OTHERS THEN
                failed := failed || jsonb_build_array(item || jsonb_build_object('error', SQLERRM));
            END;
        END LOOP;
        EXIT WHEN jsonb_array_length(failed) IN (0, jsonb_array_length(pending));
        pending := failed;
    END LOOP;
    FOR item IN SELECT jsonb_array_elements(failed) LOOP
        RETURN NEXT _theirs_lift(item);
    END LOOP;
END $$;

-- Renames what has a name that one of the server's tables needs.
CREATE FUNCTION _theirs_aside(place name, taken name) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    space oid := to_regnamespace(quote_ident(place));
    kind "char" := (SELECT relkind FROM pg_class WHERE relnamespace = space AND relname = taken);
    base text := taken;
    aside text;
    number integer := 2;
BEGIN
    WHILE octet_length(base) > 50 LOOP
        base := left(base, -1);
    END LOOP;
    aside := base || '~theirs';
    WHILE EXISTS (SELECT FROM pg_class WHERE relnamespace = space AND relname = aside::name)
        OR EXISTS (SELECT FROM pg_type WHERE typnamespace = space AND typname = aside::name) LOOP
        aside := format('%s~theirs~%s', base, number);
        number := number + 1;
    END LOOP;
    EXECUTE format('ALTER %s %I.%I RENAME TO %I', CASE WHEN kind IS NULL OR kind = 'c' THEN 'TYPE' ELSE 'TABLE' END,
        place, taken, aside);
    RETURN format('another program''s %s was renamed to %s: a record type needs its name', taken, aside);
END $$;

-- Moves the server's own objects of a schema to another one.
CREATE FUNCTION _theirs_move_own(place name, target name, known bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    -- Listed first: what is there is known by the tables.
    statements text[] := ARRAY(
        SELECT format('ALTER %s %I.%I SET SCHEMA %I',
            CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' ELSE 'SEQUENCE' END, place, c.relname, target)
        FROM _theirs_own(place, known) AS o JOIN pg_class AS c ON c.oid = o
        UNION ALL SELECT format('ALTER FUNCTION %I.%I(%s) SET SCHEMA %I', place, p.proname,
            pg_get_function_identity_arguments(p.oid), target)
        FROM _theirs_own_functions(place, known) AS o JOIN pg_proc AS p ON p.oid = o);
    statement text;
BEGIN
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
    END LOOP;
END $$;

-- Replaces the server's own objects by those of `filled`, and keeps the former in `kept`. What other programs
-- have created stays where it is, and is built on the new objects. Returns what has to be said.
CREATE FUNCTION _theirs_exchange(used name, filled name, kept name, known bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    needing jsonb;
    statement text;
    secured record;
BEGIN
    -- Nobody can build anything else on the tables from here on.
    FOREACH statement IN ARRAY ARRAY(SELECT format('LOCK TABLE %I.%I', used, c.relname)
        FROM _theirs_own(used, known) AS o JOIN pg_class AS c ON c.oid = o WHERE c.relkind = 'r' ORDER BY c.relname) LOOP
        EXECUTE statement;
    END LOOP;
    needing := _theirs_needing(used, known);
    EXECUTE format('CREATE SCHEMA %I', kept);
    PERFORM _theirs_move_own(used, kept, known);
    RETURN QUERY SELECT _theirs_aside(used, c.relname) FROM _theirs_own(filled, known) AS o JOIN pg_class AS c ON c.oid = o
        WHERE EXISTS (SELECT FROM pg_class AS t WHERE t.relnamespace = to_regnamespace(quote_ident(used))
            AND t.relname = c.relname)
        OR EXISTS (SELECT FROM pg_type AS t WHERE t.typnamespace = to_regnamespace(quote_ident(used))
            AND t.typname = c.relname);
    PERFORM _theirs_move_own(filled, used, known);
    EXECUTE format('DROP SCHEMA %I', filled);
    FOREACH statement IN ARRAY ARRAY(
        SELECT _theirs_grants(format('%s %s', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.oid::regclass),
            c.relacl, c.relowner)
        || (SELECT coalesce(string_agg(format('GRANT %s (%I) ON %s TO %s%s;', e.privilege_type, a.attname, n.oid::regclass,
                CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE e.grantee::regrole::text END,
                CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), ' '), '')
            FROM pg_attribute AS a, aclexplode(a.attacl) AS e WHERE a.attrelid = c.oid AND e.grantee <> c.relowner
                AND EXISTS (SELECT FROM pg_attribute AS b WHERE b.attrelid = n.oid AND b.attname = a.attname))
        FROM _theirs_own(kept, known) AS o JOIN pg_class AS c ON c.oid = o
        JOIN pg_class AS n ON n.relname = c.relname AND n.relkind = c.relkind
            AND n.relnamespace = to_regnamespace(quote_ident(used))) LOOP
        EXECUTE statement;
    END LOOP;
    RETURN QUERY SELECT format('the table %s no longer has the column %I, which another program had added: only %I.%I has '
            'its values', n.oid::regclass, a.attname, kept, c.relname)
        FROM _theirs_own(kept, known) AS o JOIN pg_class AS c ON c.oid = o AND c.relkind = 'r'
        JOIN pg_class AS n ON n.relname = c.relname AND n.relkind = c.relkind
            AND n.relnamespace = to_regnamespace(quote_ident(used))
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE NOT EXISTS (SELECT FROM pg_attribute AS b WHERE b.attrelid = n.oid AND b.attname = a.attname)
        ORDER BY c.relname, a.attnum;
    -- The policies are not kept. Without them only the owner reads or writes such a table.
    FOR secured IN SELECT n.oid::regclass AS of_table FROM _theirs_own(kept, known) AS o JOIN pg_class AS c ON c.oid = o
        JOIN pg_class AS n ON n.relname = c.relname AND n.relkind = c.relkind
            AND n.relnamespace = to_regnamespace(quote_ident(used))
        WHERE c.relrowsecurity ORDER BY c.relname LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', secured.of_table);
        RETURN NEXT format('the table %s has row security, but its policies are not restored: until they are created '
            'again, only the server''s role has access to its rows', secured.of_table);
    END LOOP;
    -- What waits for the tables of other programs waits on; the server's own tables have their part already.
    IF to_regclass(format('%I._lifted', kept)) IS NOT NULL THEN
        EXECUTE format('INSERT INTO _lifted SELECT * FROM %I._lifted AS l WHERE NOT EXISTS '
            '(SELECT FROM _type WHERE table_name = l.table_name) ON CONFLICT DO NOTHING', kept);
    END IF;
    RETURN QUERY SELECT _theirs_build_all(needing);
    -- Tables of other programs can have numbers of the old sequence, and none is given twice. Only now, when nothing
    -- can take one of them any more.
    IF to_regclass(format('%I._captured_row', kept)) IS NOT NULL THEN
        EXECUTE format('SELECT setval(%L, greatest(o.last_value, n.last_value)) FROM %I._captured_row AS o, '
            '%I._captured_row AS n WHERE o.is_called', format('%I._captured_row', used), kept, used);
    END IF;
END $$;

-- Moves what other programs have in the schema of the previous store into the app's schema, as far as names are
-- free and the server's role may. Returns what has to be said.
CREATE FUNCTION _theirs_bring_back(kept name, used name, known bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    needing jsonb := _theirs_needing(kept, known);
    item jsonb;
    object record;
    named text;
BEGIN
    -- A schema without a store was another program's as a whole when it was set aside.
    IF _theirs_version(kept) IS NULL THEN
        RETURN;
    END IF;
    FOR object IN SELECT * FROM _theirs_objects(kept, known) LOOP
        BEGIN
            EXECUTE format('ALTER %s %s SET SCHEMA %I', replace(object.kind, 'composite type', 'type'), object.named, used);
            RETURN NEXT format('the %s %s of another program is in the schema %s again', object.kind, object.named, used);
        EXCEPTION
        WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR operator_intervention
            OR system_error THEN
            RAISE;
        WHEN OTHERS THEN
            RETURN NEXT format('the %s %s of another program stays in the schema %s: %s', object.kind, object.named, kept,
                SQLERRM);
        END;
    END LOOP;
    -- What stays in that schema must not keep records of the previous store.
    FOR item IN SELECT i FROM jsonb_array_elements(needing) AS i JOIN pg_class AS c ON c.oid = (i ->> 'id')::oid
        WHERE i ->> 'kind' = 'constraint' AND c.relnamespace = to_regnamespace(quote_ident(kept)) LOOP
        named := format('the constraint %s of %s', item ->> 'name', (item ->> 'id')::oid::regclass);
        BEGIN
            BEGIN
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', (item ->> 'id')::oid::regclass, item ->> 'name');
            EXCEPTION WHEN insufficient_privilege THEN
                PERFORM _theirs_drop_key((item ->> 'key')::oid);
            END;
            RETURN NEXT format('%s is dropped: %s', named, item ->> 'text');
        EXCEPTION
        WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR operator_intervention
            OR system_error THEN
            RAISE;
        WHEN OTHERS THEN
            RETURN NEXT format('%s cannot be dropped: %s', named, SQLERRM);
        END;
    END LOOP;
    RETURN QUERY SELECT _theirs_build_all(coalesce(jsonb_agg(i), '[]')) FROM jsonb_array_elements(needing) AS i
        JOIN pg_class AS c ON c.oid = (i ->> 'id')::oid
        WHERE i ->> 'kind' IN ('constraint', 'default', 'view', 'materialized view')
            AND c.relnamespace <> to_regnamespace(quote_ident(kept));
END $$;

-- Lists what prevents a schema from being dropped.
CREATE FUNCTION _theirs_left(kept name, known bigint) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT kind || ' ' || named FROM _theirs_objects(kept, known)
    UNION SELECT format('%s %s%s', i ->> 'kind', i ->> 'name',
            CASE i ->> 'kind' WHEN 'default' THEN ' of ' || (i ->> 'of') ELSE '' END)
        FROM jsonb_array_elements(_theirs_needing(kept, known)) AS i
        WHERE i ->> 'kind' IN ('constraint', 'default', 'inheriting table', 'view', 'materialized view', 'function', 'procedure')
    ORDER BY 1
$$;

-- Drops the server's own objects of a schema, and the schema. What other programs have there or built on it is
-- never dropped: then tables that it needs are emptied instead, and what tells the server's objects from others
-- stays. A call drops at most `portion` tables, since each takes a few locks; what can be dropped is gone when a
-- call drops none. Returns what has to be said.
CREATE FUNCTION _theirs_drop(kept name, portion bigint, known bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    -- In this order nothing of the server's own needs what is dropped before it.
    tables text[] := ARRAY(
        SELECT format('%s %I.%I', CASE c.relkind WHEN 'r' THEN 'TABLE' ELSE 'VIEW' END, kept, c.relname)
        FROM _theirs_own(kept, known) AS o JOIN pg_class AS c ON c.oid = o
        WHERE c.relkind <> 'S' AND c.relname NOT IN ('_type', '_checkpoint') ORDER BY c.relkind = 'r', c.relname);
    -- These tell what the others are, so they are dropped together, after all others.
    rest text[] := ARRAY(
        SELECT format('TABLE %I.%I', kept, c.relname)
        FROM _theirs_own(kept, known) AS o JOIN pg_class AS c ON c.oid = o WHERE c.relname IN ('_type', '_checkpoint'))
    || ARRAY(
        SELECT format('FUNCTION %I.%I(%s)', kept, p.proname, pg_get_function_identity_arguments(p.oid))
        FROM _theirs_own_functions(kept, known) AS o JOIN pg_proc AS p ON p.oid = o)
    || ARRAY(
        SELECT format('SEQUENCE %I.%I', kept, c.relname)
        FROM _theirs_own(kept, known) AS o JOIN pg_class AS c ON c.oid = o WHERE c.relkind = 'S');
    own oid[] := ARRAY(SELECT _theirs_own(kept, known));
    object text;
    dropped bigint := 0;
    is_needed boolean := false;
    why text;
    referring record;
BEGIN
    FOREACH object IN ARRAY tables LOOP
        IF dropped >= portion THEN
            RETURN;
        END IF;
        BEGIN
            EXECUTE 'DROP ' || object;
            dropped := dropped + 1;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
            IF starts_with(object, 'TABLE ') THEN
                -- A table that a foreign key refers to cannot be truncated, and to delete its rows could change
                -- the other table.
                FOR referring IN SELECT o.conname, o.conrelid, o.conindid, pg_get_constraintdef(o.oid, true) AS code
                    FROM pg_constraint AS o WHERE o.contype = 'f' AND o.conparentid = 0 AND o.conrelid <> o.confrelid
                        AND o.confrelid = substr(object, 7)::regclass LOOP
                    PERFORM _theirs_drop_key(referring.conindid);
                    IF referring.conrelid <> ALL (own) THEN
                        RETURN NEXT format('the constraint %s of %s is dropped: %s', referring.conname,
                            referring.conrelid::regclass, referring.code);
                    END IF;
                END LOOP;
                BEGIN
                    EXECUTE 'DROP ' || object;
                    dropped := dropped + 1;
                EXCEPTION WHEN dependent_objects_still_exist THEN
                    GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
                    -- Tables that inherit from it are not the server's.
                    EXECUTE 'TRUNCATE TABLE ONLY ' || substr(object, 7);
                    is_needed := true;
                    RETURN NEXT format('%s is emptied instead of dropped: %s', object, why);
                END;
            ELSE
                is_needed := true;
                RETURN NEXT format('%s is not dropped: %s', object, why);
            END IF;
        END;
    END LOOP;
    IF NOT is_needed THEN
        BEGIN
            FOREACH object IN ARRAY rest LOOP
                EXECUTE 'DROP ' || object;
            END LOOP;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
            RETURN NEXT format('%s is not dropped: %s', object, why);
        END;
    END IF;
    BEGIN
        EXECUTE format('DROP SCHEMA %I', kept);
    EXCEPTION WHEN dependent_objects_still_exist THEN
        RETURN NEXT format('the schema %s is not dropped: it has objects of other programs', kept);
    END;
END $$;
