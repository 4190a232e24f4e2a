//! `auth:disable:set`

use serde_json::json;
use skytrail_actors::accounts::messages::SetDisabled;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Disabled;
use skytrail_schema::time::Timestamp;

use super::{Call, Outcome, Reply, request};
use crate::audit::AuditEvent;

pub(super) async fn run(call: Call) -> Outcome {
    // Without it nobody would be locked out, and the answer would be OK.
    if request::member(&call.body, "disabled").is_none() {
        let message = "missing required fields";
        return Err(ApiError::invalid_argument(message, &["disabled"]));
    }
    let is_disabled = request::flag(&call.body, "disabled")?;
    let message = request::text(&call.body, "message")?.map(str::to_owned);
    let expiry = request::text(&call.body, "expiry")?.filter(|text| !text.is_empty());
    let invalid = || ApiError::invalid_argument("invalid expiry", &["expiry"]);
    let expiry = expiry.map(|text| Timestamp::parse(text).ok_or_else(invalid));
    let expiry = expiry.transpose()?;
    let user = request::text(&call.body, "auth_id")?.unwrap_or_default();
    let disabled = is_disabled.then_some(Disabled { message, expiry });
    let command = SetDisabled {
        user: user.into(),
        disabled: disabled.clone(),
        context: call.context,
    };
    let user = command.user.clone();
    call.services.accounts.set_disabled(command).await?;
    let event = if is_disabled {
        AuditEvent::DisableUser
    } else {
        AuditEvent::EnableUser
    };
    let data = disabled.map_or_else(|| json!({}), |disabled| json!(disabled));
    call.audit_reporter.note_with(event, Some(&user), data);
    Reply::new(&json!({"status": "OK"}))
}
