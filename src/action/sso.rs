//! `sso:oauth:login`, `sso:oauth:signup`, `sso:oauth:link`, `sso:oauth:unlink`,
//! `sso:custom_token:login`

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::messages::{
    Account, LinkAccount, LogInWithAccount, SignUpWithAccount, UnlinkAccount,
};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::Service;
use skytrail_schema::id::UserId;
use skytrail_schema::record::Fields;

use super::{Call, Outcome, Reply, auth, request};
use crate::audit::{AuditEvent, AuditReporter};
use crate::services::Services;

pub(super) async fn oauth_login(mut call: Call) -> Outcome {
    let account = oauth_account(&mut call.body)?;
    let service = account.service.clone();
    let command = LogInWithAccount {
        context: call.context,
        account,
        fields: Fields::new(),
        may_sign_up: false,
    };
    log_in(&call.services, command, &service, &call.audit_reporter).await
}

pub(super) async fn oauth_signup(mut call: Call) -> Outcome {
    let account = oauth_account(&mut call.body)?;
    let fields = request::fields(request::take_object(&mut call.body, "profile")?)?;
    let command = SignUpWithAccount {
        context: call.context,
        account,
        fields,
    };
    sign_up(&call.services, command, &call.audit_reporter).await
}

pub(super) async fn oauth_link(mut call: Call) -> Outcome {
    let mut account = oauth_account(&mut call.body)?;
    account.service = linked_service(&call.body)?;
    let user = UserId::from(required(&call.body, "user_id", "empty user id")?);
    let linked = json!({
        "service": account.service.to_string(),
        "principal": account.principal,
    });
    let command = LinkAccount {
        context: call.context,
        user: user.clone(),
        account,
    };
    call.services.accounts.link_account(command).await?;
    call.audit_reporter
        .note_with(AuditEvent::LinkAccount, Some(&user), linked);
    Reply::new(&"OK")
}

pub(super) async fn oauth_unlink(call: Call) -> Outcome {
    let service = linked_service(&call.body)?;
    let user = UserId::from(required(&call.body, "user_id", "empty user id")?);
    let command = UnlinkAccount {
        context: call.context,
        user: user.clone(),
        service: service.clone(),
    };
    call.services.accounts.unlink_account(command).await?;
    call.audit_reporter
        .note_with(AuditEvent::UnlinkAccount, Some(&user), details(&service));
    Reply::new(&"OK")
}

pub(super) async fn custom_token_login(call: Call) -> Outcome {
    let services = &call.services;
    let tokens = services.custom_tokens.as_ref().ok_or_else(|| {
        let message = "login with custom token requires CUSTOM_TOKEN_SECRET config";
        ApiError::new(Code::NotConfigured, message)
    })?;
    let service = Service::CustomToken;
    let text = request::text(&call.body, "token")?.unwrap_or_default();
    let read = tokens.read(text, services.clock.now());
    let failed =
        |refused: &ApiError| note_failure(services, &service, &call.audit_reporter, Some(refused));
    let token = read.inspect_err(failed)?;
    let account = Account {
        service: service.clone(),
        principal: token.principal,
        profile: Json::Null,
    };
    let command = LogInWithAccount {
        context: call.context,
        account,
        fields: request::fields(token.profile)?,
        may_sign_up: true,
    };
    log_in(services, command, &service, &call.audit_reporter).await
}

pub(super) async fn sign_up(
    services: &Services,
    command: SignUpWithAccount,
    audit_reporter: &AuditReporter,
) -> Outcome {
    let service = command.account.service.clone();
    let session = services.accounts.sign_up_with_account(command).await?;
    audit_reporter.note_with(AuditEvent::Signup, Some(&session.user), details(&service));
    auth::write(session)
}

pub(super) async fn log_in(
    services: &Services,
    command: LogInWithAccount,
    service: &Service,
    audit_reporter: &AuditReporter,
) -> Outcome {
    let arrived = services.accounts.log_in_with_account(command).await;
    let failed =
        |refused: &ApiError| note_failure(services, service, audit_reporter, Some(refused));
    let arrival = arrived.inspect_err(failed)?;
    let event = if arrival.is_new {
        AuditEvent::Signup
    } else {
        AuditEvent::LoginSuccess
    };
    let user = Some(&arrival.session.user);
    audit_reporter.note_with(event, user, details(service));
    auth::write(arrival.session)
}

/// Records that a login through another service failed, and why if the reason counts.
pub(super) fn note_failure(
    services: &Services,
    service: &Service,
    audit_reporter: &AuditReporter,
    refused: Option<&ApiError>,
) {
    if let Some(refused) = refused {
        let way = service.to_string();
        services.refusals.note(None, &way, refused);
    }
    audit_reporter.note_with(AuditEvent::LoginFailure, None, details(service));
}

fn details(service: &Service) -> Json {
    json!({"service": service.to_string()})
}

/// Reads the account that the request is about. The provider's tokens must be well-formed, but are
/// not passed on: the log keeps everything, so they must not reach it.
fn oauth_account(body: &mut Map<String, Json>) -> Result<Account, ApiError> {
    let provider = required(body, "provider", "empty provider")?;
    let principal = required(body, "principal_id", "empty principal id")?;
    request::take_object(body, "token_response")?;
    let profile = request::take_object(body, "provider_profile")?;
    Ok(Account {
        service: Service::OAuth(provider),
        principal,
        profile: if profile.is_empty() {
            Json::Null
        } else {
            Json::Object(profile)
        },
    })
}

/// Reads the service at which an account is linked or unlinked: an OAuth provider, unless the body
/// says that it is a plugin's auth provider.
fn linked_service(body: &Map<String, Json>) -> Result<Service, ApiError> {
    let provider = required(body, "provider", "empty provider")?;
    match request::text(body, "service")? {
        None | Some("oauth") => Ok(Service::OAuth(provider)),
        Some("provider") => Ok(Service::Provider(provider)),
        Some(_) => {
            let message = "service should be \"oauth\" or \"provider\"";
            Err(ApiError::invalid_argument(message, &["service"]))
        }
    }
}

fn required(body: &Map<String, Json>, name: &str, message: &str) -> Result<String, ApiError> {
    let text = request::text(body, name)?.filter(|text| !text.is_empty());
    text.map(str::to_owned)
        .ok_or_else(|| ApiError::invalid_argument(message, &[name]))
}
