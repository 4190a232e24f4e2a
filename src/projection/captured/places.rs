//! The places of records whose rows SQL takes away.
//!
//! A row's place is the position at which the log created its record. SQL can delete the row, insert
//! another one under the same id, or give the row another id. So a trigger writes the place of a row
//! that is taken away from its id to `_place`, and another one gives it to the next row with this id
//! (see the eleventh migration). The record keeps its place as long as it is in the log: only the
//! events that delete it, or create it anew, remove the place.
//!
//! The second trigger reads the place before the row is inserted, without a lock: the insertion may
//! have to wait for another session, or may not happen (`ON CONFLICT DO NOTHING`). Once the row is
//! there, the first trigger locks the place until the transaction ends, and looks again: if the log
//! has removed the place meanwhile, the row gets one after all positions.

use std::collections::BTreeMap;

use skytrail_schema::id::RecordKey;

use crate::projection::conn::Conn;
use crate::projection::names::Name;
use crate::projection::read::MAX_KEYS;
use crate::projection::sql::{Arg, Sql};

/// Where the places of rows begin that SQL has inserted; see the sequence `_captured_row`.
pub(in crate::projection) const FIRST_OF_SQL: u64 = 1 << 62;

/// What a batch of events did to the row of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::projection) enum Effect {
    /// The record existed before, and keeps its place.
    Kept,
    /// The record is new.
    Created,
    /// The record is gone.
    Deleted,
}

/// The rows that a batch wrote, by table.
pub(in crate::projection) type Touched = BTreeMap<Name, BTreeMap<RecordKey, Effect>>;

/// Adds what events did after those before.
pub(in crate::projection) fn add_effects(
    rows: &mut BTreeMap<RecordKey, Effect>,
    later: impl IntoIterator<Item = (RecordKey, Effect)>,
) {
    for (key, effect) in later {
        let before = rows.entry(key).or_insert(effect);
        if effect != Effect::Kept {
            *before = effect;
        }
    }
}

/// Gives rows that a batch wrote the places of their records, and forgets the places of records that
/// it deleted or created.
pub(in crate::projection) async fn settle_places(
    conn: &mut Conn<'_>,
    touched: &Touched,
) -> Result<(), sqlx::Error> {
    for (table, rows) in touched {
        for keys in with_effect(rows, Effect::Created).chunks(MAX_KEYS) {
            forget(conn, table, keys).await?;
        }
        for keys in with_effect(rows, Effect::Deleted).chunks(MAX_KEYS) {
            forget(conn, table, keys).await?;
            move_to_end(conn, table, keys).await?;
        }
        for keys in with_effect(rows, Effect::Kept).chunks(MAX_KEYS) {
            give_back(conn, table, Some(keys)).await?;
        }
    }
    Ok(())
}

/// Deletes rows of records that the log still has, and keeps their places.
pub(super) async fn take_away(
    conn: &mut Conn<'_>,
    table: &Name,
    delete: Sql,
) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("WITH gone AS (");
    sql.append(delete)
        .push(" RETURNING _id, _row) INSERT INTO _place SELECT ")
        .bind(Arg::name(table))
        .push(", _id, _row FROM gone WHERE _row<")
        .bind(Arg::unsigned(FIRST_OF_SQL))
        .push(" ON CONFLICT (table_name, key) DO UPDATE SET place=excluded.place");
    sql.execute(conn).await.map(drop)
}

/// Gives all rows of a table the places of their records.
pub(in crate::projection) async fn settle_table(
    conn: &mut Conn<'_>,
    table: &Name,
) -> Result<(), sqlx::Error> {
    give_back(conn, table, None).await
}

/// Adds the places of rows that SQL took away from a table before this had the second trigger. Only
/// the outbox has them: in the first row of each id, and of several ids with one place, in the row
/// of the first. Nobody may be writing to the table.
pub(in crate::projection) async fn collect_places(
    conn: &mut Conn<'_>,
    table: &Name,
) -> Result<(), sqlx::Error> {
    let taken = || {
        let mut sql = Sql::new(
            "SELECT DISTINCT ON (place) key, place FROM (\
             SELECT DISTINCT ON (key) id, key, (before->'_row')::numeric AS place FROM _outbox \
             WHERE table_name=",
        );
        sql.bind(Arg::name(table))
            .push(" AND jsonb_typeof(before->'_row')='number' ORDER BY key, id) AS first ");
        sql.push("WHERE place>=0 AND place<")
            .bind(Arg::unsigned(FIRST_OF_SQL))
            .push(" ORDER BY place, id");
        sql
    };
    // The first trigger may have kept a place under the id that the row had last.
    let mut sql = Sql::new("DELETE FROM _place AS p USING (");
    sql.append(taken())
        .push(") AS t WHERE p.place=t.place AND p.key<>t.key AND ");
    only(&mut sql, table, None);
    sql.execute(conn).await?;
    let mut sql = Sql::new("INSERT INTO _place SELECT ");
    sql.bind(Arg::name(table)).push(", key, place FROM (");
    sql.append(taken())
        .push(") AS t ON CONFLICT (table_name, key) DO UPDATE SET place=excluded.place");
    sql.execute(conn).await.map(drop)
}

/// Waits for sessions that have inserted rows with these places.
async fn forget(conn: &mut Conn<'_>, table: &Name, keys: &[RecordKey]) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("DELETE FROM _place AS p WHERE ");
    only(&mut sql, table, Some(keys));
    sql.execute(conn).await.map(drop)
}

/// Gives rows that SQL has inserted in place of deleted records places after all positions.
async fn move_to_end(
    conn: &mut Conn<'_>,
    table: &Name,
    keys: &[RecordKey],
) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("UPDATE ");
    sql.name(table).push(" SET _row=_next_row() WHERE _row<");
    sql.bind(Arg::unsigned(FIRST_OF_SQL)).push(" AND _id");
    sql.within(keys, RecordKey::as_str);
    sql.execute(conn).await.map(drop)
}

/// Gives rows the places of their records. Another program's trigger can have given a row with such
/// a place another id.
async fn give_back(
    conn: &mut Conn<'_>,
    table: &Name,
    keys: Option<&[RecordKey]>,
) -> Result<(), sqlx::Error> {
    let steps = [
        ("_next_row()", " AND t._row=p.place AND t._id<>p.key"),
        ("p.place", " AND t._id=p.key AND t._row<>p.place"),
    ];
    for (place, of) in steps {
        let mut sql = Sql::new("UPDATE ");
        sql.name(table).push(" AS t SET _row=").push(place);
        sql.push(" FROM _place AS p WHERE ");
        only(&mut sql, table, keys).push(of);
        sql.execute(conn).await?;
    }
    Ok(())
}

/// Adds the query for the places of records in a table, before a position, whose rows SQL has taken
/// away.
pub(in crate::projection) fn push_places(sql: &mut Sql, table: &Name, before: u64) {
    sql.push("SELECT p.place FROM _place AS p WHERE ");
    only(sql, table, None).push(" AND p.place<");
    sql.bind(Arg::unsigned(before));
}

fn only<'a>(sql: &'a mut Sql, table: &Name, keys: Option<&[RecordKey]>) -> &'a mut Sql {
    sql.push("p.table_name=").bind(Arg::name(table));
    if let Some(keys) = keys {
        sql.push(" AND p.key").within(keys, RecordKey::as_str);
    }
    sql
}

fn with_effect(rows: &BTreeMap<RecordKey, Effect>, wanted: Effect) -> Vec<RecordKey> {
    let rows = rows.iter().filter(|(_, effect)| **effect == wanted);
    rows.map(|(key, _)| key.clone()).collect()
}
