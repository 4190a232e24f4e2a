//! `auth:signup`, `auth:login`, `auth:logout`, `me`

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::messages::{LogIn, Session, SignUp};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::value::Value;

use super::{Call, Outcome, Reply, request};
use crate::audit::AuditEvent;

pub(super) async fn sign_up(mut call: Call) -> Outcome {
    refuse_provider(&call.body)?;
    let auth_data = auth_data(&mut call.body)?;
    throttle(&call, &auth_data)?;
    let profile = request::fields(request::take_object(&mut call.body, "profile")?)?;
    let password = request::text(&call.body, "password")?.map(str::to_owned);
    let command = SignUp {
        context: call.context,
        auth_data,
        password,
        profile,
    };
    let session = call.services.accounts.sign_up(command).await?;
    let user = Some(&session.user);
    call.services
        .audit
        .note(AuditEvent::Signup, user, &call.remote);
    write(session)
}

pub(super) async fn log_in(mut call: Call) -> Outcome {
    refuse_provider(&call.body)?;
    let auth_data = auth_data(&mut call.body)?;
    throttle(&call, &auth_data)?;
    let password = request::text(&call.body, "password")?
        .unwrap_or_default()
        .to_owned();
    let (accounts, audit) = (&call.services.accounts, &call.services.audit);
    let command = LogIn {
        context: call.context,
        auth_data: auth_data.clone(),
        password,
    };
    let session = match accounts.log_in(command).await {
        Ok(session) => session,
        Err(refused) => {
            let is_password_wrong = refused.code == Code::InvalidCredentials;
            let user = match audit.is_enabled() && is_password_wrong {
                true => accounts.find_user(&auth_data).await.ok().flatten(),
                false => None,
            };
            audit.note(AuditEvent::LoginFailure, user.as_ref(), &call.remote);
            return Err(refused);
        }
    };
    audit.note(AuditEvent::LoginSuccess, Some(&session.user), &call.remote);
    write(session)
}

pub(super) async fn log_out(call: Call) -> Outcome {
    if let Some(token) = &call.token {
        call.services.accounts.forget_token(token).await?;
    }
    let user = call.context.caller.user.as_ref();
    call.services
        .audit
        .note(AuditEvent::Logout, user, &call.remote);
    Reply::new(&json!({"status": "OK"}))
}

pub(super) async fn me(call: Call) -> Outcome {
    write(call.services.accounts.me(call.context).await?)
}

fn auth_data(body: &mut Map<String, Json>) -> Result<BTreeMap<String, Value>, ApiError> {
    let entries = request::take_object(body, "auth_data")?.into_iter();
    entries
        .map(|(name, value)| Ok((name, request::wire_value(value)?)))
        .collect()
}

/// Providers are plugins' work; no plugin of this version can register one.
fn refuse_provider(body: &Map<String, Json>) -> Result<(), ApiError> {
    match request::text(body, "provider")? {
        None | Some("") => Ok(()),
        Some(name) => {
            let message = format!("no auth provider of name {name:?}");
            Err(ApiError::new(Code::InvalidArgument, message)
                .with_info("arguments", json!(["provider"])))
        }
    }
}

/// Takes one try from the address and from each name that is tried.
fn throttle(call: &Call, auth_data: &BTreeMap<String, Value>) -> Result<(), ApiError> {
    if call.context.caller.is_master() {
        return Ok(());
    }
    let named = auth_data
        .iter()
        .map(|(key, value)| format!("{key}={}", value.to_wire()));
    let mut buckets: Vec<String> = named.map(|name| name.to_lowercase()).collect();
    buckets.push(format!("address {}", call.remote.host()));
    call.services.throttle.admit(&buckets, Instant::now())
}

pub(super) fn write(session: Session) -> Outcome {
    let mut result = Map::new();
    result.insert("user_id".into(), session.user.as_str().into());
    let profile = session
        .profile
        .map_or(Json::Null, |record| Json::Object(record.to_wire()));
    result.insert("profile".into(), profile);
    if !session.roles.is_empty() {
        result.insert("roles".into(), json!(session.roles));
    }
    result.insert("access_token".into(), session.access_token.into());
    for (name, time) in [
        ("last_login_at", session.last_login_at),
        ("last_seen_at", session.last_seen_at),
    ] {
        if let Some(time) = time {
            result.insert(name.into(), time.to_string().into());
        }
    }
    Reply::new(&result)
}
