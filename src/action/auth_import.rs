//! `auth:import`: takes users over from another server, as they are there.

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::messages::{Account, ImportUser};
use skytrail_actors::accounts::service::AccountService;
use skytrail_actors::context::RequestContext;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Disabled, Service};
use skytrail_schema::time::Timestamp;

use super::{Call, Outcome, Reply, request};

/// Imports one after the other; each item of the answer says what became of it, and `info.failed`
/// how many were refused.
pub(super) async fn run(mut call: Call) -> Outcome {
    let users = request::take_list(&mut call.body, "users")?;
    if users.is_empty() {
        return Err(ApiError::invalid_argument("no users", &["users"]));
    }
    let mut results = Vec::with_capacity(users.len());
    for user in users {
        let id = user.get("id").and_then(Json::as_str).map(str::to_owned);
        let done = import(call.services.accounts.as_ref(), &call.context, user).await;
        results.push(match (done, &id) {
            (Ok(()), _) => json!({"_type": "user", "_id": id}),
            (Err(error), Some(id)) => error.to_item(Some(id)),
            (Err(error), None) => error.to_item(None),
        });
    }
    let is_refused = |item: &&Json| item.get("_type") == Some(&"error".into());
    let failed = results.iter().filter(is_refused).count();
    Reply::with_info(&results, Some(&json!({"failed": failed})))
}

async fn import(
    accounts: &dyn AccountService,
    context: &RequestContext,
    user: Json,
) -> Result<(), ApiError> {
    let Json::Object(user) = user else {
        return Err(request::undecodable());
    };
    accounts.import_user(parse(user, context)?).await
}

fn parse(mut user: Map<String, Json>, context: &RequestContext) -> Result<ImportUser, ApiError> {
    const MEMBERS: [&str; 8] = [
        "id",
        "auth_data",
        "password_hash",
        "profile",
        "roles",
        "accounts",
        "token_valid_since",
        "disabled",
    ];
    if let Some(unknown) = user.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        let message = format!("a user has no member {unknown:?}");
        return Err(ApiError::invalid_argument(message, &["users"]));
    }
    let auth_data = request::take_object(&mut user, "auth_data")?.into_iter();
    let auth_data = auth_data.map(|(name, value)| Ok((name, request::wire_value(value)?)));
    let disabled = user.remove("disabled").filter(|it| !it.is_null());
    let disabled: Option<Disabled> = disabled
        .map(serde_json::from_value)
        .transpose()
        .map_err(|_| invalid("disabled"))?;
    let time = |name: &str| {
        let text = request::text(&user, name)?;
        text.map(|text| Timestamp::parse(text).ok_or_else(|| invalid(name)))
            .transpose()
    };
    Ok(ImportUser {
        user: request::text(&user, "id")?.unwrap_or_default().into(),
        password_hash: request::text(&user, "password_hash")?.map(str::to_owned),
        roles: request::roles(request::texts(&user, "roles")?.unwrap_or_default()),
        token_valid_since: time("token_valid_since")?,
        accounts: accounts(request::take_object(&mut user, "accounts")?)?,
        auth_data: auth_data.collect::<Result<_, ApiError>>()?,
        profile: request::fields(request::take_object(&mut user, "profile")?)?,
        disabled,
        context: context.clone(),
    })
}

/// Reads accounts elsewhere: by service, as `oauth/<provider>`, `custom_token` or
/// `provider/<name>`, the principal there and what is said of it.
fn accounts(wire: Map<String, Json>) -> Result<Vec<Account>, ApiError> {
    let account = |(service, mut account): (String, Json)| {
        let principal = account.get("principal").and_then(Json::as_str);
        let principal = principal.filter(|principal| !principal.is_empty());
        Some(Account {
            service: Service::parse(&service)?,
            principal: principal?.to_owned(),
            profile: account
                .get_mut("profile")
                .map(Json::take)
                .unwrap_or_default(),
        })
    };
    let accounts = wire.into_iter().map(account).collect::<Option<_>>();
    accounts.ok_or_else(|| invalid("accounts"))
}

fn invalid(name: &str) -> ApiError {
    ApiError::new(Code::InvalidArgument, format!("invalid {name}"))
        .with_info("arguments", json!([name]))
}
