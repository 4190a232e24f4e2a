//! Conditions and orders that SQL cannot express, evaluated record by record.
//!
//! SQL finds the candidates, in the query's order if it can. They are loaded and evaluated in
//! batches, together with the records that they refer to. Only matches that can be on the page are
//! kept.

mod lookups;

use std::collections::HashMap;
use std::sync::Arc;

use crate::projection::conn::Conn;
use skytrail_actors::evaluation::Evaluation;
use skytrail_actors::record::page_bytes::{BatchSize, PageBytes};
use skytrail_actors::store::QueryAnswer;
use skytrail_schema::predicate::Context;
use skytrail_schema::query::Page;
use skytrail_schema::record::Head;

use self::lookups::{look_up_records, look_up_relations};
use super::plan::Plan;
use super::run::{QueryError, Run};
use crate::projection::read::{decode_head, push_head_columns};
use crate::projection::sql::{Arg, Sql};

/// The maximum number of candidates that are evaluated together.
const MAX_BATCH: usize = 256;

/// Runs a query whose condition or order SQL cannot express.
pub(super) async fn run(
    run: &Run<'_>,
    conn: &mut Conn<'_>,
    plan: &Plan,
) -> Result<QueryAnswer, QueryError> {
    let mut tx = conn.begin().await?;
    let mut page = Page::new(run.query, run.bound, plan.is_sorted);
    let mut lookups = look_up_relations(run, &mut tx.conn()).await?;
    let mut evaluation = Evaluation::new(run.bound.condition.as_ref());
    let mut room = PageBytes::new(run.max_bytes, "limit");
    let mut size = BatchSize::at_most(MAX_BATCH);
    let candidates = candidates(&mut tx.conn(), plan).await?;
    let mut remaining = candidates.as_slice();
    while !remaining.is_empty() {
        let rows;
        (rows, remaining) = remaining.split_at(size.size().min(remaining.len()));
        let batch = load(run, &mut tx.conn(), rows).await?;
        size.adapt_to(batch.iter().map(|(_, head)| &head.record));
        look_up_records(run, &mut tx.conn(), &batch, &mut lookups).await?;
        let context = Context {
            user: run.viewer.caller.user.as_ref(),
            lookups: &lookups,
        };
        for (row, head) in batch {
            if evaluation.matches(&head.record, context).await? {
                room.add(&mut page, (row, head))?;
            }
        }
        if page.is_enough() {
            break;
        }
    }
    tx.rollback().await?;
    let (heads, count) = page.finish();
    Ok(QueryAnswer {
        records: heads.into_iter().map(Arc::new).collect(),
        count,
    })
}

/// Finds the rows that can match.
async fn candidates(conn: &mut Conn<'_>, plan: &Plan) -> Result<Vec<i64>, sqlx::Error> {
    let dialect = conn.dialect();
    let (open, close) = dialect.collected();
    let mut sql = Sql::new("SELECT ");
    sql.push(open).push("r").push(close);
    sql.push(" FROM (SELECT t._row AS r");
    plan.push_all(&mut sql);
    // A limit keeps the order of the inner query.
    dialect.push_limit(&mut sql, None);
    sql.push(") AS candidates");
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(Vec::new()), |row| row.json(0))
}

/// Loads records by their row numbers, in that order.
async fn load(
    run: &Run<'_>,
    conn: &mut Conn<'_>,
    rows: &[i64],
) -> Result<Vec<(i64, Head)>, sqlx::Error> {
    let mut sql = Sql::new("SELECT ");
    push_head_columns(&mut sql, run.table);
    sql.push(",t._row FROM ").name(&run.table.name);
    sql.push(" AS t WHERE t._row")
        .one_of(rows, |row| Arg::Int(*row));
    let mut heads: HashMap<i64, Head> = HashMap::new();
    for row in sql.fetch_all(conn).await? {
        let head = decode_head(&run.layout.definition.name, run.table, &row)?;
        heads.insert(row.int(row.len() - 1)?, head);
    }
    let found = rows.iter();
    Ok(found
        .filter_map(|row| Some((*row, heads.remove(row)?)))
        .collect())
}
