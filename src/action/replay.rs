//! `plugin:replay`: asks a plugin in the sandbox about past writes, and stores nothing.

use serde_json::{Value as Json, json};
use skytrail_actors::sandbox::ReplayRequest;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::TypeName;

use super::log::params;
use super::{Call, Outcome, Reply, request};

/// How many writes are examined by default, and at most.
const WRITES: (u64, u64) = (100, 1000);

pub(super) async fn run(call: Call) -> Outcome {
    let body = &call.body;
    let services = &call.services;
    let range = params::range(&services.events, body).await?;
    let from = request::whole_number(body, "from")?;
    let first = from.map_or(*range.start(), |from| from.max(*range.start()));
    let limit = request::whole_number(body, "limit")?.unwrap_or(WRITES.0);
    if limit == 0 {
        let message = "limit should be 1 or more";
        return Err(ApiError::invalid_argument(message, &["limit"]));
    }
    let types = request::texts(body, "record_types")?.unwrap_or_default();
    let ignored = request::texts(body, "ignore")?.unwrap_or_default();
    let replay_request = ReplayRequest {
        plugin: request::text(body, "plugin")?.map(str::to_owned),
        generation: request::whole_number(body, "generation")?,
        range: first..=*range.end(),
        types: types.into_iter().map(TypeName::from).collect(),
        limit: limit.min(WRITES.1),
        has_after_hooks: request::flag(body, "after_hooks")?,
        ignored: ignored.into_iter().collect(),
    };
    let page = services.sandbox.replay(&replay_request).await?;
    let info: Json = json!({
        "plugin": &*page.plugin,
        "from": first.max(1),
        "until": page.until,
        "next": page.next,
        "writes": page.tally,
        "ignored": page.ignored,
    });
    Reply::with_info(&page.findings, Some(&info))
}
