//! Keeps the versions that a batch replaces, with the positions between which they were valid.

use std::collections::HashMap;

use skytrail_schema::id::RecordKey;
use skytrail_schema::positions::Positions;

use super::ApplyError;
use super::row::{Pending, place};
use super::texts::{in_chunks, insert_or_fail, push_rows};
use crate::projection::conn::Conn;
use crate::projection::layout::{Catalog, Table, stored_columns};
use crate::projection::sql::{Arg, Kind, Sql};

/// How many records one statement copies.
const SIZES: &[usize] = &[64, 16, 4, 1];

/// Copies the rows that are about to be replaced or deleted to the table of the past.
pub(super) async fn keep(
    conn: &mut Conn<'_>,
    (table, past): (&Table, &Table),
    pending: &HashMap<RecordKey, Pending>,
) -> Result<(), ApplyError> {
    let ends = pending.iter().filter_map(|(key, pending)| {
        let until = match pending {
            // A new row can also replace one that was deleted in this batch.
            Pending::Whole { row, .. } => row.get(place::POSITION)?.clone(),
            Pending::Patch(changes) => changes.get(&place::POSITION)?.clone(),
            Pending::Gone { position, .. } => Arg::unsigned(*position),
        };
        Some([Arg::text(key.as_str()), until])
    });
    for chunk in in_chunks(ends.collect(), SIZES, 2) {
        let text = copy(table, past, chunk.len()).into_text();
        text.execute(conn, chunk.into_iter().flatten().collect())
            .await?;
    }
    Ok(())
}

/// Deletes the past versions that events wrote.
pub(in crate::projection) async fn forget(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    positions: &Positions,
) -> Result<(), sqlx::Error> {
    let layouts = catalog.sorted().into_values();
    for past in layouts.filter_map(|layout| layout.past()) {
        for (first, last) in positions.runs() {
            let mut sql = Sql::new("DELETE FROM ");
            sql.name(&past.name);
            sql.push(" WHERE _position BETWEEN ")
                .bind(Arg::unsigned(*first));
            sql.push(" AND ").bind(Arg::unsigned(*last));
            sql.execute(conn).await?;
        }
    }
    Ok(())
}

/// Builds the statement; the values per row are its key, and the position at which it ends.
fn copy(table: &Table, past: &Table, num_rows: usize) -> Sql {
    let mut sql = Sql::new("WITH _v(k, p) AS (VALUES ");
    push_rows(&mut sql, &[Kind::Text, Kind::Int], num_rows);
    sql.push(") ")
        .push(insert_or_fail(table.dialect))
        .name(&past.name)
        .push(" (_until");
    push_columns(&mut sql, table, ",");
    sql.push(") SELECT _v.p");
    push_columns(&mut sql, table, ",t.");
    sql.push(" FROM _v JOIN ").name(&table.name);
    sql.push(" AS t ON t._id=_v.k");
    // A row inserted by SQL has no position until its event arrives: it has no earlier versions.
    sql.push(table.dialect.choose("", " WHERE t._position<>0"));
    sql
}

fn push_columns(sql: &mut Sql, table: &Table, before: &'static str) {
    for name in stored_columns(table.dialect) {
        sql.push(before).push(name);
    }
    for name in table.field_names() {
        sql.push(before).name(name);
    }
}
