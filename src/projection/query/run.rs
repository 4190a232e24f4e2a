//! Runs a query.
//!
//! A short page is fetched in two steps: first one row with the keys and positions of its records,
//! then the records that are not yet in memory. If a record changes between the two steps, the
//! whole page is read again. A page of the past has records that are still as they were, and
//! others. What SQL cannot express is left to `memory`.

use std::sync::Arc;
use std::time::Instant;

use crate::projection::conn::{Conn, Row};
use skytrail_actors::record::page_bytes::PageBytes;
use skytrail_actors::store::{HeadSource, QueryAnswer, Viewer};
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordKey;
use skytrail_schema::query::{BoundQuery, Query};
use skytrail_schema::record::Head;
use skytrail_schema::types::TypeDefinition;

use super::memory;
use super::past::AsOf;
use super::plan::Plan;
use crate::projection::index::{Shape, Stats, shapes_of};
use crate::projection::is_transient;
use crate::projection::layout::{Catalog, Table, TypeLayout};
use crate::projection::postgres::is_stale;
use crate::projection::read::{
    checkpoint, decode_head, heads_if as load_heads, past_heads as load_past_heads,
    push_head_columns,
};
use crate::projection::sql::Sql;

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// The query does not fit the type's fields.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The database failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

impl QueryError {
    /// Returns whether the same query may have an answer later.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Sql(error) if is_transient(error))
    }

    /// Returns whether a prepared statement no longer fitted its table. The connection has dropped
    /// it, so the same query has an answer now.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Self::Sql(error) if is_stale(error))
    }
}

/// The maximum length of a page whose records are looked up in memory.
const MAX_SHORT_PAGE: u64 = 256;

/// A query that is about to run.
pub(super) struct Run<'a> {
    /// What it asks.
    pub(super) query: &'a Query,
    /// The query bound to the type.
    pub(super) bound: &'a BoundQuery,
    /// Who asks.
    pub(super) viewer: &'a Viewer<'a>,
    /// All types.
    pub(super) catalog: &'a Catalog,
    /// The type.
    pub(super) layout: &'a TypeLayout,
    /// The type's table.
    pub(super) table: &'a Table,
    /// The table of what its records were, for a query of the past.
    past: Option<&'a Table>,
    /// The maximum size of the answer's records in bytes.
    pub(super) max_bytes: usize,
}

