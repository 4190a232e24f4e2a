//! `auth:import`: imports users from another server unchanged.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::Accounts;
use skytrail_actors::accounts::messages::{Account, ImportUser};
use skytrail_actors::context::RequestContext;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Disabled, PastPassword, Service};
use skytrail_schema::time::Timestamp;

use super::{Call, Outcome, Reply, request};
use crate::audit::AuditEvent;
use crate::http::mask::without_secrets;

/// Imports the users one by one. Each item of the answer gives the user's result, and `info.failed`
/// counts the refused ones. All imported users are one entry of the audit trail.
pub(super) async fn run(mut call: Call) -> Outcome {
    let users = request::take_list(&mut call.body, "users")?;
    if users.is_empty() {
        return Err(ApiError::invalid_argument("no users", &["users"]));
    }
    let mut results = Vec::with_capacity(users.len());
    let (mut came, mut roles) = (Vec::new(), BTreeSet::new());
    for user in users {
        let id = user.get("id").and_then(Json::as_str).map(str::to_owned);
        let his_roles = user.get("roles").and_then(Json::as_array).cloned();
        let done = import(call.services.accounts.as_ref(), &call.context, user).await;
        if done.is_ok() {
            came.extend(id.clone());
            let his_roles = his_roles.iter().flatten().filter_map(Json::as_str);
            roles.extend(his_roles.map(str::to_owned));
        }
        results.push(match (done, &id) {
            (Ok(()), _) => json!({"_type": "user", "_id": id}),
            (Err(error), Some(id)) => error.to_item(Some(id)),
            (Err(error), None) => error.to_item(None),
        });
    }
    if !came.is_empty() {
        let data = json!({"user_ids": came, "roles": roles});
        let user = call.context.caller.user.as_ref();
        call.audit_reporter
            .note_with(AuditEvent::ImportUsers, user, data);
    }
    let is_refused = |item: &&Json| item.get("_type") == Some(&"error".into());
    let failed = results.iter().filter(is_refused).count();
    Reply::with_info(&results, Some(&json!({"failed": failed})))
}

async fn import(accounts: &Accounts, context: &RequestContext, user: Json) -> Result<(), ApiError> {
    let Json::Object(user) = user else {
        return Err(request::wrong_type("users", "a list of objects"));
    };
    accounts.import_user(parse(user, context)?).await
}

fn parse(mut user: Map<String, Json>, context: &RequestContext) -> Result<ImportUser, ApiError> {
    const MEMBERS: [&str; 10] = [
        "id",
        "auth_data",
        "password_hash",
        "password_history",
        "profile",
        "roles",
        "accounts",
        "token_valid_since",
        "last_seen_at",
        "disabled",
    ];
    if let Some(unknown) = user.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        let message = format!("a user has no member {unknown:?}");
        return Err(ApiError::invalid_argument(message, &["users"]));
    }
    let auth_data = request::take_object(&mut user, "auth_data")?.into_iter();
    let auth_data = auth_data.map(|(name, value)| Ok((name, request::wire_value(value)?)));
    let disabled = lock(&mut user)?;
    let history: Option<Vec<PastPassword>> = take(&mut user, "password_history")?;
    let mut history = history.unwrap_or_default();
    history.sort_by_key(|past| Reverse(past.set_at));
    let time = |name: &str| {
        let text = request::text(&user, name)?;
        text.map(|text| Timestamp::parse(text).ok_or_else(|| invalid(name)))
            .transpose()
    };
    Ok(ImportUser {
        user: request::text(&user, "id")?.unwrap_or_default().into(),
        password_hash: request::text(&user, "password_hash")?.map(str::to_owned),
        password_history: history,
        roles: request::roles(request::texts(&user, "roles")?.unwrap_or_default())?,
        token_valid_since: time("token_valid_since")?,
        last_seen_at: time("last_seen_at")?,
        accounts: accounts(request::take_object(&mut user, "accounts")?)?,
        auth_data: auth_data.collect::<Result<_, ApiError>>()?,
        profile: request::named_fields(request::take_object(&mut user, "profile")?)?,
        disabled,
        context: context.clone(),
    })
}

/// Removes a member and decodes it; it is written as in the log.
fn take<T: DeserializeOwned>(
    user: &mut Map<String, Json>,
    name: &str,
) -> Result<Option<T>, ApiError> {
    let member = user.remove(name).filter(|it| !it.is_null());
    let member = member.map(serde_json::from_value).transpose();
    member.map_err(|_| invalid(name))
}

/// Removes and decodes a lock. A list, or a misspelt expiry, would lock the user forever.
fn lock(user: &mut Map<String, Json>) -> Result<Option<Disabled>, ApiError> {
    let is_lock = |name: &String| ["message", "expiry"].contains(&name.as_str());
    match user.get("disabled") {
        None | Some(Json::Null) => {}
        Some(Json::Object(lock)) if lock.keys().all(is_lock) => {}
        Some(_) => return Err(invalid("disabled")),
    }
    take(user, "disabled")
}

/// Parses accounts at other services. The key is the service, as `oauth/<provider>`, `custom_token`
/// or `provider/<name>`; the value is the principal there and its profile.
fn accounts(wire: Map<String, Json>) -> Result<Vec<Account>, ApiError> {
    let account = |(service, mut account): (String, Json)| {
        let principal = account.get("principal").and_then(Json::as_str);
        let principal = principal.filter(|principal| !principal.is_empty());
        let principal = principal?.to_owned();
        let service = Service::parse(&service)?;
        let profile = account.get_mut("profile").map(Json::take);
        let profile = profile.unwrap_or_default();
        if !profile.is_null() && !profile.is_object() {
            return None;
        }
        Some(Account {
            profile: match service {
                // As for profiles that providers return at a login.
                Service::Provider(_) => without_secrets(profile),
                _ => profile,
            },
            service,
            principal,
        })
    };
    let accounts = wire.into_iter().map(account).collect::<Option<_>>();
    accounts.ok_or_else(|| invalid("accounts"))
}

fn invalid(name: &str) -> ApiError {
    ApiError::new(Code::InvalidArgument, format!("invalid {name}"))
        .with_info("arguments", json!([name]))
}
