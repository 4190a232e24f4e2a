//! Rows that could not be written to the log.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use skytrail_actors::capture::{Parked, ParkedRow, ParkedSelector, Waiting};
use skytrail_schema::event::{ErasureScope, SqlSource, Stream};
use skytrail_schema::id::{RecordId, TypeName, UserId};

use super::reading::{CONTENTS, NO_CONTENTS};
use super::{Cells, Tables, cells};
use crate::projection::conn::{Conn, Row};
use crate::projection::layout::Catalog;
use crate::projection::postgres::is_about_rows;
use crate::projection::sql::{Arg, Sql};

/// Copies rows to where operators look for them; rows of records that the log does not have are
/// deleted.
pub(super) async fn park(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    source: &SqlSource,
    rows: &[Parked],
) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin_writing().await?;
    for row in rows {
        let mut sql = Sql::new(
            "INSERT INTO _parked \
             (id, transaction, role, at, table_name, key, before, after, reason, columns) \
             SELECT o.id, o.transaction, o.role, o.at, o.table_name, o.key, f.before, o.after, ",
        );
        sql.bind(Arg::text(row.reason.as_str())).push(", ");
        // From before the transaction's first change of the row to what its last one left.
        sql.push("nullif(").bind(columns_of(row)).push(
            "::jsonb, 'null') FROM _outbox AS o JOIN _outbox AS f \
             ON f.transaction=o.transaction AND f.id=",
        );
        sql.bind(Arg::unsigned(row.first))
            .push(" WHERE o.transaction=");
        sql.bind(Arg::unsigned(source.transaction))
            .push(" AND o.id=");
        sql.bind(Arg::unsigned(row.number))
            .push(" ON CONFLICT DO NOTHING");
        sql.execute(&mut tx.conn()).await?;
        let stray = row.stray.as_ref();
        let stray =
            stray.and_then(|(id, position)| Some((id, position, catalog.table(&id.record_type)?)));
        if let Some((id, position, table)) = stray {
            // A record that the log has created meanwhile has a later position.
            let mut sql = Sql::new("DELETE FROM ");
            sql.name(&table.name).push(" WHERE _id=");
            sql.bind(Arg::text(id.key.as_str()));
            sql.push(" AND _position<=").bind(Arg::unsigned(*position));
            sql.execute(&mut tx.conn()).await?;
        }
    }
    tx.commit().await
}

fn columns_of(row: &Parked) -> Arg {
    let columns = row.columns.iter().map(String::as_str);
    let columns: Json = columns.collect();
    match row.columns.is_empty() {
        true => Arg::catalog("null"),
        false => Arg::catalog(columns.to_string()),
    }
}

/// Returns what is waiting.
pub(super) async fn waiting(conn: &mut Conn<'_>) -> Result<Waiting, sqlx::Error> {
    let sql = Sql::new(
        "SELECT (SELECT count(*) FROM _outbox), (SELECT at FROM _outbox ORDER BY id LIMIT 1), \
         (SELECT count(*) FROM _parked)",
    );
    let row = sql.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Waiting {
        num_rows: row.unsigned(0)?,
        since: row.maybe_time(1)?,
        num_parked: row.unsigned(2)?,
    })
}