/// Runs a query as `viewer`, and counts its cost.
pub(crate) async fn query(
    conn: &mut Conn<'_>,
    (catalog, stats): (&Catalog, &Stats),
    (query, viewer): (&Query, &Viewer<'_>),
    (heads, max_bytes): (&dyn HeadSource, usize),
) -> Result<QueryAnswer, QueryError> {
    let layout = catalog.get(&query.record_type);
    let Some((layout, table)) = layout.and_then(|layout| Some((layout, layout.table.as_ref()?)))
    else {
        return Ok(QueryAnswer {
            records: Vec::new(),
            count: query.count.then_some(0),
        });
    };
    let bound = query.bind(&layout.definition, catalog)?;
    let plan = Plan::new(catalog, (table, None), (query, &bound), viewer);
    let run = Run {
        query,
        bound: &bound,
        viewer,
        catalog,
        layout,
        table,
        past: None,
        max_bytes,
    };
    let begun = Instant::now();
    let answer = run.answer(conn, &plan, heads).await;
    // A refused query needs no index. One that took the database too long may well need one.
    let is_refused = matches!(&answer, Err(error) if !error.is_transient());
    if !is_refused {
        run.note(stats, &plan, begun);
    }
    answer
}

/// Runs a query over the records as of a position, when their type was as in `then`. Returns `None`
/// when the store does not keep that, or when SQL alone cannot answer.
pub(crate) async fn query_as_of(
    conn: &mut Conn<'_>,
    (catalog, stats, heads): (&Catalog, &Stats, &dyn HeadSource),
    (query, viewer, max_bytes): (&Query, &Viewer<'_>, usize),
    (position, then): (u64, &TypeDefinition),
) -> Result<Option<QueryAnswer>, QueryError> {
    let layout = catalog.get(&query.record_type);
    let Some((layout, table, past)) =
        layout.and_then(|it| Some((it, it.table.as_ref()?, it.past()?)))
    else {
        return Ok(None);
    };
    let now = &layout.definition;
    let since = now.intervals_since.filter(|since| *since <= position);
    // Rows have the numbers that they got since.
    let is_numbered_since = now.numbered.last() > Some(&position);
    let is_as_then = now.reshaped == then.reshaped && !is_numbered_since;
    let Some(since) = since.filter(|_| is_as_then) else {
        return Ok(None);
    };
    let middle = since.midpoint(checkpoint(conn).await?);
    let bound = query.bind(now, catalog)?;
    let as_of = AsOf {
        past: &past,
        position,
        is_recent: position >= middle,
    };
    let plan = Plan::new(catalog, (table, Some(as_of)), (query, &bound), viewer);
    if !plan.is_exact || !plan.is_sorted {
        return Ok(None);
    }
    let run = Run {
        query,
        bound: &bound,
        viewer,
        catalog,
        layout,
        table,
        past: Some(&past),
        max_bytes,
    };
    let begun = Instant::now();
    let answer = run.answer(conn, &plan, heads).await?;
    run.note(stats, &plan, begun);
    Ok(Some(answer))
}

/// Returns the database's plan of a query as anybody; with a position, of its search in the past as
/// of that position.
#[cfg(test)]
pub(crate) async fn explain(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    query: &Query,
    position: Option<u64>,
) -> Result<crate::projection::index::Access, QueryError> {
    use skytrail_schema::caller::Caller;
    use skytrail_schema::query::Scope;

    let layout = catalog.get(&query.record_type).unwrap();
    let bound = query.bind(&layout.definition, catalog)?;
    let viewer = Viewer {
        scope: &Scope::Public,
        caller: &Caller::default(),
    };
    let table = layout.table.as_ref().unwrap();
    let past = layout.past();
    let as_of = position.map(|position| AsOf {
        past: past.as_ref().unwrap(),
        position,
        is_recent: true,
    });
    let plan = Plan::new(catalog, (table, as_of), (query, &bound), &viewer);
    let sample = plan.samples(query, table.dialect).pop().unwrap();
    Ok(crate::projection::index::explain(conn, &sample).await?)
}

impl Run<'_> {
    /// Counts the cost for each table that the query read.
    fn note(&self, stats: &Stats, plan: &Plan, begun: Instant) {
        let spent = begun.elapsed();
        let shapes = shapes_of(&self.query.record_type, self.bound, self.viewer.scope);
        let samples = || plan.samples(self.query, self.table.dialect);
        if self.past.is_some() {
            let of_past = shapes.iter().map(Shape::of_past).collect();
            stats.note(of_past, spent, || samples().pop());
        }
        stats.note(shapes, spent, || samples().into_iter().next());
    }

    async fn answer(
        &self,
        conn: &mut Conn<'_>,
        plan: &Plan,
        heads: &dyn HeadSource,
    ) -> Result<QueryAnswer, QueryError> {
        if !plan.is_exact || !plan.is_sorted {
            return memory::run(self, conn, plan).await;
        }
        let is_short = self
            .query
            .limit
            .is_some_and(|limit| limit <= MAX_SHORT_PAGE);
        if is_short && let Some(answer) = self.short_page(conn, plan, heads).await? {
            return Ok(answer);
        }
        self.whole_page(conn, plan).await
    }

    /// Fetches a page by keys; `None` when records changed meanwhile.
    async fn short_page(
        &self,
        conn: &mut Conn<'_>,
        plan: &Plan,
        heads: &dyn HeadSource,
    ) -> Result<Option<QueryAnswer>, QueryError> {
        let (keys, count) = self.keys(conn, plan).await?;
        let mut found = heads.get_written(&self.layout.definition.name, &keys);
        let missing: Vec<RecordKey> = keys
            .iter()
            .zip(&found)
            .filter(|(_, head)| head.is_none())
            .map(|((key, _), _)| key.clone())
            .collect();
        let mut room = PageBytes::new(self.max_bytes, "limit");
        for head in found.iter().flatten() {
            room.take(&head.record)?;
        }
        if !missing.is_empty() {
            let loaded = load_heads(conn, self.layout, &missing, |head: &Head| {
                Ok::<_, QueryError>(room.take(&head.record)?)
            })
            .await?;
            let mut loaded = loaded.into_iter();
            for ((_, position), slot) in keys.iter().zip(&mut found) {
                if slot.is_none() {
                    let head = loaded.next().flatten();
                    *slot = head.filter(|head| head.position == *position).map(Arc::new);
                }
            }
        }
        if let Some(past) = self.past {
            // Those that have changed since.
            let slots = keys.iter().zip(&found).filter(|(_, slot)| slot.is_none());
            let missing: Vec<u64> = slots.map(|((_, position), _)| *position).collect();
            let mut loaded = load_past_heads(conn, self.layout, past, &missing).await?;
            for head in loaded.values() {
                room.take(&head.record)?;
            }
            for ((_, position), slot) in keys.iter().zip(&mut found) {
                if slot.is_none() {
                    *slot = loaded.remove(position).map(Arc::new);
                }
            }
        }
        let records: Option<Vec<Arc<Head>>> = found.into_iter().collect();
        Ok(records.map(|records| QueryAnswer { records, count }))
    }

    /// Finds the keys and positions of a page, and the count if it is wanted, in one row: each row
    /// that the database returns costs more than finding it.
    async fn keys(
        &self,
        conn: &mut Conn<'_>,
        plan: &Plan,
    ) -> Result<(Vec<(RecordKey, u64)>, Option<u64>), sqlx::Error> {
        let (open, close) = self.table.dialect.collected();
        let mut sql = Sql::new("SELECT ");
        sql.push(open).push("k").push(close).push(",");
        sql.push(open).push("p").push(close);
        if self.query.count {
            sql.push(",");
            plan.push_count(&mut sql);
        }
        sql.push(" FROM (");
        let columns = Sql::new("t._id AS k, t._position AS p");
        plan.push_page(&mut sql, &columns, self.query, self.table.dialect);
        sql.push(") AS page");
        let row = sql.fetch_optional(conn).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        let keys: Vec<RecordKey> = row.json(0)?;
        let positions: Vec<u64> = row.json(1)?;
        let keys = keys.into_iter().zip(positions).collect();
        let count = if self.query.count {
            u64::try_from(row.int(2)?).ok()
        } else {
            None
        };
        Ok((keys, count))
    }

    /// Fetches a page of whole records.
    async fn whole_page(
        &self,
        conn: &mut Conn<'_>,
        plan: &Plan,
    ) -> Result<QueryAnswer, QueryError> {
        let mut tx = conn.begin().await?;
        let (mut sql, mut columns) = (Sql::default(), Sql::default());
        push_head_columns(&mut columns, self.table);
        plan.push_page(&mut sql, &columns, self.query, self.table.dialect);
        let name = &self.layout.definition.name;
        let mut room = PageBytes::new(self.max_bytes, "limit");
        let mut records = Vec::new();
        let taken = |row: &Row| {
            let head = decode_head(name, self.table, row)?;
            room.take(&head.record)?;
            records.push(Arc::new(head));
            Ok::<_, QueryError>(())
        };
        sql.for_each(&mut tx.conn(), taken).await?;
        let mut count = None;
        if self.query.count {
            let mut sql = Sql::new("SELECT ");
            plan.push_count(&mut sql);
            let row = sql.fetch_optional(&mut tx.conn()).await?;
            let number = row.map_or(Ok(0), |row| row.int(0))?;
            count = u64::try_from(number).ok();
        }
        tx.rollback().await?;
        Ok(QueryAnswer { records, count })
    }
}
