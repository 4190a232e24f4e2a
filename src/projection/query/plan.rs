//! A query as SQL: where it looks, in which order, and whether that says it all.

use skytrail_actors::store::Asker;
use skytrail_schema::code::ApiError;
use skytrail_schema::query::{Query, Sort, SortKey};

use super::access;
use super::literal::mismatch;
use super::path::{Class, Paths};
use super::predicate::Translator;
use crate::projection::layout::{Catalog, Table};
use crate::projection::sql::{Arg, Sql};

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
    ///
    /// # Errors
    /// 120 for key paths, 10000 for operands without meaning.
    pub(super) fn new(
        catalog: &Catalog,
        table: &Table,
        query: &Query,
        asker: &Asker<'_>,
    ) -> Result<Self, ApiError> {
        let mut paths = Paths::new(catalog, table);
        let mut condition = Sql::default();
        let mut is_exact = true;
        if let Some(predicate) = &query.predicate {
            let mut translator = Translator {
                paths: &mut paths,
                caller: asker.caller,
            };
            let translated = translator.translate(predicate, false)?;
            is_exact = translated.is_exact;
            if translated.sql.num_values() > MAX_VALUES {
                is_exact = false;
            } else {
                condition = translated.sql;
            }
        }
        let order = order(&mut paths, &query.sort)?;
        let mut source = Sql::default();
        paths.push_from(&mut source);
        source.push(" WHERE ");
        access::push(&mut source, asker);
        if !condition.is_empty() {
            source.push(" AND ").append(condition);
        }
        Ok(Self {
            source,
            is_sorted: order.is_some(),
            order: order.unwrap_or_default(),
            is_exact,
        })
    }
}

/// Translates the sort keys; `None` when one of them cannot be said in SQL.
///
/// Equal records come in the order of their creation, so that pages do not overlap.
fn order(paths: &mut Paths<'_>, sort: &[Sort]) -> Result<Option<Sql>, ApiError> {
    let mut sql = Sql::default();
    for key in sort {
        let path = match &key.by {
            SortKey::Path(path) if path.0.len() == 1 => path,
            SortKey::Path(_) => return Err(unsortable()),
            SortKey::Distance { field, .. } => {
                let place = paths.resolve_field(field).map_err(|_error| unsortable())?;
                if place.class != Class::Point {
                    return Err(mismatch());
                }
                return Ok(None);
            }
        };
        let place = paths.resolve(path).map_err(|_error| unsortable())?;
        sql.push(if sql.is_empty() { " ORDER BY " } else { "," });
        place.push(&mut sql);
        sql.push(match (key.is_descending, place.is_nullable) {
            (false, false) => "",
            (false, true) => " NULLS LAST",
            (true, false) => " DESC",
            (true, true) => " DESC NULLS FIRST",
        });
    }
    if let Some(last) = sort.last() {
        sql.push(if last.is_descending {
            ",t._row DESC"
        } else {
            ",t._row"
        });
    }
    Ok(Some(sql))
}

fn unsortable() -> ApiError {
    ApiError::unexpected("the query sorts by something that is no field of the type")
}

/// Adds the page to a statement; without a limit every record behind the offset.
pub(super) fn push_page(sql: &mut Sql, query: &Query) {
    sql.push(" LIMIT ")
        .bind(query.limit.map_or(Arg::Int(-1), Arg::unsigned));
    sql.push(" OFFSET ").bind(Arg::unsigned(query.offset));
}
