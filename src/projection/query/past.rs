//! The records of a type as they were at a position: two tables to look into.
//!
//! What was not written since then is in the type's own table; of the rest the table of the past has
//! the version that held. The rights of then and of today count: beside what the access list and the owner were
//! there are those of today, or the last ones of a record that is gone. What was made later under the
//! id of one that is gone is another record, with another time at which it was made.

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
    /// Adds that a row of the type's own table is as it was.
    pub(super) fn push_is_unchanged(&self, sql: &mut Sql) {
        sql.push(" AND t._position<=");
        sql.bind(Arg::unsigned(self.position));
    }

    /// Adds what was replaced since the position, of a type that is now in `table`.
    pub(super) fn push_replaced(&self, sql: &mut Sql, table: &Table) {
        let position = || Arg::unsigned(self.position);
        sql.push("(SELECT ");
        push_columns(sql, table);
        for (column, name) in [("_access", "_access_now"), ("_owner_id", "_owner_now")] {
            sql.push(",CASE WHEN n._id IS NOT NULL THEN n.")
                .push(column);
            sql.push(" ELSE (SELECT l.").push(column).push(" FROM ");
            sql.name(&self.past.name);
            sql.push(
                " AS l WHERE l._id=p._id AND l._created_at=p._created_at \
                 ORDER BY l._until DESC LIMIT 1) END AS ",
            );
            sql.push(name);
        }
        sql.push(" FROM ").name(&self.past.name);
        sql.push(" AS p LEFT JOIN ").name(&table.name);
        // Two ranges, and the database knows of neither how long it is: the shorter one is looked up.
        let (began, ends) = match self.is_recent {
            true => ("+p._position<=", "p._until>"),
            false => ("p._position<=", "+p._until>"),
        };
        sql.push(" AS n ON n._id=p._id AND n._created_at=p._created_at WHERE ");
        sql.push(began);
        sql.bind(position())
            .push(" AND ")
            .push(ends)
            .bind(position());
        sql.push(")");
    }
}

fn push_columns(sql: &mut Sql, table: &Table) {
    for (index, name) in SYSTEM_COLUMNS.iter().enumerate() {
        sql.push(if index == 0 { "p." } else { ",p." }).push(name);
    }
    sql.push(if table.columns.is_empty() { "" } else { "," });
    sql.names("p.", table.field_names());
}
