//! The triggers that capture what other programs do. The owner of a table can disable or drop them.

use std::sync::Arc;

use super::Tables;
use crate::projection::conn::{Conn, SHORT_WAIT};
use crate::projection::ddl;
use crate::projection::layout::Table;
use crate::projection::sql::Sql;

/// Restores triggers that are missing or disabled; returns the tables that are without them all the
/// same.
pub(super) async fn restore(
    conn: &mut Conn<'_>,
    tables: &Tables,
) -> Result<Vec<String>, sqlx::Error> {
    let sql = Sql::new(
        "SELECT t.relname::text FROM pg_class AS t \
         WHERE t.relnamespace=current_schema::regnamespace AND t.relkind='r' \
         AND 3<>(SELECT count(*) FROM pg_trigger WHERE tgrelid=t.oid AND tgenabled IN ('O','A') \
         AND tgname IN ('_keep_place','_capture','_refuse') AND NOT tgisinternal)",
    );
    let mut uncaptured = Vec::new();
    for row in sql.fetch_all(conn).await? {
        let name = row.catalog(0)?;
        let layout = tables.get(name).map(Arc::as_ref);
        let Some(table) = layout.and_then(|layout| layout.table.as_ref()) else {
            continue;
        };
        let mut tx = conn.begin_writing().await?;
        match make(&mut tx.conn(), table).await {
            Ok(()) => {
                tx.commit().await?;
                tracing::warn!(
                    table = name,
                    "SQL changes to {name} are captured again: its triggers had been dropped or \
                     disabled, and what was written meanwhile is not in the log"
                );
            }
            Err(error) => {
                tx.rollback().await?;
                uncaptured.push(format!("SQL changes to {name} are not captured: {error}"));
            }
        }
    }
    Ok(uncaptured)
}

async fn make(conn: &mut Conn<'_>, table: &Table) -> Result<(), sqlx::Error> {
    conn.wait_at_most(SHORT_WAIT).await?;
    for text in ddl::capture(table) {
        text.execute(conn, Vec::new()).await?;
    }
    Ok(())
}
