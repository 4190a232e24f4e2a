//! `auth:signup`, `auth:login`, `auth:logout`, `auth:password`, `auth:reset_password`, `me`

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::messages::{
    ChangePassword, LogIn, Password, ResetPassword, Session, SignUp,
};
use skytrail_schema::auth_keys::AuthData;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::UserId;

use super::{Call, Outcome, Reply, provider, request};
use crate::audit::AuditEvent;

/// Nobody's names are longer; the throttle remembers each that is tried.
const MAX_AUTH_DATA_BYTES: usize = 4096;

pub(super) async fn sign_up(mut call: Call) -> Outcome {
    if let Some(name) = provider::named(&call.body)? {
        return provider::sign_up(call, name).await;
    }
    let auth_data = auth_data(&mut call.body)?;
    throttle(&call, named(&auth_data))?;
    let profile = request::fields(request::take_object(&mut call.body, "profile")?)?;
    let password = password(&call.body, "password")?;
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
    if let Ok(Some(name)) = provider::named(&call.body) {
        return provider::log_in(call, name).await;
    }
    let auth_data = auth_data(&mut call.body);
    let known = auth_data.clone().unwrap_or_default();
    let (services, remote) = (Arc::clone(&call.services), call.remote.clone());
    match try_log_in(call, auth_data).await {
        Ok(session) => {
            let user = Some(&session.user);
            services.audit.note(AuditEvent::LoginSuccess, user, &remote);
            write(session)
        }
        Err(refused) => {
            let is_told = services.audit.is_enabled() || services.refusals.is_refusal(&refused);
            let user = match is_told && refused.code != Code::ResourceNotFound {
                true => services.accounts.find_user(&known).await.ok().flatten(),
                false => None,
            };
            services.refusals.note(user.as_ref(), "password", &refused);
            let is_password_wrong = refused.code == Code::InvalidCredentials;
            let user = user.as_ref().filter(|_| is_password_wrong);
            services.audit.note(AuditEvent::LoginFailure, user, &remote);
            Err(refused)
        }
    }
}

async fn try_log_in(
    call: Call,
    auth_data: Result<AuthData, ApiError>,
) -> Result<Session, ApiError> {
    provider::named(&call.body)?;
    let auth_data = auth_data?;
    let tried = throttle(&call, named(&auth_data))?;
    let command = LogIn {
        password: password(&call.body, "password")?,
        auth_data,
        context: call.context,
    };
    let session = call.services.accounts.log_in(command).await?;
    // Many may share an address, and none of them guesses.
    call.services.throttle.give_back(&tried, Instant::now());
    Ok(session)
}

pub(super) async fn log_out(call: Call) -> Outcome {
    let (accounts, token) = (&call.services.accounts, call.token.as_deref());
    accounts.log_out(token, &call.context).await?;
    if let Some(token) = token {
        call.services.live.forget_token(token);
    }
    let user = call.context.caller.user.as_ref();
    call.services
        .audit
        .note(AuditEvent::Logout, user, &call.remote);
    Reply::new(&json!({"status": "OK"}))
}

pub(super) async fn change_password(call: Call) -> Outcome {
    let (old, new) = (
        password(&call.body, "old_password")?,
        password(&call.body, "password")?,
    );
    let old = old.ok_or_else(|| empty("old password", "old_password"))?;
    let new = new.ok_or_else(|| empty("password", "password"))?;
    let user = call.context.caller.user.clone();
    let (services, remote) = (Arc::clone(&call.services), call.remote.clone());
    let changed = match throttle(&call, user.iter().map(account)) {
        Ok(_) => {
            let command = ChangePassword {
                context: call.context,
                old,
                new,
            };
            services.accounts.change_password(command).await
        }
        Err(refused) => Err(refused),
    };
    let refusals = &services.refusals;
    let session =
        changed.inspect_err(|refused| refusals.note(user.as_ref(), "change_password", refused))?;
    let (event, user) = (AuditEvent::ChangePassword, Some(&session.user));
    services.audit.note(event, user, &remote);
    write(session)
}

pub(super) async fn reset_password(call: Call) -> Outcome {
    let user = request::text(&call.body, "auth_id")?.unwrap_or_default();
    let new = password(&call.body, "password")?;
    if user.is_empty() {
        return Err(empty("auth_id", "auth_id"));
    }
    let command = ResetPassword {
        user: user.into(),
        new: new.ok_or_else(|| empty("password", "password"))?,
        context: call.context,
    };
    // The master key does not guess; but whoever makes a plugin reset passwords may.
    let name = [format!("reset {}", command.user)];
    call.services.throttle.admit(&name, Instant::now())?;
    let session = call.services.accounts.reset_password(command).await?;
    call.services
        .audit
        .note(AuditEvent::ResetPassword, Some(&session.user), &call.remote);
    write(session)
}

pub(super) async fn me(call: Call) -> Outcome {
    let session = call.services.accounts.me(call.context, call.as_of);
    write(session.await?)
}

fn auth_data(body: &mut Map<String, Json>) -> Result<AuthData, ApiError> {
    let entries = request::take_object(body, "auth_data")?;
    if json!(entries).to_string().len() > MAX_AUTH_DATA_BYTES {
        let message = format!("auth_data is longer than {MAX_AUTH_DATA_BYTES} bytes");
        return Err(ApiError::invalid_argument(message, &["auth_data"]));
    }
    let entries = entries.into_iter();
    entries
        .map(|(name, value)| Ok((name, request::wire_value(value)?)))
        .collect()
}

fn password(body: &Map<String, Json>, name: &str) -> Result<Option<Password>, ApiError> {
    Ok(request::text(body, name)?.and_then(Password::new))
}

fn empty(what: &str, argument: &str) -> ApiError {
    ApiError::invalid_argument(format!("empty {what}"), &[argument])
}

/// Takes one try from the address and from each account that is tried; returns from which buckets.
pub(super) fn throttle(
    call: &Call,
    accounts: impl Iterator<Item = String>,
) -> Result<Vec<String>, ApiError> {
    if call.context.caller.is_master() {
        return Ok(Vec::new());
    }
    let mut buckets = vec![format!("address {}", call.remote.host())];
    buckets.extend(accounts);
    call.services.throttle.admit(&buckets, Instant::now())?;
    Ok(buckets)
}

/// Names what is tried at a sign-up or a login, whether or not there is such an account.
fn named(auth_data: &AuthData) -> impl Iterator<Item = String> {
    let name = |(key, value): (&String, &skytrail_schema::value::Value)| {
        format!("{key}={}", value.to_wire()).to_lowercase()
    };
    auth_data.iter().map(name)
}

fn account(user: &UserId) -> String {
    format!("user {user}")
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
