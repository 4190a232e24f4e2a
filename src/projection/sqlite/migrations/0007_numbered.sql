-- The numbers that records got when their type got a sequence field: the position of that event, where
-- the record was created, and the number. Position 0 stands for what an earlier format did not keep.

CREATE TABLE _numbered (
    position INTEGER NOT NULL,
    place INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (position, place)
) WITHOUT ROWID;
INSERT INTO _numbered SELECT 0, 0, 0 FROM _checkpoint WHERE position > 0;

PRAGMA user_version = 7;
