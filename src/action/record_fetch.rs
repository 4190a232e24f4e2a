//! `record:fetch`

use std::collections::HashMap;

use skytrail_actors::record::messages::FetchRecords;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;

use super::{Call, Outcome, Reply, request};

/// A record is returned once for each time that it is named. This limit is high enough, and keeps a
/// short request from producing an unbounded answer.
const MAX_TIMES: usize = 10;

pub(super) async fn run(call: Call) -> Outcome {
    let ids = request::texts(&call.body, "ids")?.filter(|ids| !ids.is_empty());
    let ids = ids.ok_or_else(|| ApiError::invalid_argument("expected list of id", &["ids"]))?;
    let parse = |raw: &String| {
        let invalid = || ApiError::invalid_argument(format!("invalid id format: {raw}"), &["ids"]);
        RecordId::parse(raw).ok_or_else(invalid)
    };
    let ids = ids.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let mut times: HashMap<&RecordId, usize> = HashMap::new();
    for id in &ids {
        let times = times.entry(id).or_default();
        *times += 1;
        if *times > MAX_TIMES {
            let message = format!("{id} is requested more than {MAX_TIMES} times");
            return Err(ApiError::invalid_argument(message, &["ids"]));
        }
    }
    let command = FetchRecords {
        context: call.context,
        scope: call.scope,
        ids,
        as_of: request::moment(&call.body, "as_of")?,
    };
    let results = call.services.records.fetch(command).await?;
    Reply::new(&request::items(results))
}
