//! What other programs have created in an app's schema: tables, sequences, views, functions, types.
//!
//! In v1 the schema is the plugins' as well, so nothing of theirs is ever dropped or moved with the
//! server's own objects. The work is in `theirs.sql`, whose functions exist only within the
//! transaction that uses them: other programs never see them.

use super::schema::{FORMAT, run_script};
use crate::projection::conn::Conn;
use crate::projection::names::Name;
use crate::projection::sql::{Arg, Sql};

const FUNCTIONS: &str = include_str!("theirs.sql");

const END: &str = "DROP FUNCTION _theirs_version, _theirs_own, _theirs_own_functions, _theirs_objects, \
    _theirs_grants, _theirs_named, _theirs_needing, _theirs_build, _theirs_drop_key, _theirs_lift, \
    _theirs_build_all, _theirs_aside, _theirs_move_own, _theirs_exchange, _theirs_bring_back, _theirs_left, \
    _theirs_drop";

/// The number of tables that are dropped in one transaction. Each takes a few of the database's
/// locks.
const BATCH_TABLES: i64 = 100;

/// Creates the functions in the schema of the connection. Must run in a transaction.
pub(super) async fn begin(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    run_script(conn, FUNCTIONS).await
}

/// Drops the functions.
pub(super) async fn end(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    run_script(conn, END).await
}

/// Returns the number of tables, views and sequences of the server's own in a schema.
pub(super) async fn count_own(conn: &mut Conn<'_>, schema: &Name) -> Result<usize, sqlx::Error> {
    let sql = Sql::new("SELECT oid::text FROM _theirs_own(");
    let own = call(conn, sql, &[schema], ") AS own (oid)").await?;
    Ok(own.len())
}

/// Lists what a schema has besides the server's own objects.
pub(super) async fn list(conn: &mut Conn<'_>, schema: &Name) -> Result<Vec<String>, sqlx::Error> {
    let sql = Sql::new("SELECT kind||' '||named FROM _theirs_objects(");
    call(conn, sql, &[schema], ")").await
}

/// Lists what prevents a schema with a replaced store from being dropped.
pub(super) async fn left_in(
    conn: &mut Conn<'_>,
    schema: &Name,
) -> Result<Vec<String>, sqlx::Error> {
    let sql = Sql::new("SELECT what FROM _theirs_left(");
    call(conn, sql, &[schema], ") AS listed (what)").await
}

/// Replaces the store in the schema `used` by the one in `filled`, and keeps it in the new schema
/// `kept`. What other programs have created stays in `used`, and from now on uses the new tables.
/// Returns what an operator has to know.
pub(super) async fn exchange(
    conn: &mut Conn<'_>,
    used: &Name,
    filled: &Name,
    kept: &Name,
) -> Result<Vec<String>, sqlx::Error> {
    let sql = Sql::new("SELECT said FROM _theirs_exchange(");
    call(conn, sql, &[used, filled, kept], ") AS told (said)").await
}

/// Moves what other programs have in the schema `kept` into the schema `used`, where an earlier
/// version left it. Returns what an operator has to know.
pub(super) async fn bring_back(
    conn: &mut Conn<'_>,
    kept: &Name,
    used: &Name,
) -> Result<Vec<String>, sqlx::Error> {
    let sql = Sql::new("SELECT said FROM _theirs_bring_back(");
    call(conn, sql, &[kept, used], ") AS told (said)").await
}

/// Drops some tables of the store in a schema, or the last ones and the schema if nothing else is in
/// it. Tables that something of other programs needs are emptied instead. Returns what an operator
/// has to know.
pub(super) async fn drop_some(
    conn: &mut Conn<'_>,
    schema: &Name,
) -> Result<Vec<String>, sqlx::Error> {
    let mut sql = Sql::new("SELECT said FROM _theirs_drop(");
    sql.bind(Arg::name(schema)).push("::name,");
    sql.bind(Arg::Int(BATCH_TABLES)).push(",");
    call(conn, sql, &[], ") AS told (said)").await
}

/// Calls one of the functions with the names of schemas; returns the first column.
async fn call(
    conn: &mut Conn<'_>,
    mut sql: Sql,
    schemas: &[&Name],
    end: &'static str,
) -> Result<Vec<String>, sqlx::Error> {
    for schema in schemas {
        sql.bind(Arg::name(schema)).push("::name,");
    }
    sql.bind(Arg::Int(FORMAT)).push(end);
    let rows = sql.fetch_all(conn).await?;
    let rows = rows.iter().map(|row| Ok(row.catalog(0)?.to_owned()));
    rows.collect()
}
