//! Removes what rows held for good, from the files of the tables and the database's statistics.

use std::collections::HashSet;
use std::time::Duration;

use super::errors::{held, is_held};
use super::readers::notice_lost_client;
use super::rebuild;
use super::schema::run_script;
use crate::projection::conn::{Conn, Row};
use crate::projection::names::Name;
use crate::projection::sql::{Arg, Sql};

const STATISTICS: &str = include_str!("statistics.sql");

/// Drops what killed commands have left next to the store.
///
/// # Errors
/// Among others, a command is filling a store there.
pub(in crate::projection) async fn drop_unfinished(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    if !rebuild::drop_copies(conn).await? {
        let message = "waits for a command that fills a store next to this one".to_owned();
        return Err(sqlx::Error::Protocol(message));
    }
    Ok(())
}

/// Rewrites all tables, so that nothing of deleted rows is left in their files. No reader may still
/// see these rows: see [`has_readers_since`]. Each lock is waited for at most this long. Tables that
/// are in `written` are left out, and others are added.
///
/// The database's own write-ahead log and backups are its owner's responsibility.
///
/// # Errors
/// Among others, one that names who holds a table.
pub(in crate::projection) async fn scrub(
    conn: &mut Conn<'_>,
    written: &mut HashSet<String>,
    lock_wait: Duration,
) -> Result<(), sqlx::Error> {
    // If the server is stopped meanwhile, the next start waits for the end of this.
    notice_lost_client(conn).await;
    limit_lock_wait(conn, lock_wait).await?;
    let scrubbed = write_anew(conn, written).await;
    limit_lock_wait(conn, Duration::ZERO).await.and(scrubbed)
}

/// Limits how long the session waits for a lock; not at all if it is zero.
async fn limit_lock_wait(conn: &mut Conn<'_>, wait: Duration) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("SELECT set_config('lock_timeout',");
    sql.bind(Arg::Text(format!("{}ms", wait.as_millis())))
        .push(",false)");
    sql.fetch_optional(conn).await.map(drop)
}

async fn write_anew(conn: &mut Conn<'_>, written: &mut HashSet<String>) -> Result<(), sqlx::Error> {
    let sql = Sql::new(
        "SELECT relname::text FROM pg_class WHERE relkind='r' \
         AND relnamespace=(SELECT oid FROM pg_namespace WHERE nspname=current_schema) ORDER BY 1",
    );
    for row in sql.fetch_all(conn).await? {
        let name = row.catalog(0)?;
        if written.contains(name) {
            continue;
        }
        let table = Name::new(name);
        let mut vacuum = Sql::new("VACUUM (FULL, ANALYZE) ");
        vacuum.name(&table);
        if let Err(error) = vacuum.execute(conn).await {
            let holders = match is_held(&error) {
                true => users_of(conn, &table).await?,
                false => Vec::new(),
            };
            return Err(held(error, &holders));
        }
        written.insert(name.to_owned());
    }
    scrub_statistics(conn).await
}

/// A transaction that holds tables.
pub(in crate::projection) struct TableUser {
    /// The database's own name for the transaction.
    transaction: String,
    /// Who it is, for an operator.
    pub(in crate::projection) name: String,
}

impl PartialEq for TableUser {
    fn eq(&self, other: &Self) -> bool {
        self.transaction == other.transaction
    }
}

/// Lists the transactions that hold tables of the schema. An autovacuum is left out: the database ends
/// it when somebody waits for its table.
pub(in crate::projection) async fn table_users(
    conn: &mut Conn<'_>,
) -> Result<Vec<TableUser>, sqlx::Error> {
    let mut sql = Sql::new("SELECT l.virtualtransaction, ");
    sql.push(SESSION).push(
        " FROM pg_stat_activity AS a JOIN (SELECT DISTINCT pid, virtualtransaction FROM pg_locks \
         WHERE granted AND relation IN (SELECT oid FROM pg_class WHERE relkind='r' \
         AND relnamespace=(SELECT oid FROM pg_namespace WHERE nspname=current_schema))) AS l \
         USING (pid) WHERE pid<>pg_backend_pid() AND NOT ",
    );
    sql.push(IS_AUTOVACUUM).push(" ORDER BY pid");
    let rows = sql.fetch_all(conn).await?;
    let user = |row: &Row| {
        Ok(TableUser {
            transaction: row.text(0)?.into_owned(),
            name: row.text(1)?.into_owned(),
        })
    };
    rows.iter().map(user).collect()
}