/// Lists parked rows.
pub(super) async fn list(
    conn: &mut Conn<'_>,
    tables: &Tables,
    selector: &ParkedSelector,
    limit: usize,
) -> Result<Vec<ParkedRow>, sqlx::Error> {
    if is_none(selector) {
        return Ok(Vec::new());
    }
    match select(conn, tables, (CONTENTS, selector, limit)).await {
        Err(error) if is_about_rows(&error) => {}
        listed => return listed,
    }
    // The contents of some row cannot be read, which is then shown without them.
    let mut listed = select(conn, tables, (NO_CONTENTS, selector, limit)).await?;
    for row in &mut listed {
        let this = ParkedSelector::These(vec![row.id]);
        match select(conn, tables, (CONTENTS, &this, 1)).await {
            Ok(whole) => whole.into_iter().for_each(|whole| *row = whole),
            Err(error) if is_about_rows(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listed)
}

async fn select(
    conn: &mut Conn<'_>,
    tables: &Tables,
    (contents, selector, limit): (&'static str, &ParkedSelector, usize),
) -> Result<Vec<ParkedRow>, sqlx::Error> {
    let mut sql = Sql::new("SELECT id, table_name, key, ");
    sql.push(contents)
        .push(", columns, reason, role, transaction, at, parked_at FROM _parked WHERE ");
    only(&mut sql, selector).push(" ORDER BY id LIMIT ");
    sql.bind(Arg::unsigned(u64::try_from(limit).unwrap_or(u64::MAX)));
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(|row| decode(tables, row)).collect()
}

fn decode(tables: &Tables, row: &Row) -> Result<ParkedRow, sqlx::Error> {
    let (table, key) = (row.catalog(1)?.to_owned(), row.text(2)?.into_owned());
    let layout = tables.get(&table);
    let id = |name: &TypeName| RecordId::new(name.clone(), key.as_str());
    let any = |index| Ok::<_, sqlx::Error>(cells(row, index)?.map(Cells::into_json));
    Ok(ParkedRow {
        id: row.unsigned(0)?,
        record: layout.map(|layout| id(&layout.definition.name)),
        before: any(3)?,
        after: any(4)?,
        columns: row.catalog_list(5)?,
        reason: row.text(6)?.into_owned(),
        role: row.text(7)?.into_owned(),
        transaction: row.unsigned(8)?,
        at: row.time(9)?,
        parked_at: row.time(10)?,
        table,
        key,
    })
}

/// Puts rows back at the end of the outbox; returns their new numbers.
///
/// The visible rows of a transaction are taken for all of its rows up to the last. So only one
/// retry at a time puts rows there. A row whose transaction was numbered by another database gets
/// the number of this transaction. The rows' places may be those of former records.
pub(super) async fn retry(
    conn: &mut Conn<'_>,
    selector: &ParkedSelector,
) -> Result<Vec<u64>, sqlx::Error> {
    if is_none(selector) {
        return Ok(Vec::new());
    }
    let mut tx = conn.begin_writing().await?;
    let lock = Sql::new("LOCK TABLE _parked IN EXCLUSIVE MODE");
    lock.execute(&mut tx.conn()).await?;
    let mut sql = Sql::new("WITH gone AS (DELETE FROM _parked WHERE ");
    only(&mut sql, selector).push(
        " RETURNING *) \
         INSERT INTO _outbox (transaction, role, at, table_name, key, before, after) \
         SELECT CASE WHEN transaction < pg_snapshot_xmin(pg_current_snapshot())::text::bigint \
         THEN transaction ELSE pg_current_xact_id()::text::bigint END, \
         role, at, table_name, key, CASE WHEN columns IS NULL THEN before \
         ELSE after || (SELECT jsonb_object_agg(name, before -> name) \
         FROM jsonb_array_elements_text(columns) AS name) END - '_row', after - '_row' \
         FROM gone ORDER BY id RETURNING id",
    );
    let rows = sql.fetch_all(&mut tx.conn()).await?;
    let numbers = rows.iter().map(|row| row.unsigned(0)).collect();
    tx.commit().await?;
    numbers
}

/// Deletes rows; returns their numbers.
pub(super) async fn discard(
    conn: &mut Conn<'_>,
    selector: &ParkedSelector,
) -> Result<Vec<u64>, sqlx::Error> {
    if is_none(selector) {
        return Ok(Vec::new());
    }
    let mut sql = Sql::new("DELETE FROM _parked WHERE ");
    only(&mut sql, selector).push(" RETURNING id");
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(|row| row.unsigned(0)).collect()
}

fn is_none(selector: &ParkedSelector) -> bool {
    matches!(selector, ParkedSelector::These(ids) if ids.is_empty())
}

fn only<'a>(sql: &'a mut Sql, selector: &ParkedSelector) -> &'a mut Sql {
    match selector {
        ParkedSelector::After(number) => sql.push("id>").bind(Arg::unsigned(*number)),
        ParkedSelector::These(ids) => sql.push("id").one_of(ids, |id| Arg::unsigned(*id)),
    }
}

/// Deletes parked rows of erased records and users; by then the outbox has none of them.
pub(in crate::projection) async fn forget(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    scopes: &[ErasureScope],
) -> Result<(), sqlx::Error> {
    let all: BTreeSet<Owner> = scopes.iter().flat_map(Owner::of).collect();
    for owner in all {
        let mut sql = Sql::new("DELETE FROM _parked WHERE ");
        if owner.only(&mut sql, catalog) {
            sql.execute(conn).await?;
        }
    }
    Ok(())
}

/// Returns whether anything that is to be erased is parked.
pub(in crate::projection) async fn is_parked(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    scopes: &[ErasureScope],
) -> Result<bool, sqlx::Error> {
    for owner in scopes.iter().flat_map(Owner::of) {
        let mut sql = Sql::new("SELECT 1 FROM _parked WHERE ");
        if owner.only(&mut sql, catalog) && sql.fetch_optional(conn).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whose parked rows are meant.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Record(RecordId),
    User(UserId),
}

impl Owner {
    fn of(scope: &ErasureScope) -> Vec<Self> {
        match scope {
            ErasureScope::Record(Stream::Record(id))
            | ErasureScope::Field {
                record: Stream::Record(id),
                ..
            } => vec![Self::Record(id.clone())],
            ErasureScope::User(user) => {
                let record = RecordId::new(TypeName::user(), user.as_str());
                vec![Self::Record(record), Self::User(user.clone())]
            }
            _ => Vec::new(),
        }
    }

    /// Writes the condition; returns whether there can be any rows.
    fn only(&self, sql: &mut Sql, catalog: &Catalog) -> bool {
        match self {
            Self::Record(id) => {
                let Some(table) = catalog.table(&id.record_type) else {
                    return false;
                };
                sql.push("table_name=")
                    .bind(Arg::name(&table.name))
                    .push(" AND key=")
                    .bind(Arg::text(id.key.as_str()));
            }
            Self::User(user) => {
                sql.bind(Arg::text(user.as_str())).push(
                    " IN (before->>'_owner_id', after->>'_owner_id', \
                     before->>'_database_id', after->>'_database_id')",
                );
            }
        }
        true
    }
}
