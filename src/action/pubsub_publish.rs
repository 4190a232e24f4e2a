//! `pubsub:publish`: publishing without a socket, for plugins and jobs with the master key.

use serde_json::json;
use skytrail_actors::hub::Publish;
use skytrail_schema::code::{ApiError, Code};

use super::{Call, Outcome, Reply, request};

pub(super) async fn run(call: Call) -> Outcome {
    let refuse = |message: &str, name| ApiError::invalid_argument(message, &[name]);
    let channels = request::texts(&call.body, "channels")?.unwrap_or_default();
    if channels.is_empty() {
        return Err(refuse("expected list of channel", "channels"));
    }
    let max = call.services.sockets.max_channel_bytes;
    if channels.iter().any(|it| it.is_empty() || it.len() > max) {
        let message = format!("the name of a channel must have 1 to {max} bytes");
        return Err(refuse(&message, "channels"));
    }
    let data = request::member(&call.body, "data");
    let data = data.ok_or_else(|| refuse("missing data", "data"))?;
    if call.services.settings.is_slave {
        let message = "this server has no pub/sub: SLAVE is set";
        return Err(ApiError::new(Code::NotSupported, message));
    }
    let publish = Publish::new(channels, data);
    let publish = publish.map_err(|error| ApiError::unexpected(error.to_string()))?;
    let published = call.services.hub.send(publish).await;
    published.map_err(|_| ApiError::overloaded("the hub"))?;
    Reply::new(&json!({"status": "OK"}))
}