/// Lists the sessions that hold a lock on a table.
async fn users_of(conn: &mut Conn<'_>, table: &Name) -> Result<Vec<String>, sqlx::Error> {
    let mut sql = Sql::new("SELECT ");
    sql.push(SESSION).push(
        " FROM pg_stat_activity AS a WHERE pid<>pg_backend_pid() AND pid IN \
         (SELECT l.pid FROM pg_locks AS l WHERE l.granted AND l.relation=to_regclass(",
    );
    sql.bind(Arg::quoted(table)).push(")) ORDER BY pid");
    names(&sql.fetch_all(conn).await?)
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

/// Returns the number of the next transaction: what was committed until now can only be invisible to
/// transactions that already run.
pub(in crate::projection) async fn next_transaction(
    conn: &mut Conn<'_>,
) -> Result<i64, sqlx::Error> {
    let now = Sql::new("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint");
    let row = now.fetch_optional(conn).await?;
    row.ok_or(sqlx::Error::RowNotFound)?.int(0)
}

/// Returns whether rows that were deleted before a transaction may still be seen: the database keeps
/// them as long as anybody may.
///
/// That is a session of this database whose snapshot is older, a standby that reports its readers,
/// or a transaction of any database that writes, because every snapshot waits for its end.
pub(in crate::projection) async fn has_readers_since(
    conn: &mut Conn<'_>,
    transaction: i64,
) -> Result<bool, sqlx::Error> {
    let mut sql = Sql::new("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint < ");
    sql.bind(Arg::Int(transaction))
        .push(" OR EXISTS (SELECT 1 FROM pg_stat_activity WHERE ");
    push_is_reader(&mut sql, transaction);
    sql.push(") OR EXISTS (SELECT 1 FROM pg_replication_slots WHERE age(xmin) > ");
    push_age(&mut sql, transaction);
    sql.push(")");
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(true), |row| row.flag(0))
}

/// Names those for whom [`has_readers_since`] says so.
pub(in crate::projection) async fn readers_since(
    conn: &mut Conn<'_>,
    transaction: i64,
) -> Result<Vec<String>, sqlx::Error> {
    let mut sql = Sql::new("SELECT ");
    sql.push(SESSION).push(" FROM pg_stat_activity WHERE ");
    push_is_reader(&mut sql, transaction);
    sql.push(" OR pid<>pg_backend_pid() AND age(backend_xid) > ");
    push_age(&mut sql, transaction);
    sql.push(
        " UNION ALL SELECT format('prepared transaction %s (database %s, role %s)', gid, \
         database, owner) FROM pg_prepared_xacts WHERE age(transaction) > ",
    );
    push_age(&mut sql, transaction);
    sql.push(
        " UNION ALL SELECT format('replication slot %s', slot_name) FROM pg_replication_slots \
         WHERE age(xmin) > ",
    );
    push_age(&mut sql, transaction);
    names(&sql.fetch_all(conn).await?)
}

/// Describes a session of `pg_stat_activity`.
const SESSION: &str = "format('process %s (%s, role %s)', pid, \
                       CASE WHEN datid IS NOT NULL AND usesysid IS NULL THEN 'autovacuum' \
                       ELSE coalesce(nullif(application_name, ''), 'no application_name') END, \
                       coalesce(usename, 'none'))";

/// Says that a session of `pg_stat_activity` is an autovacuum: only that works in a database without
/// a role. Its `backend_type` is not shown to every role.
const IS_AUTOVACUUM: &str = "(datid IS NOT NULL AND usesysid IS NULL)";

/// Adds the condition that a session's snapshot is older than a transaction. A session of no
/// database serves a standby. No rows are kept for a session that vacuums, so it is none of them.
fn push_is_reader(sql: &mut Sql, transaction: i64) {
    sql.push(
        "pid<>pg_backend_pid() AND coalesce(datname=current_database(), true) \
         AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum) AND age(backend_xmin) > ",
    );
    push_age(sql, transaction);
}

/// Adds the age of a transaction.
fn push_age(sql: &mut Sql, transaction: i64) {
    sql.push("pg_snapshot_xmax(pg_current_snapshot())::text::bigint - ")
        .bind(Arg::Int(transaction));
}

fn names(rows: &[Row]) -> Result<Vec<String>, sqlx::Error> {
    rows.iter()
        .map(|row| Ok(row.text(0)?.into_owned()))
        .collect()
}
