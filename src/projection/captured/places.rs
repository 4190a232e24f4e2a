//! The places of rows that SQL has changed.
//!
//! A row's place is the position at which the log created its record. SQL can delete the row, or
//! insert another one under the same id, which has another place. The record keeps its place as
//! long as it is in the log, so the outbox has it, in the row's state before the change. If the log
//! itself deletes the record meanwhile, or creates another one under the id, the outbox is
//! corrected.

use std::collections::BTreeMap;

use skytrail_schema::id::RecordKey;

use crate::projection::conn::Conn;
use crate::projection::names::Name;
use crate::projection::read::MAX_KEYS;
use crate::projection::sql::{Arg, Sql};

/// The place in a row's state before a change.
const PLACE: &str =
    "CASE WHEN jsonb_typeof(before->'_row')='number' THEN (before->'_row')::bigint END AS place";

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

/// Gives rows that a batch wrote the places of their records, while the outbox has them. SQL may
/// have deleted such a row, or changed its place. `checkpoint` is the last position before the
/// batch.
pub(in crate::projection) async fn keep_places(
    conn: &mut Conn<'_>,
    touched: &Touched,
    checkpoint: u64,
) -> Result<(), sqlx::Error> {
    if conn.dialect().is_sqlite() {
        return Ok(());
    }
    for (table, rows) in touched {
        for keys in with_effect(rows, Effect::Kept).chunks(MAX_KEYS) {
            let mut sql = Sql::new("UPDATE ");
            sql.name(table)
                .push(" AS t SET _row=o.place FROM (SELECT key, max(place) AS place FROM (SELECT key,")
                .push(PLACE)
                .push(" FROM _outbox WHERE table_name=")
                .bind(Arg::name(table))
                .push(" AND key")
                .within(keys, RecordKey::as_str)
                .push(") AS p WHERE place<")
                .bind(Arg::unsigned(FIRST_OF_SQL))
                .push(" GROUP BY key) AS o WHERE t._id=o.key AND (t._row>")
                .bind(Arg::unsigned(checkpoint));
            // SQL may have given the place to another row together with another id.
            sql.push(" OR t._row<o.place) AND NOT EXISTS (SELECT 1 FROM ")
                .name(table)
                .push(" AS u WHERE u._row=o.place)");
            sql.execute(conn).await?;
        }
    }
    Ok(())
}

/// Corrects the places in the outbox for rows that the log has deleted or created.
pub(super) async fn correct(
    conn: &mut Conn<'_>,
    table: &Name,
    rows: &BTreeMap<RecordKey, Effect>,
) -> Result<(), sqlx::Error> {
    // Both states, so that they still differ only in what SQL has changed.
    for keys in with_effect(rows, Effect::Deleted).chunks(MAX_KEYS) {
        let mut sql = Sql::new(
            "UPDATE _outbox SET before=before-'_row', after=after-'_row' WHERE table_name=",
        );
        sql.bind(Arg::name(table)).push(" AND key");
        sql.within(keys, RecordKey::as_str);
        sql.execute(conn).await?;
    }
    for keys in with_effect(rows, Effect::Created).chunks(MAX_KEYS) {
        let mut sql = Sql::new(
            "UPDATE _outbox AS o SET before=jsonb_set(o.before,'{_row}',to_jsonb(t._row)), \
             after=jsonb_set(o.after,'{_row}',to_jsonb(t._row)) FROM ",
        );
        sql.name(table)
            .push(" AS t WHERE t._id=o.key AND o.table_name=");
        sql.bind(Arg::name(table)).push(" AND o.key");
        sql.within(keys, RecordKey::as_str);
        sql.execute(conn).await?;
    }
    Ok(())
}

/// Adds the query for the places in a table's part of the outbox, without those of `written`: rows
/// that the table has as the log says.
pub(in crate::projection) fn push_places(
    sql: &mut Sql,
    table: &Name,
    written: &[&str],
    before: u64,
) {
    sql.push("SELECT place FROM (SELECT ")
        .push(PLACE)
        .push(" FROM _outbox WHERE table_name=")
        .bind(Arg::name(table));
    if !written.is_empty() {
        let written = serde_json::Value::from(written).to_string();
        sql.push(" AND key NOT IN (SELECT jsonb_array_elements_text(")
            .bind(Arg::Text(written))
            .push("::jsonb))");
    }
    sql.push(") AS o WHERE place<").bind(Arg::unsigned(before));
}

fn with_effect(rows: &BTreeMap<RecordKey, Effect>, wanted: Effect) -> Vec<RecordKey> {
    let rows = rows.iter().filter(|(_, effect)| **effect == wanted);
    rows.map(|(key, _)| key.clone()).collect()
}
