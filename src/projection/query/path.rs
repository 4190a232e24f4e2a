//! The columns that a query reads, as SQL.

use skytrail_actors::store::Viewer;
use skytrail_schema::predicate::{CellClass, Column};

use super::access;
use crate::projection::dialect::Dialect;
use crate::projection::layout::{Catalog, SYSTEM_COLUMNS, Table};
use crate::projection::names::Name;
use crate::projection::sql::Sql;

/// A column of the queried table, or of one that it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnRef {
    /// The number of the joined table; `None` for the queried one.
    join: Option<usize>,
    name: ColumnName,
    pub(super) dialect: Dialect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ColumnName {
    /// A column that every record table has.
    System(&'static str),
    /// A column that belongs to a field.
    Field(Name),
}

impl ColumnRef {
    /// Adds the column to a statement.
    pub(super) fn push(&self, sql: &mut Sql) {
        // This column has an empty string when there is no owner.
        let is_emptied = self.name == ColumnName::System("_owner_id") && !self.dialect.is_sqlite();
        sql.push(if is_emptied { "nullif(" } else { "" });
        self.push_column(sql);
        sql.push(if is_emptied { ",'')" } else { "" });
    }

    fn push_column(&self, sql: &mut Sql) {
        match self.join {
            None => sql.push("t."),
            Some(number) => sql.alias('j', number).push("."),
        };
        match &self.name {
            ColumnName::System(name) => sql.push(name),
            ColumnName::Field(name) => sql.name(name),
        };
    }

    /// Returns whether the column always has a value.
    pub(super) fn is_never_null(&self) -> bool {
        let required = ["_id", "_database_id", "_created_at", "_updated_at"];
        self.join.is_none()
            && matches!(&self.name, ColumnName::System(name) if required.contains(name))
    }
}

/// A table that a reference leads to.
struct Join {
    field: String,
    reference: Name,
    target: Name,
}

/// Finds columns, and collects the tables that must be joined for them.
pub(super) struct Paths<'a> {
    catalog: &'a Catalog,
    table: &'a Table,
    joins: Vec<Join>,
}

impl<'a> Paths<'a> {
    /// Starts for queries of `table`.
    pub(super) fn new(catalog: &'a Catalog, table: &'a Table) -> Self {
        Self {
            catalog,
            table,
            joins: Vec::new(),
        }
    }

    /// Finds a column in the form that comparisons of `class` need; `None` when the store does not
    /// have it.
    pub(super) fn find(&mut self, column: &Column, class: Option<CellClass>) -> Option<ColumnRef> {
        let (table, join) = match &column.via {
            None => (self.table, None),
            Some(via) => {
                let target = self.catalog.table(&via.target)?;
                (target, Some(self.join(&via.field, target)?))
            }
        };
        let system = SYSTEM_COLUMNS.iter().find(|name| **name == column.name);
        let name = match system {
            Some(name) => ColumnName::System(name),
            None => {
                let field = table.column(&column.name)?;
                let is_folded = class == Some(CellClass::CaselessText);
                let name = if is_folded {
                    field.compared()
                } else {
                    &field.name
                };
                ColumnName::Field(name.clone())
            }
        };
        Some(ColumnRef {
            join,
            name,
            dialect: self.table.dialect,
        })
    }

    /// Returns whether only the queried table is read.
    pub(super) fn is_alone(&self) -> bool {
        self.joins.is_empty()
    }

    fn join(&mut self, field: &str, target: &Table) -> Option<usize> {
        if let Some(number) = self.joins.iter().position(|join| join.field == field) {
            return Some(number);
        }
        self.joins.push(Join {
            field: field.to_owned(),
            reference: self.table.column(field)?.name.clone(),
            target: target.name.clone(),
        });
        Some(self.joins.len() - 1)
    }

    /// Adds the tables to a statement; behind references only what `viewer` can see.
    pub(super) fn push_from(&self, sql: &mut Sql, viewer: &Viewer<'_>) {
        sql.push(" FROM ").name(&self.table.name).push(" AS t");
        for (number, join) in self.joins.iter().enumerate() {
            sql.push(" LEFT JOIN ").name(&join.target).push(" AS ");
            sql.alias('j', number).push(" ON ").alias('j', number);
            sql.push("._id=t.").name(&join.reference);
            access::push_joined(sql, viewer, self.table.dialect, number);
        }
    }
}
