-- Things that are unknown because the event with which they began is erased, and where they began. Names
-- can be longer than a sorted index permits.
CREATE TABLE _lost (stream text COLLATE "C" NOT NULL, place bigint NOT NULL);
CREATE INDEX _lost_stream ON _lost USING hash (stream);
CREATE TRIGGER _refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON _lost
    FOR EACH STATEMENT WHEN (current_setting('skytrail.own', true) IS DISTINCT FROM 'yes')
    EXECUTE FUNCTION _refuse();
