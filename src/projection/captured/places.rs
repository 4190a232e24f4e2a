//! The places of rows that SQL has changed.
//!
//! A row's place is the position at which the log created its record. SQL can delete the row, or
//! insert another one under the same id, which has another place, or give the row another id. The
//! record keeps its place as long as it is in the log, so the outbox has it, in the row's state
//! before the first change. This stays so: whenever the log writes a row, every change that the
//! outbox has of it gets the record's place, or none if the log has deleted the record.

use std::collections::BTreeMap;

use skytrail_schema::id::RecordKey;

use super::is_empty;
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

/// Gives rows that a batch wrote the places of their records, and corrects these in the outbox.
pub(in crate::projection) async fn settle_places(
    conn: &mut Conn<'_>,
    touched: &Touched,
) -> Result<(), sqlx::Error> {
    if touched.is_empty() || is_empty(conn).await? {
        return Ok(());
    }
    for (table, rows) in touched {
        for keys in with_effect(rows, Effect::Kept).chunks(MAX_KEYS) {
            vacate(conn, table, keys).await?;
            keep(conn, table, keys).await?;
            // A change that is retried has no place.
            note(conn, table, present(table, keys)).await?;
        }
        for keys in with_effect(rows, Effect::Created).chunks(MAX_KEYS) {
            note(conn, table, present(table, keys)).await?;
        }
        for keys in with_effect(rows, Effect::Deleted).chunks(MAX_KEYS) {
            vacate(conn, table, keys).await?;
            forget(conn, table, keys).await?;
        }
    }
    Ok(())
}

/// Moves rows away from the places of these records: SQL has changed their ids or places. If the
/// log has records for them, their own places are in the outbox, and their events follow.
async fn vacate(conn: &mut Conn<'_>, table: &Name, keys: &[RecordKey]) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("UPDATE ");
    sql.name(table).push(" AS t SET _row=_next_row() FROM (");
    push_known(&mut sql, table, Some(keys));
    sql.push(") AS o WHERE t._row=o.place AND t._id<>o.key");
    sql.execute(conn).await.map(drop)
}

/// Gives rows the places of their records, which are free. If SQL has deleted a row, only the outbox
/// has its place, and may be about to lose the change that has it.
async fn keep(conn: &mut Conn<'_>, table: &Name, keys: &[RecordKey]) -> Result<(), sqlx::Error> {
    let mut known = Sql::default();
    push_known(&mut known, table, Some(keys));
    let mut sql = Sql::new("UPDATE ");
    sql.name(table)
        .push(" AS t SET _row=o.place FROM (")
        .append(known.clone())
        .push(") AS o WHERE t._id=o.key AND t._row<>o.place");
    sql.execute(conn).await?;
    note(conn, table, known).await
}

/// Returns the query for the places of records whose rows have them.
fn present(table: &Name, keys: &[RecordKey]) -> Sql {
    let mut sql = Sql::new("SELECT _id, _row FROM ");
    sql.name(table).push(" WHERE _id");
    sql.within(keys, RecordKey::as_str);
    sql
}

/// The states before and after a change with the place of a record. Others can put into the outbox
/// what is no row.
const PLACED: [&str; 2] = [
    "CASE WHEN jsonb_typeof(e.before)='object' \
     THEN jsonb_set(e.before,'{_row}',to_jsonb(o.place)) ELSE e.before END",
    "CASE WHEN jsonb_typeof(e.after)='object' \
     THEN jsonb_set(e.after,'{_row}',to_jsonb(o.place)) ELSE e.after END",
];

/// Writes places to the outbox: to both states, so that they still differ only in what SQL has
/// changed.
async fn note(conn: &mut Conn<'_>, table: &Name, places: Sql) -> Result<(), sqlx::Error> {
    let [before, after] = PLACED;
    let mut sql = Sql::new("UPDATE _outbox AS e SET before=");
    sql.push(before).push(", after=").push(after);
    sql.push(" FROM (").append(places);
    sql.push(") AS o (key, place) WHERE e.key=o.key AND (e.before<>")
        .push(before)
        .push(" OR e.after<>")
        .push(after)
        .push(") AND e.table_name=");
    sql.bind(Arg::name(table));
    sql.execute(conn).await.map(drop)
}

/// Removes the places of deleted records from the outbox.
async fn forget(conn: &mut Conn<'_>, table: &Name, keys: &[RecordKey]) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new(
        "UPDATE _outbox SET \
         before=CASE WHEN jsonb_typeof(before)='object' THEN before-'_row' ELSE before END, \
         after=CASE WHEN jsonb_typeof(after)='object' THEN after-'_row' ELSE after END \
         WHERE table_name=",
    );
    sql.bind(Arg::name(table)).push(" AND key");
    sql.within(keys, RecordKey::as_str);
    sql.execute(conn).await.map(drop)
}

/// Adds the query for the places of the records in a table's part of the outbox, before a position.
pub(in crate::projection) fn push_places(sql: &mut Sql, table: &Name, before: u64) {
    sql.push("SELECT place FROM (");
    push_known(sql, table, None);
    sql.push(") AS o WHERE place<").bind(Arg::unsigned(before));
}

/// Adds the query for the keys and the places of the records in a table's part of the outbox.
///
/// Of each row the first state counts that has a place, and of each place the first row: SQL can
/// give both to others.
fn push_known(sql: &mut Sql, table: &Name, keys: Option<&[RecordKey]>) {
    sql.push(
        "SELECT DISTINCT ON (place) key, place FROM (\
         SELECT DISTINCT ON (key) key, id, place FROM (SELECT key, id, \
         CASE WHEN jsonb_typeof(before->'_row')='number' \
         THEN CASE WHEN (before->'_row')::numeric BETWEEN 0 AND 9223372036854775807 \
         THEN (before->'_row')::bigint END END AS place FROM _outbox WHERE table_name=",
    )
    .bind(Arg::name(table));
    if let Some(keys) = keys {
        sql.push(" AND key").within(keys, RecordKey::as_str);
    }
    sql.push(") AS s WHERE place IS NOT NULL ORDER BY key, id) AS f WHERE place<")
        .bind(Arg::unsigned(FIRST_OF_SQL))
        .push(" ORDER BY place, id");
}

fn with_effect(rows: &BTreeMap<RecordKey, Effect>, wanted: Effect) -> Vec<RecordKey> {
    let rows = rows.iter().filter(|(_, effect)| **effect == wanted);
    rows.map(|(key, _)| key.clone()).collect()
}
