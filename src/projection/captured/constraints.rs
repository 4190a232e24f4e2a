//! Constraints that plugins add to record tables.
//!
//! Unique ones become unique sets of the type, in the log, so that later saves are refused with 109
//! as with any other unique set. The log has priority all the same. An event that a constraint
//! prevents lifts the constraint ([`lift`]). It is restored when the rows permit it.

use std::collections::HashMap;
use std::sync::Arc;

use skytrail_actors::capture::UniqueSets;
use skytrail_actors::pauses::pause_after;
use sqlx::postgres::PgDatabaseError;
use tokio::time::Instant;

use super::Tables;
use crate::projection::conn::{Conn, SHORT_WAIT, TABLE_WAIT};
use crate::projection::layout::{SYSTEM_COLUMNS, TypeLayout};
use crate::projection::names::Name;
use crate::projection::sql::{Arg, Sql};

/// PostgreSQL's code for a NULL in a column that is NOT NULL.
const NO_VALUE: &str = "23502";

/// Columns other than those of fields that can be in a unique set.
const TEXTS: [&str; 2] = ["_database_id", "_owner_id"];

/// Returns whether another program has unique indexes on record tables, or constraints that are
/// lifted.
pub(super) async fn are_there(conn: &mut Conn<'_>) -> Result<bool, sqlx::Error> {
    let sql = Sql::new(
        "SELECT EXISTS (SELECT 1 FROM pg_index AS i JOIN pg_class AS c ON c.oid=i.indexrelid \
         JOIN pg_class AS t ON t.oid=i.indrelid WHERE i.indisunique \
         AND t.relnamespace=current_schema::regnamespace AND t.relkind='r' \
         AND NOT starts_with(c.relname,'_') AND NOT starts_with(t.relname,'_')) \
         OR EXISTS (SELECT 1 FROM _lifted)",
    );
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(false), |row| row.flag(0))
}

/// Lists the sets of fields that are unique by indexes of other programs, if these cover whole
/// tables and plain columns.
pub(super) async fn unique_sets(
    conn: &mut Conn<'_>,
    tables: &Tables,
) -> Result<UniqueSets, sqlx::Error> {
    let sql = Sql::new(
        "SELECT t.relname::text, (SELECT jsonb_agg(a.attname::text ORDER BY k.n) \
         FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
         JOIN pg_attribute AS a ON a.attrelid=i.indrelid AND a.attnum=k.attnum) \
         FROM pg_index AS i JOIN pg_class AS c ON c.oid=i.indexrelid \
         JOIN pg_class AS t ON t.oid=i.indrelid WHERE i.indisunique AND i.indisvalid \
         AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts=i.indnkeyatts \
         AND t.relnamespace=current_schema::regnamespace AND t.relkind='r' \
         AND NOT starts_with(c.relname,'_') AND NOT starts_with(t.relname,'_')",
    );
    let mut sets = UniqueSets::new();
    for row in sql.fetch_all(conn).await? {
        let Some(layout) = tables.get(row.catalog(0)?) else {
            continue;
        };
        let columns = row.catalog_list(1)?;
        match fields_of(layout, &columns) {
            Some(fields) => sets.push((layout.definition.name.clone(), fields)),
            None => tracing::debug!(
                ?columns,
                "a unique index covers columns that are not fields"
            ),
        }
    }
    Ok(sets)
}

fn fields_of(layout: &Arc<TypeLayout>, columns: &[String]) -> Option<Vec<String>> {
    let table = layout.table.as_ref()?;
    let field = |column: &String| {
        if TEXTS.contains(&column.as_str()) {
            return Some(column.clone());
        }
        let mut columns = table.columns.iter();
        let found = columns.find(|it| it.name.as_str() == column);
        found.map(|it| it.field.clone())
    };
    columns.iter().map(field).collect()
}

/// Lifts the constraint that an error is about, if it is another program's; returns whether it did.
pub(in crate::projection) async fn lift(
    conn: &mut Conn<'_>,
    error: &sqlx::Error,
) -> Result<bool, sqlx::Error> {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    if error.is_some() {
        conn.wait_at_most(TABLE_WAIT).await?;
    }
    if let Some(error) = error.filter(|error| error.code() == NO_VALUE) {
        let named = error.table().zip(error.column());
        return match named.filter(|(_, column)| !SYSTEM_COLUMNS.contains(column)) {
            Some(named) => lift_not_null(conn, named).await,
            None => Ok(false),
        };
    }
    let named = error.and_then(|error| Some((error.table()?, error.constraint()?)));
    let Some((table, name)) = named.filter(|(_, name)| !name.starts_with('_')) else {
        return Ok(false);
    };
    let mut sql = Sql::new(
        "INSERT INTO _lifted (table_name, name, definition, is_index) \
         SELECT t.relname, o.conname, pg_get_constraintdef(o.oid), false FROM pg_constraint AS o \
         JOIN pg_class AS t ON t.oid=o.conrelid WHERE t.relnamespace=current_schema::regnamespace \
         AND t.relname=",
    );
    sql.bind(Arg::catalog(table)).push("::name AND o.conname=");
    sql.bind(Arg::catalog(name))
        .push("::name ON CONFLICT (table_name, name) DO UPDATE SET definition=excluded.definition");
    let is_constraint = sql.execute(conn).await? > 0;
    if !is_constraint {
        let mut sql = Sql::new(
            "INSERT INTO _lifted (table_name, name, definition, is_index) \
             SELECT tablename, indexname, indexdef, true FROM pg_indexes \
             WHERE schemaname=current_schema AND tablename=",
        );
        sql.bind(Arg::catalog(table)).push("::name AND indexname=");
        sql.bind(Arg::catalog(name)).push(
            "::name ON CONFLICT (table_name, name) DO UPDATE SET definition=excluded.definition",
        );
        if sql.execute(conn).await? == 0 {
            return Ok(false);
        }
    }
    let mut sql = Sql::new("ALTER TABLE ");
    if is_constraint {
        sql.name(&Name::new(table)).push(" DROP CONSTRAINT ");
    } else {
        sql = Sql::new("DROP INDEX ");
    }
    sql.name(&Name::new(name));
    sql.execute(conn).await?;
    tracing::warn!(
        table,
        name,
        "a constraint was lifted: the log's records do not meet it yet"
    );
    Ok(true)
}

