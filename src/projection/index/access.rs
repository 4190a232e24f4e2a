//! How the database would execute a query.

use std::collections::HashSet;

use super::stats::Sample;
use crate::projection::conn::{Conn, Row};
use crate::projection::dialect::Dialect;
use crate::projection::postgres;

/// How a database would find what a query asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// Whether it reads a whole table, or sorts what an index could have sorted.
    pub(crate) is_scanning: bool,
    /// The indexes that it uses.
    pub(crate) uses: HashSet<String>,
}

/// Asks the database for its plan.
pub(crate) async fn explain(conn: &mut Conn<'_>, sample: &Sample) -> Result<Access, sqlx::Error> {
    let (text, args) = sample;
    let dialect = conn.dialect();
    let explain = text.explained(dialect);
    let rows = explain.fetch_all(conn, args.clone()).await?;
    match dialect {
        Dialect::Sqlite => of_steps(&rows),
        Dialect::Postgres(_) => postgres::access(conn, &rows).await,
    }
}

/// The alias that queries use for the table of what a type's records were.
const PAST_ALIAS: &str = "p";

/// Returns whether a table with this alias in a query is a record table.
pub(crate) fn is_record_table(alias: &str) -> bool {
    let number = alias.strip_prefix('j').unwrap_or("-");
    alias == "t" || alias == PAST_ALIAS || number.parse::<u32>().is_ok()
}

/// Reads the steps of SQLite's plan.
fn of_steps(rows: &[Row]) -> Result<Access, sqlx::Error> {
    let mut access = Access::default();
    for row in rows {
        let detail = row.text(3)?;
        if let Some((_, rest)) = detail.split_once(" INDEX ") {
            // A name can contain anything; after it there is a space and a parenthesis, or nothing.
            let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
            access.uses.insert(name.to_owned());
        }
        let is_of_records =
            |rest: &str| is_record_table(rest.split(' ').next().unwrap_or_default());
        let scans = detail.strip_prefix("SCAN ").is_some_and(is_of_records);
        access.is_scanning |= scans && !detail.contains(" INDEX ");
        // An index that the database creates for a single query and throws away.
        access.is_scanning |= detail.contains(" USING AUTOMATIC ");
        access.is_scanning |= detail.starts_with("USE TEMP B-TREE FOR");
    }
    Ok(access)
}
