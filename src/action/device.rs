//! `device:register`, `device:unregister`

use serde_json::json;
use skytrail_actors::device::messages::{RegisterDevice, UnregisterDevice};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::DeviceKind;
use skytrail_schema::id::DeviceId;

use super::{Call, Outcome, Reply, request};
use crate::push::apns::address::{check_token, check_topic};
use crate::push::web::Subscription;

pub(super) async fn register(call: Call) -> Outcome {
    let text = |name| Ok::<_, ApiError>(request::text(&call.body, name)?.map(str::to_owned));
    let id = text("id")?.filter(|id| !id.is_empty());
    let kind = text("type")?.unwrap_or_default();
    let (token, topic) = (text("device_token")?, text("topic")?);
    if kind.is_empty() {
        return Err(ApiError::invalid_argument("empty device type", &["type"]));
    }
    let unknown = || ApiError::invalid_argument(format!("unknown device type = {kind}"), &["type"]);
    let kind = DeviceKind::parse(&kind).ok_or_else(unknown)?;
    let command = RegisterDevice {
        id: id.map(DeviceId::from),
        kind,
        token: token.map(|token| address(kind, token)).transpose()?,
        topic: topic.map(|topic| app(kind, topic)).transpose()?,
        context: call.context,
    };
    let id = call.services.devices.register(command).await?;
    Reply::new(&json!({"id": id}))
}

/// Checks an address; returns a browser's subscription in the normalized form in which it is stored.
/// What Google and Baidu issue is in no request's head, and not checked.
fn address(kind: DeviceKind, token: String) -> Result<String, ApiError> {
    let refused = |why| wrong("device_token", why);
    match kind {
        DeviceKind::Web if !token.is_empty() => {
            let subscription = Subscription::parse(&token).map_err(refused)?;
            Ok(subscription.to_text())
        }
        DeviceKind::Ios => check_token(&token).map_err(refused).map(|()| token),
        _ => Ok(token),
    }
}

/// Checks the app on a device.
fn app(kind: DeviceKind, topic: String) -> Result<String, ApiError> {
    if kind == DeviceKind::Ios {
        check_topic(&topic).map_err(|why| wrong("topic", why))?;
    }
    Ok(topic)
}

fn wrong(member: &'static str, why: String) -> ApiError {
    ApiError::invalid_argument(format!("{member}: {why}"), &[member])
}

pub(super) async fn unregister(call: Call) -> Outcome {
    let id = request::text(&call.body, "id")?.filter(|id| !id.is_empty());
    let missing = || ApiError::invalid_argument("Missing device id", &["id"]);
    let id = DeviceId::from(id.ok_or_else(missing)?);
    let command = UnregisterDevice {
        id: id.clone(),
        context: call.context,
    };
    call.services.devices.unregister(command).await?;
    Reply::new(&json!({"id": id}))
}
