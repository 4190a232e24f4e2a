//! `log:read`; `consumer`: named consumers of the log; `table`: events as rows.

pub(super) mod consumer;
pub(crate) mod params;
pub(crate) mod table;

use serde_json::json;
use serde_json::value::RawValue;
use skytrail_actors::events::{Direction, Found, PageRequest};

use super::{Call, Outcome, Reply, request};

/// How many events a page has by default, and at most.
const EVENTS: (u64, u64) = (100, 1000);

pub(super) async fn read(call: Call) -> Outcome {
    let reader = &call.services.events;
    params::check_timeline(reader, &call.body)?;
    let filter = params::filter(&call.services, &call.body).await?;
    let is_backwards = request::flag(&call.body, "backwards")?;
    let limit = request::whole_number(&call.body, "limit")?.unwrap_or(EVENTS.0);
    let start = params::start(&call.body)?;
    let from = match start {
        Some(start) if is_backwards => Some(start.last_before(reader).await?),
        Some(start) => Some(start.first(reader).await?),
        None => None,
    };
    let page = reader
        .page(&PageRequest {
            filter,
            from,
            range: params::range(reader, &call.body).await?,
            direction: if is_backwards {
                Direction::Backwards
            } else {
                Direction::Forwards
            },
            limit: usize::try_from(limit.clamp(1, EVENTS.1)).unwrap_or(usize::MAX),
        })
        .await?;
    let mut info = json!({"head": page.head, "timeline": reader.timeline().to_string()});
    if let (Some(next), Some(info)) = (page.next, info.as_object_mut()) {
        info.insert("next".to_owned(), next.into());
    }
    let events: Vec<&RawValue> = page.events.iter().map(shown).collect();
    Reply::with_info(&events, Some(&info))
}

fn shown(found: &Found) -> &RawValue {
    &found.json
}
