//! PostgreSQL's plan of a query.
//!
//! PostgreSQL reads a whole table in spite of an index when that is less work, so a scan alone says
//! little. A scan that keeps most of what it reads, and a sort of a few rows, are ignored.

use serde::Deserialize;

use crate::projection::conn::{Conn, Row};
use crate::projection::index::{Access, is_record_table};
use crate::projection::names::Name;
use crate::projection::sql::{Arg, Sql};

/// Sorting this many rows costs next to nothing.
const FEW_ROWS: f64 = 100.0;

/// An index helps when it is read for at most this fraction of a table.
const MAX_PART: f64 = 0.25;

#[derive(Deserialize)]
struct Explained {
    #[serde(rename = "Plan")]
    plan: Node,
}

#[derive(Deserialize)]
struct Node {
    #[serde(rename = "Node Type")]
    kind: String,
    #[serde(rename = "Relation Name")]
    table: Option<String>,
    #[serde(rename = "Alias", default)]
    alias: String,
    #[serde(rename = "Index Name")]
    index: Option<String>,
    #[serde(rename = "Index Cond", default)]
    condition: String,
    #[serde(rename = "Plan Rows", default)]
    num_rows: f64,
    #[serde(rename = "Plans", default)]
    inputs: Vec<Node>,
}

impl Node {
    /// Returns this node and all below it, each with how many rows it and the joins above it keep.
    fn all(&self, num_kept: f64) -> Vec<(&Self, f64)> {
        const JOINS: [&str; 3] = ["Nested Loop", "Hash Join", "Merge Join"];
        let is_join = JOINS.contains(&self.kind.as_str());
        let kept_above = num_kept.min(if is_join { self.num_rows } else { f64::MAX });
        let below = self.inputs.iter().flat_map(|input| input.all(kept_above));
        let own = (self, kept_above.min(self.num_rows));
        std::iter::once(own).chain(below).collect()
    }

    /// Returns the record table that is read in full, if any.
    fn scanned(&self) -> Option<&str> {
        let is_of_records = is_record_table(&self.alias);
        let table = self.table.as_deref();
        table.filter(|_| self.kind == "Seq Scan" && is_of_records)
    }

    /// Returns whether it reads all of the primary key's index for another column than the first.
    /// In v1's primary key the database follows the id.
    fn reads_all_keys(&self) -> bool {
        let is_of_keys = self
            .index
            .as_deref()
            .is_some_and(|name| name.starts_with("_key_"));
        is_of_keys && !self.condition.contains("(_id ")
    }

    /// Returns whether it sorts many rows. An incremental sort, whose input is already partly
    /// ordered by an index, does not count.
    fn sorts(&self) -> bool {
        let input = self.inputs.first();
        self.kind == "Sort" && input.is_some_and(|input| input.num_rows > FEW_ROWS)
    }
}

/// Reads a plan.
pub(in crate::projection) async fn access(
    conn: &mut Conn<'_>,
    rows: &[Row],
) -> Result<Access, sqlx::Error> {
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let explained: Vec<Explained> = row.json(0)?;
    let nodes = explained.iter().flat_map(|it| it.plan.all(f64::MAX));
    let mut access = Access::default();
    for (node, num_kept) in nodes {
        access.uses.extend(node.index.clone());
        access.is_scanning |= node.sorts() || node.reads_all_keys();
        if let Some(table) = node.scanned() {
            access.is_scanning |= match num_rows(conn, table).await? {
                Some(num_rows) => num_kept <= num_rows * MAX_PART,
                None => true,
            };
        }
    }
    Ok(access)
}

/// Returns about how many rows a table has, if they were ever counted.
async fn num_rows(conn: &mut Conn<'_>, table: &str) -> Result<Option<f64>, sqlx::Error> {
    let mut sql = Sql::new(
        "SELECT reltuples::double precision FROM pg_class WHERE reltuples>0 AND oid=to_regclass(",
    );
    sql.bind(Arg::quoted(&Name::new(table))).push(")");
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(None), |row| row.maybe_real(0))
}
