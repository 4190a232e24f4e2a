//! `auth:signup` and `auth:login` of users whom a plugin's auth provider vouches for.

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::messages::{Account, LogInWithAccount, SignUpWithAccount};
use skytrail_actors::plugin::{CallContext, Lineage, PluginCallError, PluginRequest};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::Service;
use skytrail_schema::json::into_object;
use skytrail_schema::record::Fields;
use skytrail_schema::value::with_whole_numbers;

use super::{Call, Outcome, auth, request, sso};
use crate::auth::throttle::{Attempt, Turn};
use crate::http::mask::without_secrets;

/// Returns the provider that a body names.
pub(super) fn named(body: &Map<String, Json>) -> Result<Option<String>, ApiError> {
    let name = request::text(body, "provider")?.filter(|name| !name.is_empty());
    Ok(name.map(str::to_owned))
}

pub(super) async fn sign_up(mut call: Call, provider: String) -> Outcome {
    let fields = request::fields(request::take_object(&mut call.body, "profile")?)?;
    let refusal = "unable to login with the given credentials";
    let service = Service::Provider(provider.clone());
    let attempt = |address: &str| Attempt::at(address).signing_up(address);
    let (account, mut turn) = vouch(&mut call, provider, attempt, refusal).await?;
    let command = SignUpWithAccount {
        context: call.context,
        account,
        fields,
    };
    let reply = sso::sign_up(&call.services, command, &call.audit_reporter).await;
    if let Err(refused) = &reply
        && refused.code == Code::Duplicated
    {
        // The credentials were right: a guesser has been told so.
        sso::note_failure(
            &call.services,
            &service,
            &call.audit_reporter,
            Some(refused),
        );
    }
    // As for a sign-up with a password.
    auth::give_back_if_not_taken(&mut turn, reply.as_ref().err());
    reply
}

pub(super) async fn log_in(mut call: Call, provider: String) -> Outcome {
    let refusal = "invalid authentication information";
    let service = Service::Provider(provider.clone());
    let (account, mut turn) = vouch(&mut call, provider, Attempt::at, refusal).await?;
    let command = LogInWithAccount {
        context: call.context,
        account,
        fields: Fields::new(),
        may_sign_up: true,
    };
    let reply = sso::log_in(&call.services, command, &service, &call.audit_reporter).await?;
    // As for a login with a password.
    turn.give_back();
    Ok(reply)
}

/// Charges an attempt and asks the provider for the account; records a refusal.
async fn vouch(
    call: &mut Call,
    provider: String,
    attempt: impl FnOnce(&str) -> Attempt,
    refusal: &str,
) -> Result<(Account, Turn), ApiError> {
    let service = Service::Provider(provider.clone());
    // Names that no plugin registered are arbitrary text from strangers.
    let points = call.services.plugins.points();
    let is_registered = points.providers.contains_key(&provider);
    let vouched = match auth::throttle(call, attempt).await {
        Ok(mut turn) => {
            let vouched = vouched_for(call, provider, refusal).await;
            // If the plugin never judged it, it was not a guess.
            if vouched.as_ref().is_err_and(auth::is_outage) {
                turn.give_back();
            }
            vouched.map(|account| (account, turn))
        }
        Err(refused) => Err(refused),
    };
    vouched.inspect_err(|refused| {
        if auth::is_outage(refused) {
            return;
        }
        let reported = is_registered.then_some(refused);
        sso::note_failure(&call.services, &service, &call.audit_reporter, reported);
    })
}

/// Asks the plugin whose credentials these are.
async fn vouched_for(
    call: &mut Call,
    provider: String,
    refusal: &str,
) -> Result<Account, ApiError> {
    let points = call.services.plugins.points();
    let point = points.providers.get(&provider).ok_or_else(|| {
        let message = format!("no auth provider of name {provider:?}");
        ApiError::invalid_argument(message, &["provider"])
    })?;
    let auth_data = request::take_object(&mut call.body, "provider_auth_data")?;
    let auth_data = with_whole_numbers(auth_data.into());
    let request = PluginRequest {
        plugin: point.plugin.clone(),
        kind: "provider",
        name: provider.clone(),
        param: json!({"action": "login", "auth_data": auth_data}),
        context: Some(CallContext::of(&call.context)),
        timeout: point.timeout,
        deadline: call.context.deadline,
        lineage: Lineage::of(&call.context),
    };
    let answer = call.services.plugins.ask(request).await;
    // The reason for a provider's refusal is hidden, as in v1. But credentials are not reported as
    // wrong if the plugin is away, or says that a service it depends on is.
    let refused = || ApiError::new(Code::InvalidCredentials, refusal);
    let failure = |failed: PluginCallError| {
        let outage = failed.outage(&point.plugin);
        let own = || {
            Some(failed.error())
                .filter(|it| auth::is_outage(it))
                .cloned()
        };
        outage.or_else(own).unwrap_or_else(refused)
    };
    let answer = answer.map_err(failure)?;
    let (principal, profile) = parse(answer).map_err(|why| {
        let plugin = &point.plugin;
        tracing::warn!(%plugin, provider, why, "an auth provider's answer cannot be read");
        refused()
    })?;
    Ok(Account {
        service: Service::Provider(provider),
        principal,
        profile,
    })
}

/// Parses the account that a provider vouches for, and its profile. The provider's own tokens and
/// passwords are dropped: the log keeps everything.
fn parse(mut answer: Json) -> Result<(String, Json), &'static str> {
    let principal = answer.get("principal_id").and_then(Json::as_str);
    let principal = principal.filter(|it| !it.is_empty());
    let principal = principal
        .ok_or("principal_id should be a string")?
        .to_owned();
    let auth_data = answer.get_mut("auth_data").map(Json::take);
    let auth_data = match auth_data.unwrap_or_default() {
        Json::Null => Json::Null,
        other => into_object(other)
            .map_err(|_| "auth_data should be an object")?
            .into(),
    };
    Ok((principal, without_secrets(auth_data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_of_auth_data_is_an_empty_object() {
        let read = |auth_data: Json| parse(json!({"principal_id": "ada", "auth_data": auth_data}));
        assert_eq!(read(json!([])), Ok(("ada".to_owned(), json!({}))));
        assert_eq!(read(json!(null)), Ok(("ada".to_owned(), json!(null))));
        assert!(read(json!(["x"])).is_err());
    }
}
