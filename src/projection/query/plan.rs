//! A query as SQL: where it looks, in which order, and whether that says it all.

use skytrail_actors::store::Asker;
use skytrail_schema::predicate::{CellClass, Term};
use skytrail_schema::query::{BoundQuery, BoundSort, Query};

use super::access;
use super::condition::Translator;
use super::past::AsOf;
use super::path::Paths;
use crate::projection::dialect::Dialect;
use crate::projection::layout::{Catalog, Table};
use crate::projection::sql::{Arg, SafeText, Sql};

/// The most values that a statement may bind; SQLite's limit is 32,766.
const MAX_VALUES: usize = 30_000;

/// A query as SQL.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// FROM and WHERE.
    pub(super) source: Sql,
    /// ORDER BY; nothing at all when no order is asked for, or when it cannot be said.
    pub(super) order: Sql,
    /// Whether the condition holds for the matching records only.
    pub(super) is_exact: bool,
    /// Whether `order` is the order that is asked for.
    pub(super) is_sorted: bool,
}

impl Plan {
    /// Translates a query of `table`.
    pub(super) fn new(
        catalog: &Catalog,
        (table, as_of): (&Table, Option<AsOf<'_>>),
        bound: &BoundQuery,
        asker: &Asker<'_>,
    ) -> Self {
        let mut paths = Paths::new(catalog, table, as_of);
        let mut condition = Sql::default();
        let mut is_exact = true;
        if let Some(bound) = &bound.condition {
            let mut translator = Translator {
                paths: &mut paths,
                user: asker.caller.user.as_ref(),
            };
            let translated = translator.translate(bound, false);
            is_exact = translated.is_exact && translated.sql.num_values() <= MAX_VALUES;
            if translated.sql.num_values() <= MAX_VALUES {
                condition = translated.sql;
            }
        }
        let order = order(&mut paths, &bound.sort);
        let mut source = Sql::default();
        paths.push_from(&mut source, asker);
        source.push(" WHERE ");
        access::push(&mut source, asker, table.dialect, as_of.is_some());
        if !condition.is_empty() {
            source.push(" AND ").append(condition);
        }
        Self {
            source,
            is_sorted: order.is_some(),
            order: order.unwrap_or_default(),
            is_exact,
        }
    }

    /// Returns a statement that finds the same records, to ask the database for its plan.
    pub(super) fn sample(&self, query: &Query, dialect: Dialect) -> (SafeText, Vec<Arg>) {
        let mut sql = Sql::new("SELECT t._id");
        sql.append(self.source.clone()).append(self.order.clone());
        if self.is_exact && self.is_sorted {
            push_page(&mut sql, query, dialect);
        }
        sql.finish()
    }
}

/// Translates the sort keys; `None` when one of them cannot be said in SQL.
///
/// Equal records come in the order of their creation, so that pages do not overlap.
fn order(paths: &mut Paths<'_>, sort: &[BoundSort]) -> Option<Sql> {
    let mut sql = Sql::default();
    for key in sort {
        let Term::Column(column) = &key.by else {
            return None;
        };
        if matches!(key.class, CellClass::Json | CellClass::Point) {
            return None;
        }
        let place = paths.find(column, Some(key.class))?;
        sql.push(if sql.is_empty() { " ORDER BY " } else { "," });
        place.push(&mut sql);
        sql.push(match (key.is_descending, place.is_never_null()) {
            (false, true) => "",
            (false, false) => " NULLS LAST",
            (true, true) => " DESC",
            (true, false) => " DESC NULLS FIRST",
        });
    }
    if let Some(last) = sort.last() {
        sql.push(if last.is_descending {
            ",t._row DESC"
        } else {
            ",t._row"
        });
    }
    Some(sql)
}

/// Adds the page to a statement; without a limit every record behind the offset.
pub(super) fn push_page(sql: &mut Sql, query: &Query, dialect: Dialect) {
    dialect.push_limit(sql, query.limit);
    sql.push(" OFFSET ").bind(Arg::unsigned(query.offset));
}
