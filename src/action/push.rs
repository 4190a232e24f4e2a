//! `push:user`, `push:device`, `push:web_key`

use serde_json::{Map, Value as Json, json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{DeviceId, UserId};

use super::{Call, Outcome, Reply, request};

pub(super) async fn to_users(call: Call) -> Outcome {
    let ids = ids(&call, "user_ids", "empty user ids")?;
    let topic = topic(&call)?;
    let payloads = call.services.push.prepare(notification(&call)?)?;
    // The published client passes the id of a user's record.
    let user = |id: &String| UserId::from(id.strip_prefix("user/").unwrap_or(id));
    let users: Vec<UserId> = ids.iter().map(user).collect();
    let push = &call.services.push;
    push.to_users(&users, topic, &payloads).await?;
    Reply::new(&ids.iter().map(|id| json!({"_id": id})).collect::<Vec<_>>())
}

pub(super) async fn to_devices(call: Call) -> Outcome {
    let ids = ids(&call, "device_ids", "empty device ids")?;
    let topic = topic(&call)?;
    let payloads = call.services.push.prepare(notification(&call)?)?;
    let devices: Vec<DeviceId> = ids.iter().cloned().map(DeviceId::from).collect();
    let push = &call.services.push;
    let found = push.to_devices(&devices, topic, &payloads).await?;
    let item = |(id, found): (&String, Option<bool>)| match found {
        Some(true) => Some(json!({"_id": id})),
        Some(false) => None,
        None => Some(no_device(id).to_item(Some(id))),
    };
    let items = ids.iter().zip(found).filter_map(item);
    Reply::new(&items.collect::<Vec<_>>())
}

pub(super) async fn web_key(call: Call) -> Outcome {
    let key = call.services.settings.web_push_key.as_deref();
    let key = key.ok_or_else(crate::http::checks::push_not_configured)?;
    Reply::new(&json!({"public_key": key}))
}

fn ids(call: &Call, name: &'static str, empty: &str) -> Result<Vec<String>, ApiError> {
    let ids = request::texts(&call.body, name)?.unwrap_or_default();
    if ids.is_empty() {
        return Err(ApiError::invalid_argument(empty, &[name]));
    }
    Ok(ids)
}

/// Returns the topic; an empty one counts as absent.
fn topic(call: &Call) -> Result<Option<&str>, ApiError> {
    let topic = request::text(&call.body, "topic")?;
    Ok(topic.filter(|topic| !topic.is_empty()))
}

fn notification(call: &Call) -> Result<&Map<String, Json>, ApiError> {
    let missing = || ApiError::invalid_argument("no notification specified", &["notification"]);
    let notification = request::member(&call.body, "notification").ok_or_else(missing)?;
    notification.as_object().ok_or_else(request::undecodable)
}

fn no_device(id: &str) -> ApiError {
    let message = format!("cannot find device {id:?}");
    ApiError::new(Code::ResourceNotFound, message).with_info("id", id.into())
}
