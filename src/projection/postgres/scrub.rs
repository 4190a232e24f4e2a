//! Removes what rows held for good, from the files of the tables and the database's statistics.

use std::time::Duration;

use super::rebuild;
use super::schema::run_script;
use crate::projection::conn::Conn;
use crate::projection::names::Name;
use crate::projection::sql::{Arg, Sql};

const STATISTICS: &str = include_str!("statistics.sql");

/// Rewrites all tables, so that nothing of deleted rows is left in their files. The database's own
/// write-ahead log and backups are its own responsibility.
pub(in crate::projection) async fn scrub(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    if !rebuild::drop_copies(conn).await? {
        let message = "waits for a command that fills a store next to this one".to_owned();
        return Err(sqlx::Error::Protocol(message));
    }
    await_readers(conn).await?;
    let sql = Sql::new(
        "SELECT relname::text FROM pg_class WHERE relkind='r' \
         AND relnamespace=(SELECT oid FROM pg_namespace WHERE nspname=current_schema) ORDER BY 1",
    );
    for row in sql.fetch_all(conn).await? {
        let mut vacuum = Sql::new("VACUUM (FULL, ANALYZE) ");
        vacuum.name(&Name::new(row.catalog(0)?));
        vacuum.execute(conn).await?;
    }
    scrub_statistics(conn).await
}

/// Removes values of rows from the statistics. They are renewed together with the tables, except
/// for tables that have no rows left.
async fn scrub_statistics(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    run_script(conn, STATISTICS).await?;
    let sql = Sql::new(
        "SELECT pg_has_role(datdba,'USAGE') FROM pg_database WHERE datname=current_database()",
    );
    let row = sql.fetch_optional(conn).await?;
    // Only the database's owner may; otherwise the dead rows there go with the regular vacuum.
    if row.map_or(Ok(false), |row| row.flag(0))? {
        Sql::new("VACUUM FULL pg_statistic").execute(conn).await?;
    }
    Ok(())
}

/// Waits for all transactions that may still see deleted rows: these are kept as long as there is
/// one.
async fn await_readers(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    const TRIES: u32 = 200;
    const PAUSE: Duration = Duration::from_millis(100);
    let now = Sql::new("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint");
    let row = now.fetch_optional(conn).await?;
    let now = row.ok_or(sqlx::Error::RowNotFound)?.int(0)?;
    for _ in 0..TRIES {
        let mut sql = Sql::new("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= ");
        sql.bind(Arg::Int(now)).push(
            " AND coalesce((SELECT max(age(backend_xmin)) FROM pg_stat_activity \
             WHERE datname=current_database() AND pid<>pg_backend_pid()), 0) \
             <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint - ",
        );
        sql.bind(Arg::Int(now));
        let row = sql.fetch_optional(conn).await?;
        if row.map_or(Ok(false), |row| row.flag(0))? {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let message =
        "another program's transaction may still see erased data, and does not end".to_owned();
    Err(sqlx::Error::Protocol(message))
}
