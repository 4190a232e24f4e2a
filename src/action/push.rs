//! `push:user`, `push:device`, `push:web_key`, `push:list`, `push:withdraw`, `push:retry`

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::push::{ListPushes, PushSelection};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{DeviceId, UserId};
use uuid::Uuid;

use super::{Call, Outcome, Reply, request};
use crate::http::checks::push_not_configured;

/// How many waiting pushes are listed by default, and at most.
const LISTED: (u64, u64) = (100, 1000);

pub(super) async fn to_users(call: Call) -> Outcome {
    let ids = ids(&call, "user_ids", "empty user ids")?;
    let topic = topic(&call)?;
    let payloads = call.services.push.prepare(notification(&call)?)?;
    let users: Vec<UserId> = ids.iter().map(|id| user_id(id)).collect();
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
    let key = key.ok_or_else(push_not_configured)?;
    Reply::new(&json!({"public_key": key}))
}

pub(super) async fn list(call: Call) -> Outcome {
    let limit = request::whole_number(&call.body, "limit")?.unwrap_or(LISTED.0);
    let after = request::text(&call.body, "after")?;
    let message = ListPushes {
        selection: selection(&call)?,
        after: after.map(|id| push_id(id, "after")).transpose()?,
        limit: usize::try_from(limit.min(LISTED.1)).unwrap_or(usize::MAX),
    };
    let listed = call.services.push.list(service(&call)?, message).await?;
    Reply::new(&listed)
}

pub(super) async fn withdraw(call: Call) -> Outcome {
    let (service, selection) = (service(&call)?, selection(&call)?);
    let PushSelection { user, device, ids } = &selection;
    let selects = service.is_some() || user.is_some() || device.is_some() || !ids.is_empty();
    if selects == request::flag(&call.body, "all")? {
        let message = "expected either all, or some of service, user, device and ids";
        let members = ["all", "service", "user", "device", "ids"];
        return Err(ApiError::invalid_argument(message, &members));
    }
    let num_withdrawn = call.services.push.withdraw(service, &selection).await?;
    Reply::new(&json!({"num_withdrawn": num_withdrawn}))
}

pub(super) async fn retry(call: Call) -> Outcome {
    let states = call.services.push.retry(service(&call)?).await?;
    Reply::new(&states)
}

/// Returns which service is meant, if it is not all.
fn service(call: &Call) -> Result<Option<&str>, ApiError> {
    request::text(&call.body, "service")
}

fn selection(call: &Call) -> Result<PushSelection, ApiError> {
    let ids = request::texts(&call.body, "ids")?.unwrap_or_default();
    let ids = ids.iter().map(|id| push_id(id, "ids"));
    Ok(PushSelection {
        user: request::text(&call.body, "user")?.map(user_id),
        device: request::text(&call.body, "device")?.map(DeviceId::from),
        ids: ids.collect::<Result<BTreeSet<Uuid>, ApiError>>()?,
    })
}

fn push_id(text: &str, argument: &str) -> Result<Uuid, ApiError> {
    let message = || format!("{text:?} is not the id of a push, which is a UUID");
    Uuid::parse_str(text).map_err(|_| ApiError::invalid_argument(message(), &[argument]))
}

/// Reads the id of a user. The published client passes that of a user's record.
fn user_id(text: &str) -> UserId {
    UserId::from(text.strip_prefix("user/").unwrap_or(text))
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
