//! A query as SQL: where it looks, in which order, and whether SQL expresses all of it.

use skytrail_actors::store::Viewer;
use skytrail_schema::predicate::{CellClass, Term};
use skytrail_schema::query::{BoundQuery, Query};

use super::access;
use super::condition::Translator;
use super::past::AsOf;
use super::path::Paths;
use crate::projection::dialect::Dialect;
use crate::projection::layout::{Catalog, Table};
use crate::projection::sql::{Arg, MAX_VALUES, SafeText, Sql};

/// A query as SQL.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// FROM and WHERE; for a query of the past, only records that have not been written since.
    source: Sql,
    /// FROM and WHERE of the versions replaced since, for a query of the past.
    replaced: Option<Sql>,
    /// What to sort by, and in which direction; empty when no order is asked for, or when SQL
    /// cannot express it.
    order: Vec<(Sql, &'static str)>,
    /// Whether the condition holds for the matching records only.
    pub(super) is_exact: bool,
    /// Whether `order` is the order that was asked for.
    pub(super) is_sorted: bool,
}

impl Plan {
    /// Translates a query of `table`.
    pub(super) fn new(
        catalog: &Catalog,
        (table, as_of): (&Table, Option<AsOf<'_>>),
        (query, bound): (&Query, &BoundQuery),
        viewer: &Viewer<'_>,
    ) -> Self {
        let mut paths = Paths::new(catalog, table);
        let mut condition = Sql::default();
        let mut is_exact = true;
        // Each of the two parts binds the values, and binds them again for the count.
        let max_values = MAX_VALUES / if as_of.is_some() { 4 } else { 1 };
        if let Some(bound) = &bound.condition {
            let mut translator = Translator {
                paths: &mut paths,
                user: viewer.caller.user.as_ref(),
                pattern_bytes: 0,
            };
            let translated = translator.translate(bound, false);
            let is_bindable = translated.sql.num_values() <= max_values;
            is_exact = translated.is_exact && is_bindable;
            if is_bindable {
                condition = translated.sql;
            }
        }
        let is_paged = query.limit.is_some() || query.offset > 0;
        let order = order(&mut paths, bound, is_paged);
        let mut source = Sql::default();
        paths.push_from(&mut source, viewer);
        source.push(" WHERE ");
        access::push(&mut source, viewer, table.dialect, false);
        if !condition.is_empty() {
            source.push(" AND ").append(condition.clone());
        }
        let replaced = as_of.map(|as_of| {
            as_of.push_is_unchanged(&mut source);
            // What a reference leads to was different then.
            is_exact &= paths.is_alone();
            let mut replaced = Sql::new(" FROM ");
            as_of.push_replaced(&mut replaced, table);
            replaced.push(" AS t WHERE ");
            access::push(&mut replaced, viewer, table.dialect, true);
            if !condition.is_empty() {
                replaced.push(" AND ").append(condition);
            }
            replaced
        });
        Self {
            source,
            replaced,
            is_sorted: order.is_some(),
            order: order.unwrap_or_default(),
            is_exact,
        }
    }

    /// Adds FROM, WHERE and ORDER BY of everything that can match.
    pub(super) fn push_all(&self, sql: &mut Sql) {
        sql.append(self.source.clone());
        self.push_order(sql);
    }

    /// Adds the statement that finds a page. `columns` are the wanted columns of `t`; others can
    /// follow them.
    pub(super) fn push_page(&self, sql: &mut Sql, columns: &Sql, query: &Query, dialect: Dialect) {
        let Some(replaced) = &self.replaced else {
            sql.push("SELECT ").append(columns.clone());
            self.push_all(sql);
            dialect.push_limit(sql, query.limit);
            sql.push(" OFFSET ").bind(Arg::unsigned(query.offset));
            return;
        };
        // Takes from each part as much as can be on the page, by its own index. We sort the parts
        // together ourselves, since the databases would read them completely first.
        let most = query.limit.map(|limit| limit.saturating_add(query.offset));
        sql.push("SELECT * FROM (");
        for (number, source) in [&self.source, replaced].into_iter().enumerate() {
            sql.push(if number == 0 { "" } else { " UNION ALL " });
            sql.push("SELECT * FROM (SELECT ").append(columns.clone());
            for (number, (key, _)) in self.order.iter().enumerate() {
                sql.push(",").append(key.clone());
                sql.push(" AS ").alias('s', number);
            }
            sql.append(source.clone());
            self.push_order(sql);
            dialect.push_limit(sql, most);
            sql.push(") AS ").alias('h', number);
        }
        sql.push(") AS halves");
        for (number, (_, direction)) in self.order.iter().enumerate() {
            sql.push(if number == 0 { " ORDER BY " } else { "," });
            sql.alias('s', number).push(direction);
        }
        dialect.push_limit(sql, query.limit);
        sql.push(" OFFSET ").bind(Arg::unsigned(query.offset));
    }

    /// Adds an expression for the number of all matches.
    pub(super) fn push_count(&self, sql: &mut Sql) {
        for (number, source) in self.sources().enumerate() {
            sql.push(if number == 0 { "" } else { "+" });
            sql.push("(SELECT count(*)").append(source.clone());
            sql.push(")");
        }
    }

    /// Returns statements that find the same records, for asking the database for its plans: for
    /// the type's table, and for the table of its past if that is read.
    pub(super) fn samples(&self, query: &Query, dialect: Dialect) -> Vec<(SafeText, Vec<Arg>)> {
        let sample = |source: &Sql| {
            let mut sql = Sql::new("SELECT t._id");
            sql.append(source.clone());
            self.push_order(&mut sql);
            if self.is_exact && self.is_sorted {
                dialect.push_limit(&mut sql, query.limit);
                sql.push(" OFFSET ").bind(Arg::unsigned(query.offset));
            }
            sql.finish()
        };
        self.sources().map(sample).collect()
    }

    fn sources(&self) -> impl Iterator<Item = &Sql> {
        std::iter::once(&self.source).chain(&self.replaced)
    }

    /// Adds the order. Equal records are in the order of their creation, so that pages do not
    /// overlap.
    fn push_order(&self, sql: &mut Sql) {
        for (number, (key, direction)) in self.order.iter().enumerate() {
            sql.push(if number == 0 { " ORDER BY " } else { "," });
            sql.append(key.clone()).push(direction);
        }
    }
}

/// Translates the sort keys and adds the row number, also for pages without a sort key; `None` when
/// SQL cannot express one of the keys.
fn order(
    paths: &mut Paths<'_>,
    bound: &BoundQuery,
    is_paged: bool,
) -> Option<Vec<(Sql, &'static str)>> {
    let mut order = Vec::new();
    for key in &bound.sort {
        let Term::Column(column) = &key.by else {
            return None;
        };
        if matches!(key.class, CellClass::Json | CellClass::Point) {
            return None;
        }
        let place = paths.find(column, Some(key.class))?;
        let mut sql = Sql::default();
        place.push(&mut sql);
        let direction = match (key.is_descending, place.is_never_null()) {
            (false, true) => "",
            (false, false) => " NULLS LAST",
            (true, true) => " DESC",
            (true, false) => " DESC NULLS FIRST",
        };
        order.push((sql, direction));
    }
    if is_paged || !order.is_empty() {
        let direction = if bound.is_backwards() { " DESC" } else { "" };
        order.push((Sql::new("t._row"), direction));
    }
    Some(order)
}
