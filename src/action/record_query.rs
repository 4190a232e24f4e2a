//! `record:query`

use serde_json::json;
use skytrail_actors::record::messages::QueryRecords;
use skytrail_schema::query::Query;

use super::{Call, Outcome, Reply, request};

pub(super) async fn run(call: Call) -> Outcome {
    let mut query = Query::parse(&call.body)?;
    let limits = &call.services.settings.limits;
    limits.bound_query(&mut query)?;
    let command = QueryRecords {
        context: call.context,
        scope: call.scope,
        query,
        as_of: request::moment(&call.body, "as_of")?,
    };
    let reply = call.services.records.query(command).await?;
    limits.check_page(reply.records.len())?;
    let info = reply.count.map(|count| json!({"count": count}));
    Reply::with_info(&reply.records, info.as_ref())
}
