//! Copies what must not stay behind when a store in PostgreSQL is left for another: parked rows,
//! and constraints that other programs have added.
//!
//! The stores can be in different servers. A move deletes rows from the old one once the new one has
//! them. After a crash in between they are copied again, and found there. A rebuild only copies
//! them, since the old store stays in use when the switch fails.

use skytrail_actors::capture::Waiting;
use sqlx::Connection as _;

use super::last_number;
use super::parked::waiting;
use crate::projection::conn::{Conn, Row};
use crate::projection::postgres::{is_about_rows, open_beside};
use crate::projection::sql::{Arg, Sql};
use crate::projection::sqlite::OpenError;

/// How many rows are copied at once.
const BATCH_SIZE: i64 = 200;

/// A store in a server: its address, and the app's name.
type ServerStore<'a> = (&'a str, &'a str);

/// Counts the parked rows of a store.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn count_parked(store: ServerStore<'_>) -> Result<u64, OpenError> {
    Ok(waiting_at(store).await?.num_parked)
}

/// Counts the rows in the outbox of a store.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn count_waiting(store: ServerStore<'_>) -> Result<u64, OpenError> {
    Ok(waiting_at(store).await?.num_rows)
}

async fn waiting_at((url, app): ServerStore<'_>) -> Result<Waiting, OpenError> {
    let (mut conn, extensions) = open_beside(url, app).await?;
    let found = waiting(&mut Conn::Postgres(&mut conn, extensions, None)).await;
    conn.close().await?;
    Ok(found?)
}

/// Copies what is parked in the store at `old`, and the constraints that other programs have added
/// there, to the one at `new`. The constraints are restored there when its rows permit it.
///
/// # Errors
/// A store does not open, or cannot be read or written.
pub async fn copy_captured(old: ServerStore<'_>, new: ServerStore<'_>) -> Result<(), OpenError> {
    carry_captured(old, new, Originals::Stay).await
}

/// Copies the same as [`copy_captured`], and deletes the parked rows in the store at `old`.
///
/// # Errors
/// A store does not open, or cannot be read or written.
pub async fn move_captured(old: ServerStore<'_>, new: ServerStore<'_>) -> Result<(), OpenError> {
    carry_captured(old, new, Originals::AreDeleted).await
}

/// What happens to parked rows in the old store once the new one has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Originals {
    Stay,
    AreDeleted,
}

async fn carry_captured(
    old: ServerStore<'_>,
    new: ServerStore<'_>,
    originals: Originals,
) -> Result<(), OpenError> {
    let (mut from, from_extensions) = open_beside(old.0, old.1).await?;
    let (mut to, to_extensions) = open_beside(new.0, new.1).await?;
    {
        let mut from = Conn::Postgres(&mut from, from_extensions, None);
        let mut to = Conn::Postgres(&mut to, to_extensions, None);
        carry_constraints(&mut from, &mut to).await?;
        carry_parked((&mut from, originals), &mut to).await?;
        carry_numbers(&mut from, &mut to).await?;
    }
    from.close().await?;
    to.close().await?;
    Ok(())
}

async fn carry_constraints(from: &mut Conn<'_>, to: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    let sql = Sql::new(
        "WITH own AS (SELECT oid, relname FROM pg_class WHERE relkind='r' \
         AND relnamespace=current_schema::regnamespace AND NOT starts_with(relname,'_')) \
         SELECT table_name, name, definition, is_index FROM _lifted \
         UNION ALL SELECT t.relname, o.conname, pg_get_constraintdef(o.oid), false \
         FROM pg_constraint AS o JOIN own AS t ON t.oid=o.conrelid \
         WHERE o.contype IN ('c','u','x','f') AND NOT starts_with(o.conname,'_') \
         UNION ALL SELECT t.relname, c.relname, pg_get_indexdef(c.oid), true \
         FROM pg_index AS i JOIN own AS t ON t.oid=i.indrelid JOIN pg_class AS c ON c.oid=i.indexrelid \
         WHERE i.indisunique AND NOT starts_with(c.relname,'_') \
         AND NOT EXISTS (SELECT 1 FROM pg_constraint AS o WHERE o.conindid=c.oid)",
    );
    for row in sql.fetch_all(from).await? {
        let mut sql =
            Sql::new("INSERT INTO _lifted (table_name, name, definition, is_index) SELECT ");
        sql.bind(Arg::catalog(row.catalog(0)?)).push(",");
        sql.bind(Arg::catalog(row.catalog(1)?)).push(",");
        sql.bind(Arg::catalog(row.catalog(2)?)).push(",");
        sql.bind(Arg::Bool(row.flag(3)?));
        // Constraints of other tables are skipped: a type's table may have another name there, or a
        // table may be another program's.
        sql.push(" WHERE EXISTS (SELECT 1 FROM _type WHERE table_name=");
        sql.bind(Arg::text(row.catalog(0)?));
        sql.push(") ON CONFLICT DO NOTHING");
        sql.execute(to).await?;
    }
    Ok(())
}

