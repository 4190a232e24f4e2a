//! `captured:list`, `captured:retry`, `captured:discard`

use serde_json::{Map, Value as Json, json};
use skytrail_actors::capture::ParkedRow;
use skytrail_schema::code::ApiError;

use super::{Call, Outcome, Reply, request};

/// How many rows are listed by default, and at most.
const ROWS: (u64, u64) = (100, 1000);

pub(super) async fn list(call: Call) -> Outcome {
    let after = request::whole_number(&call.body, "after")?.unwrap_or(0);
    let limit = request::whole_number(&call.body, "limit")?.unwrap_or(ROWS.0);
    let limit = usize::try_from(limit.min(ROWS.1)).unwrap_or(usize::MAX);
    let rows = call.services.captured.list(after, limit).await?;
    Reply::new(&rows.iter().map(to_wire).collect::<Json>())
}

pub(super) async fn retry(call: Call) -> Outcome {
    let ids = ids(&call.body)?;
    let retried = call.services.captured.retry(&ids).await?;
    let parked: Json = retried.parked.iter().map(to_wire).collect();
    Reply::new(&json!({"retried": retried.num_rows, "parked": parked}))
}

pub(super) async fn discard(call: Call) -> Outcome {
    let ids = ids(&call.body)?;
    let num_rows = call.services.captured.discard(&ids).await?;
    Reply::new(&json!({"discarded": num_rows}))
}

/// Reads which rows are meant; an empty list stands for all.
fn ids(body: &Map<String, Json>) -> Result<Vec<u64>, ApiError> {
    let refused = |message: &str| ApiError::invalid_argument(message, &["ids", "all"]);
    let ids = request::list(body, "ids")?.into_iter().flatten();
    let ids: Option<Vec<u64>> = ids.map(Json::as_u64).collect();
    let ids = ids.ok_or_else(|| refused("expected ids to be a list of whole numbers"))?;
    match ids.is_empty() == request::flag(body, "all")? {
        true => Ok(ids),
        false => Err(refused("expected either ids or all")),
    }
}

fn to_wire(row: &ParkedRow) -> Json {
    json!({
        "id": row.id,
        "record": row.record.as_ref().map(ToString::to_string),
        "table": row.table,
        "key": row.key,
        "before": row.before,
        "after": row.after,
        "columns": row.columns,
        "reason": row.reason,
        "role": row.role,
        "transaction": row.transaction,
        "at": row.at,
        "parked_at": row.parked_at,
    })
}
