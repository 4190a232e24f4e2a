//! `auth:signup`, `auth:login`, `auth:logout`, `auth:password`, `auth:reset_password`, `me`

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::messages::{
    ChangePassword, LogIn, Password, ResetPassword, Session, SignUp,
};
use skytrail_actors::record::messages::{NameAttempt, NameLimit};
use skytrail_schema::auth_keys::AuthData;
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::{ApiError, Code};

use super::{Call, Outcome, Reply, provider, request};
use crate::audit::AuditEvent;
use crate::auth::throttle::{Attempt, Throttle, Turn};

/// Real names are never longer. The throttle remembers every name that is tried.
const MAX_AUTH_DATA_BYTES: usize = 4096;

pub(super) async fn sign_up(mut call: Call) -> Outcome {
    if let Some(name) = provider::named(&call.body)? {
        return provider::sign_up(call, name).await;
    }
    let auth_data = auth_data(&mut call.body)?;
    let guess = call.services.accounts.key_of(&auth_data);
    let mut turn = throttle(&call, |address| {
        let guess = guess.map(|account| Attempt::on(&account, address));
        guess.unwrap_or_default().signing_up(address)
    })
    .await?;
    let audit_reporter = call.audit_reporter.clone();
    let signed_up = try_sign_up(call, auth_data).await;
    give_back_if_not_taken(&mut turn, signed_up.as_ref().err());
    let session = signed_up?;
    turn.welcome();
    audit_reporter.note(AuditEvent::Signup, Some(&session.user));
    write(session)
}

/// Gives back what a sign-up has taken, unless the name is taken: no other answer tells a guesser
/// anything.
pub(super) fn give_back_if_not_taken(turn: &mut Turn, refused: Option<&ApiError>) {
    if refused.is_none_or(|error| error.code != Code::Duplicated) {
        turn.give_back();
    }
}

/// Returns whether the error says nothing about the caller's credentials: nobody has judged them.
pub(super) fn is_outage(error: &ApiError) -> bool {
    matches!(
        error.code,
        Code::PluginUnavailable | Code::PluginTimeout | Code::ResponseTimeout
    ) || error.status() == 503
}

async fn try_sign_up(mut call: Call, auth_data: AuthData) -> Result<Session, ApiError> {
    let profile = request::fields(request::take_object(&mut call.body, "profile")?)?;
    let password = password(&call.body, "password")?;
    let command = SignUp {
        context: call.context,
        auth_data,
        password,
        profile,
    };
    call.services.accounts.sign_up(command).await
}

pub(super) async fn log_in(mut call: Call) -> Outcome {
    if let Ok(Some(name)) = provider::named(&call.body) {
        return provider::log_in(call, name).await;
    }
    let auth_data = auth_data(&mut call.body);
    let given = auth_data.clone().unwrap_or_default();
    let (services, audit_reporter) = (Arc::clone(&call.services), call.audit_reporter.clone());
    match try_log_in(call, auth_data).await {
        Ok(session) => {
            audit_reporter.note(AuditEvent::LoginSuccess, Some(&session.user));
            write(session)
        }
        Err(refused) => {
            let is_reported =
                audit_reporter.is_recorded() || services.refusals.is_refusal(&refused);
            let user = match is_reported && refused.code != Code::ResourceNotFound {
                true => services.accounts.find_user(&given).await.ok().flatten(),
                false => None,
            };
            services.refusals.note(user.as_ref(), "password", &refused);
            let is_password_wrong = refused.code == Code::InvalidCredentials;
            let user = user.as_ref().filter(|_| is_password_wrong);
            audit_reporter.note(AuditEvent::LoginFailure, user);
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
    let account = call.services.accounts.key_of(&auth_data);
    let password = password(&call.body, "password")?;
    let guess = password.as_ref().map_or("", Password::reveal);
    let tried = |address: &str| match &account {
        Some(account) => Attempt::on(account, address).guessing(guess),
        None => Attempt::at(address),
    };
    let mut turn = match &account {
        // A client that makes a plugin check passwords might guess; its address is not known.
        Some(account) if call.context.caller.is_master() => {
            let attempt = Attempt::on_from_anywhere(account);
            call.services.throttle.admit_in_turn(attempt).await?
        }
        _ => throttle(&call, tried).await?,
    };
    let command = LogIn {
        password,
        auth_data,
        context: call.context,
    };
    let logged_in = call.services.accounts.log_in(command).await;
    // Many users can share an address, and this one was not guessing; nor can anybody guess while
    // no password is checked.
    if logged_in.as_ref().map_or_else(is_outage, |_| true) {
        turn.give_back();
    }
    let session = logged_in?;
    turn.welcome();
    Ok(session)
}

pub(super) async fn log_out(call: Call) -> Outcome {
    let (accounts, token) = (&call.services.accounts, call.token.as_deref());
    accounts.log_out(token, &call.context).await?;
    if let Some(token) = token {
        call.services.live.forget_token(token);
    }
    let user = call.context.caller.user.as_ref();
    call.audit_reporter.note(AuditEvent::Logout, user);
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
    let (services, audit_reporter) = (Arc::clone(&call.services), call.audit_reporter.clone());
    let tried = |address: &str| match &user {
        Some(user) => Attempt::on(&format!("user {user}"), address).guessing(old.reveal()),
        None => Attempt::at(address),
    };
    let changed = match throttle(&call, tried).await {
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
    let session = changed.inspect_err(|refused| {
        let refusals = &services.refusals;
        refusals.note(user.as_ref(), "change_password", refused);
        if refused.code == Code::InvalidCredentials || refused.status() == 429 {
            audit_reporter.note(AuditEvent::ChangePasswordFailure, user.as_ref());
        }
    })?;
    audit_reporter.note(AuditEvent::ChangePassword, Some(&session.user));
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
    // The master key does not guess, but a client that makes a plugin reset passwords might.
    let attempt = Attempt::reset_of(command.user.as_str());
    call.services.throttle.admit(attempt, Instant::now())?;
    let session = call.services.accounts.reset_password(command).await?;
    call.audit_reporter
        .note(AuditEvent::ResetPassword, Some(&session.user));
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

/// Charges an attempt against the throttle, if need be after others that are in progress; returns
/// what can be given back.
pub(super) async fn throttle(
    call: &Call,
    tried: impl FnOnce(&str) -> Attempt,
) -> Result<Turn, ApiError> {
    let attempt = if call.context.caller.is_master() {
        Attempt::default()
    } else {
        tried(&call.remote.host())
    };
    call.services.throttle.admit_in_turn(attempt).await
}

/// Returns what bounds how many names of users a save can find out; `None` if nothing does.
///
/// Programs with the master key can read all names anyway, and act for users at many addresses.
pub(super) fn name_limit(call: &Call) -> Option<Arc<dyn NameLimit>> {
    if call.context.caller.key == KeyKind::Master {
        return None;
    }
    Some(Arc::new(LimitOfAddress {
        throttle: Arc::clone(&call.services.throttle),
        attempt: Attempt::renaming(&call.remote.host()),
    }))
}

/// What an address can find out about names by saves.
#[derive(Debug)]
struct LimitOfAddress {
    throttle: Arc<Throttle>,
    attempt: Attempt,
}

#[async_trait]
impl NameLimit for LimitOfAddress {
    async fn admit(&self) -> Result<Box<dyn NameAttempt>, ApiError> {
        let turn = self.throttle.admit_in_turn(self.attempt.clone()).await?;
        Ok(Box::new(turn))
    }
}

impl NameAttempt for Turn {
    fn give_back(&mut self) {
        Turn::give_back(self);
    }
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