/// Copies parked rows, except those whose contents the database cannot return: they stay.
async fn carry_parked(
    (from, originals): (&mut Conn<'_>, Originals),
    to: &mut Conn<'_>,
) -> Result<(), sqlx::Error> {
    let mut last = 0;
    loop {
        let read = match next(from, last, BATCH_SIZE).await {
            Err(error) if is_about_rows(&error) => next(from, last, 1).await,
            read => read,
        };
        match read {
            Ok(rows) if rows.is_empty() => return Ok(()),
            Ok(rows) => last = carry((from, originals), to, &rows).await?,
            Err(error) if is_about_rows(&error) => {
                let mut sql = Sql::new("SELECT min(id) FROM _parked WHERE id>");
                sql.bind(Arg::Int(last));
                let row = sql.fetch_optional(from).await?;
                last = row.ok_or(sqlx::Error::RowNotFound)?.int(0)?;
                tracing::warn!(
                    number = last, %error,
                    "a parked row stays in the old store, since it cannot be read"
                );
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads parked rows after one.
async fn next(from: &mut Conn<'_>, last: i64, limit: i64) -> Result<Vec<Row>, sqlx::Error> {
    let mut sql = Sql::new("SELECT id, to_jsonb(p.*)::text FROM _parked AS p WHERE id>");
    sql.bind(Arg::Int(last)).push(" ORDER BY id LIMIT ");
    sql.bind(Arg::Int(limit));
    sql.fetch_all(from).await
}

/// Copies rows, and deletes the originals if they do not stay; returns the number of the last one.
async fn carry(
    (from, originals): (&mut Conn<'_>, Originals),
    to: &mut Conn<'_>,
    rows: &[Row],
) -> Result<i64, sqlx::Error> {
    let mut tx = to.begin_writing().await?;
    for row in rows {
        put(&mut tx.conn(), row).await?;
    }
    tx.commit().await?;
    let ids: Vec<i64> = rows
        .iter()
        .map(|row| row.int(0))
        .collect::<Result<_, _>>()?;
    if originals == Originals::AreDeleted {
        let mut sql = Sql::new("DELETE FROM _parked WHERE id");
        sql.one_of(&ids, |id| Arg::Int(*id));
        sql.execute(from).await?;
    }
    Ok(ids.last().copied().unwrap_or_default())
}

/// Makes all later numbers of the new outbox higher than those of the old one: operators have noted
/// numbers of parked rows.
async fn carry_numbers(from: &mut Conn<'_>, to: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    let last = last_number(from).await?;
    if last <= last_number(to).await? {
        return Ok(());
    }
    let mut sql = Sql::new("SELECT setval(pg_get_serial_sequence('_outbox','id')::regclass,");
    sql.bind(Arg::unsigned(last)).push(")");
    sql.fetch_optional(to).await.map(drop)
}

/// Inserts a row, unless it is there already. It keeps its number if that is higher than all of the
/// new outbox.
async fn put(conn: &mut Conn<'_>, row: &Row) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new(
        "INSERT INTO _parked (id, transaction, role, at, table_name, key, before, after, columns, \
         reason, parked_at) \
         SELECT CASE WHEN id>coalesce(pg_sequence_last_value(numbers),0) THEN setval(numbers,id) \
         ELSE nextval(numbers) END, transaction, role, at, table_name, \
         key, before, after, columns, reason, parked_at \
         FROM (SELECT pg_get_serial_sequence('_outbox','id')::regclass) AS s (numbers), \
         jsonb_populate_record(NULL::_parked, ",
    );
    // As a string that is not parsed here, since it may contain something that cannot be read.
    sql.bind(Arg::text(row.text(1)?)).push(
        "::jsonb) AS p WHERE NOT EXISTS (SELECT 1 FROM _parked AS q WHERE q.transaction=p.transaction \
         AND q.role=p.role AND q.at=p.at AND q.table_name=p.table_name AND q.key=p.key \
         AND q.parked_at=p.parked_at)",
    );
    sql.execute(conn).await?;
    Ok(())
}
