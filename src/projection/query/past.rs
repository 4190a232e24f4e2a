//! The records of a type as of a position, from two tables.
//!
//! Records that have not been written since are in the type's own table. The others have their
//! version of then in the table of the past. Access control checks both the past and the present:
//! the access list and owner of then, and those of now, or the last ones of a deleted record. A
//! record created later under the id of a deleted one is another record, with another creation
//! time.

use crate::projection::layout::{SYSTEM_COLUMNS, Table};
use crate::projection::sql::{Arg, Sql};

/// Where a query of the past looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct AsOf<'a> {
    /// The table of what the type's records were.
    pub(super) past: &'a Table,
    /// The position.
    pub(super) position: u64,
    /// Whether less has been replaced since the position than before it.
    pub(super) is_recent: bool,
}

impl AsOf<'_> {
    /// Adds the condition that a row of the type's own table is as it was.
    pub(super) fn push_is_unchanged(&self, sql: &mut Sql) {
        sql.push(" AND t._position<=");
        sql.bind(Arg::unsigned(self.position));
    }

    /// Adds the versions replaced since the position, for a type that is now in `table`.
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
        // There are two ranges, and the database does not know how long they are: the shorter one
        // is looked up by index.
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
