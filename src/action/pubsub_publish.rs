//! `pubsub:publish`: publishing without a socket, for plugins and jobs with the master key.

use serde_json::json;
use skytrail_actors::hub::Publish;
use skytrail_schema::code::ApiError;

use super::{Call, Outcome, Reply, request};

pub(super) async fn run(call: Call) -> Outcome {
    let channels = request::texts(&call.body, "channels")?;
    let channels = channels.filter(|channels| !channels.is_empty());
    let channels = channels
        .ok_or_else(|| ApiError::invalid_argument("expected list of channel", &["channels"]))?;
    let data = request::member(&call.body, "data").cloned();
    let data = data.ok_or_else(|| ApiError::invalid_argument("missing data", &["data"]))?;
    let published = call.services.hub.send(Publish { channels, data }).await;
    published.map_err(|_| ApiError::overloaded("the hub"))?;
    Reply::new(&json!({"status": "OK"}))
}
