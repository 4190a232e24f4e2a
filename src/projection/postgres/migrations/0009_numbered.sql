-- The numbers that records got when their type got a sequence field: the position of that event, where
-- the record was created, and the number. Position 0 stands for what an earlier format did not keep.
CREATE TABLE _numbered (
    position bigint NOT NULL,
    place bigint NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (position, place)
);
INSERT INTO _numbered SELECT 0, 0, 0 FROM _checkpoint WHERE position > 0;
CREATE TRIGGER _refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON _numbered
    FOR EACH STATEMENT WHEN (current_setting('skytrail.own', true) IS DISTINCT FROM 'yes')
    EXECUTE FUNCTION _refuse();