/// Permits NULL in a column that another program has made NOT NULL.
async fn lift_not_null(
    conn: &mut Conn<'_>,
    (table, column): (&str, &str),
) -> Result<bool, sqlx::Error> {
    // The whole statement is kept, as for an index.
    let mut sql = Sql::new(
        "INSERT INTO _lifted (table_name, name, definition, is_index) \
         SELECT t.relname, a.attname||' NOT NULL', \
         format('ALTER TABLE %I ALTER COLUMN %I SET NOT NULL', t.relname, a.attname), true \
         FROM pg_class AS t JOIN pg_attribute AS a ON a.attrelid=t.oid \
         WHERE a.attnotnull AND a.attnum>0 AND t.relnamespace=current_schema::regnamespace \
         AND NOT starts_with(t.relname,'_') AND t.relname=",
    );
    sql.bind(Arg::catalog(table)).push("::name AND a.attname=");
    sql.bind(Arg::catalog(column))
        .push("::name ON CONFLICT (table_name, name) DO UPDATE SET definition=excluded.definition");
    if sql.execute(conn).await? == 0 {
        return Ok(false);
    }
    let mut sql = Sql::new("ALTER TABLE ");
    sql.name(&Name::new(table)).push(" ALTER COLUMN ");
    sql.name(&Name::new(column)).push(" DROP NOT NULL");
    sql.execute(conn).await?;
    tracing::warn!(
        table,
        column,
        "NOT NULL that another program set on a column was lifted: the log's records do not meet \
         it yet"
    );
    Ok(true)
}

/// When to try to restore lifted constraints. An attempt reads the whole table and blocks it
/// meanwhile, so each constraint is tried less and less often.
#[derive(Debug, Default)]
pub(in crate::projection) struct Retries(HashMap<(String, String), Retry>);

#[derive(Debug)]
struct Retry {
    at: Instant,
    num_failures: u32,
}

impl Retries {
    fn is_due(&self, key: &(String, String), now: Instant) -> bool {
        self.0.get(key).is_none_or(|retry| retry.at <= now)
    }

    fn put_off(&mut self, key: (String, String), now: Instant) {
        let num_failures = self.0.get(&key).map_or(1, |retry| retry.num_failures + 1);
        let at = now + pause_after(num_failures);
        self.0.insert(key, Retry { at, num_failures });
    }
}

/// Restores the lifted constraints that are due, as far as the rows permit it.
pub(super) async fn restore(conn: &mut Conn<'_>, retries: &mut Retries) -> Result<(), sqlx::Error> {
    let sql = Sql::new("SELECT table_name, name FROM _lifted");
    for row in sql.fetch_all(conn).await? {
        let (table, name) = (row.catalog(0)?, row.catalog(1)?);
        let key = (table.to_owned(), name.to_owned());
        if !retries.is_due(&key, Instant::now()) {
            continue;
        }
        let mut tx = conn.begin_writing().await?;
        match put_back(&mut tx.conn(), table, name).await {
            Ok(()) => {
                tx.commit().await?;
                retries.0.remove(&key);
                tracing::info!(%table, %name, "a lifted constraint is in force again");
            }
            Err(error) => {
                tx.rollback().await?;
                retries.put_off(key, Instant::now());
                tracing::debug!(%error, %table, %name, "a lifted constraint cannot return yet");
            }
        }
    }
    Ok(())
}

async fn put_back(conn: &mut Conn<'_>, table: &str, name: &str) -> Result<(), sqlx::Error> {
    conn.wait_at_most(SHORT_WAIT).await?;
    let mut sql = Sql::new("SELECT _put_back(");
    sql.bind(Arg::catalog(table))
        .push(",")
        .bind(Arg::catalog(name))
        .push(")");
    sql.fetch_optional(conn).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_does_not_fit_is_tried_ever_more_seldom() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        let key = || ("note".to_owned(), "small".to_owned());
        assert!(retries.is_due(&key(), now));
        let mut pauses = Vec::new();
        for _ in 0..11 {
            retries.put_off(key(), now);
            let mut pause = 0;
            while !retries.is_due(&key(), now) {
                now += Duration::from_secs(1);
                pause += 1;
            }
            pauses.push(pause);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(retries.is_due(&("note".to_owned(), "other".to_owned()), now));
    }
}
