//! PostgreSQL's plan of a query.
//!
//! It reads a whole table although there is an index when that is less work, so a scan says little by
//! itself: one that keeps most of what it reads, and a sort of a handful, are left alone.

use serde::Deserialize;

use crate::projection::conn::{Conn, Row};
use crate::projection::index::{Access, is_record_table};
use crate::projection::names::Name;
use crate::projection::sql::{Arg, Sql};

/// Sorting so many rows costs next to nothing.
const FEW_ROWS: f64 = 100.0;

/// An index helps when it is read for at most this part of a table.
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
    /// Returns this one and all below it, each with how many rows it and the joins above it keep.
    fn all(&self, num_kept: f64) -> Vec<(&Self, f64)> {
        const JOINS: [&str; 3] = ["Nested Loop", "Hash Join", "Merge Join"];
        let is_join = JOINS.contains(&self.kind.as_str());
        let kept_above = num_kept.min(if is_join { self.num_rows } else { f64::MAX });
        let below = self.inputs.iter().flat_map(|input| input.all(kept_above));
        let own = (self, kept_above.min(self.num_rows));
        std::iter::once(own).chain(below).collect()
    }

    /// Returns the table that is read from one end to the other.
    fn scanned(&self) -> Option<&str> {
        let is_of_records = is_record_table(&self.alias);
        let table = self.table.as_deref();
        table.filter(|_| self.kind == "Seq Scan" && is_of_records)
    }

    /// Whether it reads all of an index for what is not its first column: v1's primary key has the
    /// database behind the key.
    fn reads_all_keys(&self) -> bool {
        let is_of_keys = self
            .index
            .as_deref()
            .is_some_and(|name| name.starts_with("_key_"));
        is_of_keys && !self.condition.contains("(_id ")
    }

    /// Whether it sorts much. One that only sorts what is equal in the order of an index does not.
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

/// Returns about how many rows a table has, if that was ever counted.
async fn num_rows(conn: &mut Conn<'_>, table: &str) -> Result<Option<f64>, sqlx::Error> {
    let mut sql = Sql::new(
        "SELECT reltuples::double precision FROM pg_class WHERE reltuples>0 AND oid=to_regclass(",
    );
    sql.bind(Arg::text(Name::new(table).quoted())).push(")");
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(None), |row| row.maybe_real(0))
}
