//! The records of a type as they were at a position, as a table to look into.
//!
//! What was not written since then is in the type's own table; of the rest the table of the past has
//! the version that held. The rights are today's: beside what the access list and the owner were
//! there are those of today, or the last ones of a record that is gone.

use crate::projection::layout::{SYSTEM_COLUMNS, Table};
use crate::projection::sql::{Arg, Sql};

/// Where a query looks that is about the past.
#[derive(Clone, Copy, Debug)]
pub(super) struct AsOf<'a> {
    /// The table of what the type's records were.
    pub(super) past: &'a Table,
    /// The position.
    pub(super) position: u64,
    /// Whether less was replaced since then than before.
    pub(super) is_recent: bool,
}

impl AsOf<'_> {
    /// Adds the records as of the position, of a type that is now in `table`.
    pub(super) fn push(&self, sql: &mut Sql, table: &Table) {
        let position = || Arg::unsigned(self.position);
        sql.push("(SELECT ");
        push_columns(sql, table, "r");
        sql.push(",r._access AS _access_now,r._owner_id AS _owner_now FROM ");
        sql.name(&table.name).push(" AS r WHERE r._position<=");
        sql.bind(position()).push(" UNION ALL SELECT ");
        push_columns(sql, table, "p");
        for (column, name) in [("_access", "_access_now"), ("_owner_id", "_owner_now")] {
            sql.push(",CASE WHEN n._id IS NOT NULL THEN n.")
                .push(column);
            sql.push(" ELSE (SELECT l.").push(column).push(" FROM ");
            sql.name(&self.past.name);
            sql.push(" AS l WHERE l._id=p._id ORDER BY l._until DESC LIMIT 1) END AS ");
            sql.push(name);
        }
        sql.push(" FROM ").name(&self.past.name);
        sql.push(" AS p LEFT JOIN ").name(&table.name);
        // Two ranges, and the database knows of neither how long it is: the shorter one is looked up.
        let (began, ends) = match self.is_recent {
            true => ("+p._position<=", "p._until>"),
            false => ("p._position<=", "+p._until>"),
        };
        sql.push(" AS n ON n._id=p._id WHERE ").push(began);
        sql.bind(position())
            .push(" AND ")
            .push(ends)
            .bind(position());
        sql.push(")");
    }
}

fn push_columns(sql: &mut Sql, table: &Table, alias: &'static str) {
    for (index, name) in SYSTEM_COLUMNS.iter().enumerate() {
        sql.push(if index == 0 { "" } else { "," });
        sql.push(alias).push(".").push(name);
        // A union takes its columns' names from its first part.
        sql.push(" AS ").push(name);
    }
    for name in table.field_names() {
        sql.push(",").push(alias).push(".").name(name);
        sql.push(" AS ").name(name);
    }
}
