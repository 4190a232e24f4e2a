-- Empty tables keep the statistics of their former rows: ANALYZE finds nothing to replace them with.
-- Setting a column's type, even to the same type, removes them.
DO $$
DECLARE
    emptied record;
    has_rows boolean;
BEGIN
    FOR emptied IN
        SELECT t.oid, t.relname, string_agg(format('ALTER %I TYPE %s%s', a.attname,
            format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> 0 THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END), ', ') AS columns
        FROM pg_stats AS s
        JOIN pg_class AS t ON t.relname = s.tablename AND t.relnamespace = current_schema::regnamespace
        JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = s.attname
        WHERE s.schemaname = current_schema AND t.relkind = 'r'
        GROUP BY t.oid, t.relname
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', emptied.relname) INTO has_rows;
        CONTINUE WHEN has_rows;
        BEGIN
            EXECUTE format('ALTER TABLE %I %s', emptied.relname, emptied.columns);
        EXCEPTION WHEN OTHERS THEN
            -- Something depends on the columns, such as a view. A superuser can delete the statistics directly.
            IF current_setting('is_superuser') = 'on' THEN
                DELETE FROM pg_statistic WHERE starelid = emptied.oid;
            ELSE
                RAISE WARNING 'statistics of the empty table % are kept: %', emptied.relname, SQLERRM;
            END IF;
        END;
    END LOOP;
END $$;
