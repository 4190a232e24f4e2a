//! `record:delete`

use serde_json::json;
use skytrail_actors::record::messages::DeleteRecords;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;

use super::{Call, Outcome, Reply, request};

pub(super) async fn run(call: Call) -> Outcome {
    let is_atomic = request::flag(&call.body, "atomic")?;
    let ids = request::texts(&call.body, "ids")?.filter(|ids| !ids.is_empty());
    let ids = ids.ok_or_else(|| ApiError::invalid_argument("expected list of id", &["ids"]))?;
    let ids = ids
        .iter()
        .map(|id| request::record_id(id, "ids"))
        .collect::<Result<_, _>>()?;
    let database = request::database(call.scope)?;
    let command = DeleteRecords {
        context: call.context,
        database,
        ids,
        owner: None,
        is_atomic,
        has_kept_roles: false,
    };
    let results = call.services.records.delete(command).await?;
    let write = |id: RecordId| json!({"_id": id.to_string(), "_type": "record"});
    let results = results.into_iter().map(|result| result.map(write));
    Reply::new(&request::items(results))
}
