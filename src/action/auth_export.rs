//! `auth:export`: users in the form that `auth:import` accepts, without the contents of their
//! records.

use serde_json::{Map, Value as Json, json};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Service, UserState};
use skytrail_schema::id::UserId;

use super::{Call, Outcome, Reply, request};

/// How many users can be asked for at once.
const MAX_USERS: usize = 1000;

pub(super) async fn run(call: Call) -> Outcome {
    let ids = request::texts(&call.body, "ids")?.unwrap_or_default();
    if ids.is_empty() || ids.len() > MAX_USERS {
        let message = format!("ids should name 1 to {MAX_USERS} users");
        return Err(ApiError::invalid_argument(message, &["ids"]));
    }
    let has_hashes = request::flag(&call.body, "password_hashes")?;
    let mut users = Vec::with_capacity(ids.len());
    for id in request::users(ids) {
        if let Some(state) = call.services.accounts.load_user(&id).await? {
            users.push(to_wire(&id, &state, has_hashes));
        }
    }
    Reply::new(&users)
}

/// Encodes a user; includes password hashes only on request.
fn to_wire(id: &UserId, state: &UserState, has_hashes: bool) -> Json {
    let mut wire = Map::from_iter([("id".to_owned(), json!(id))]);
    let mut insert = |name: &str, value: Json| {
        if !value.is_null() {
            wire.insert(name.to_owned(), value);
        }
    };
    if has_hashes {
        insert("password_hash", json!(state.password_hash));
        if !state.password_history.is_empty() {
            insert("password_history", json!(state.password_history));
        }
    }
    if !state.roles.is_empty() {
        insert("roles", json!(state.roles));
    }
    insert("token_valid_since", json!(state.token_valid_since));
    insert("last_seen_at", json!(state.last_seen_at));
    insert("disabled", json!(state.disabled));
    let accounts = accounts(state);
    if !accounts.is_empty() {
        insert("accounts", Json::Object(accounts));
    }
    Json::Object(wire)
}

fn accounts(state: &UserState) -> Map<String, Json> {
    let account = |service: String, principal: &str, profile: &Json| {
        (service, json!({"principal": principal, "profile": profile}))
    };
    let links = state.links.iter();
    let links =
        links.map(|(service, link)| account(service.to_string(), &link.principal, &link.profile));
    let at_plugins = state.provider_info.iter().filter_map(|(key, profile)| {
        let (name, principal) = key.split_once(':')?;
        let service = Service::Provider(name.to_owned());
        Some(account(service.to_string(), principal, profile))
    });
    links.chain(at_plugins).collect()
}
