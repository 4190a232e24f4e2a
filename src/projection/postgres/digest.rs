//! What a store holds: its position, its origin, and digests of its tables.

use std::collections::BTreeMap;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::schema::{StoreOrigin, open_beside, origin_of};
use crate::projection::conn::Conn;
use crate::projection::dialect::Extensions;
use crate::projection::layout::{Column, Table, stored_columns};
use crate::projection::names::Name;
use crate::projection::read;
use crate::projection::sql::Sql;
use crate::projection::sqlite::{OpenError, TableDigest};

/// Returns a store's checkpoint and origin.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn origin_server(url: &str, app: &str) -> Result<(u64, StoreOrigin), OpenError> {
    let (mut conn, extensions) = open_beside(url, app).await?;
    let found = {
        let mut conn = Conn::server(&mut conn, extensions);
        let mut tx = conn.begin().await?;
        let checkpoint = checkpoint_of(&mut tx.conn()).await?;
        let origin = origin_of(&mut tx.conn()).await?;
        tx.rollback().await?;
        (checkpoint, origin)
    };
    conn.close().await?;
    Ok(found)
}

async fn checkpoint_of(conn: &mut Conn<'_>) -> Result<u64, sqlx::Error> {
    let row = Sql::new("SELECT position FROM _checkpoint");
    let row = row.fetch_optional(conn).await?;
    row.ok_or(sqlx::Error::RowNotFound)?.unsigned(0)
}

/// Digests every table of a store from one snapshot; returns the checkpoint as well.
///
/// Some tables are left out: those that say how the store serves its queries or continues, not what
/// it holds; those for what other programs change by SQL, which the log does not have; and the
/// tables that other programs have created. So are the columns that they have added to record tables. The server's own are known by a trigger, or by `_type`.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn digest_server(
    url: &str,
    app: &str,
) -> Result<(u64, BTreeMap<String, TableDigest>), OpenError> {
    let (mut conn, extensions) = open_beside(url, app).await?;
    let digests = digest_tables(&mut conn, extensions).await?;
    conn.close().await?;
    Ok(digests)
}

async fn digest_tables(
    conn: &mut PgConnection,
    extensions: Extensions,
) -> Result<(u64, BTreeMap<String, TableDigest>), sqlx::Error> {
    let mut conn = Conn::server(conn, extensions);
    let mut tx = conn.begin().await?;
    let checkpoint = checkpoint_of(&mut tx.conn()).await?;
    let tables = Sql::new(
        "SELECT relname::text FROM pg_class AS c WHERE relkind='r' AND relname<>'_lost' \
         AND relnamespace=(SELECT oid FROM pg_namespace WHERE nspname=current_schema) \
         AND (relname::text IN (SELECT table_name FROM _type) OR starts_with(relname,'_') \
         AND (relname ~ '^_past_[0-9]+$' \
         OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid=c.oid AND tgname='_refuse')))",
    );
    let (catalog, _) = read::catalog(&mut tx.conn()).await?;
    let layouts = catalog.sorted().into_values();
    let layouts = layouts.filter_map(|layout| layout.table.as_ref());
    let layouts: BTreeMap<&str, &Table> = layouts.map(|it| (it.name.as_str(), it)).collect();
    let mut digests = BTreeMap::new();
    for row in tables.fetch_all(&mut tx.conn()).await? {
        let name = row.catalog(0)?;
        let mut sql = Sql::new("SELECT count(*), (coalesce(sum(hashtextextended((");
        match layouts.get(name) {
            Some(table) => push_columns(&mut sql, table),
            None => drop(sql.push("t.*")),
        }
        sql.push(")::text, 0)), 0) % 9223372036854775807)::bigint FROM ");
        sql.name(&Name::new(name)).push(" AS t");
        let row = sql.fetch_optional(&mut tx.conn()).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        let digest = TableDigest {
            num_rows: row.unsigned(0)?,
            sum: row.int(1)?.cast_unsigned(),
        };
        digests.insert(name.to_owned(), digest);
    }
    tx.rollback().await?;
    Ok((checkpoint, digests))
}

/// Adds the row of the columns that the server has created.
fn push_columns(sql: &mut Sql, table: &Table) {
    sql.push("ROW(");
    sql.separated(stored_columns(table.dialect), |sql, name| {
        sql.push("t.").push(name);
    });
    for name in table.columns.iter().flat_map(Column::names) {
        sql.push(",t.").name(name);
    }
    sql.push(")");
}
