//! Google's push service (Firebase Cloud Messaging), over its HTTP interface v1.
//!
//! A service account's key signs a grant. In exchange Google issues an access token that is valid
//! for an hour.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::clock::Clock;
use skytrail_actors::push::{Address, Payload, PushSender, SendError};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::DeviceKind;
use skytrail_schema::json;
use skytrail_schema::time::Timestamp;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::client::{self, Answer};
use super::signer::{Signer, seconds};
use super::{Named, OpenError, object_in, payload_of};
use crate::config::FcmSettings;

/// Google refuses larger payloads.
const MAX_PAYLOAD: usize = 4096;
/// What the access token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long a grant is valid.
const GRANT_LIFE: i64 = 3600;
/// A token is not used in the last minutes of its life.
const TOKEN_MARGIN: i64 = 300;
/// What Google says of a token that it never issued.
const INVALID_TOKEN: &str = "The registration token is not a valid FCM registration token";
/// How long to wait after too many messages, if the service does not say.
const QUOTA_PAUSE: Duration = Duration::from_secs(60);

/// See the module's overview.
pub(super) struct Fcm {
    client: Client,
    url: String,
    signer: Signer,
    email: String,
    token_url: String,
    /// The first task that finds no valid token requests one; the others wait for it.
    token: Mutex<Option<AccessToken>>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone)]
struct AccessToken {
    text: Arc<str>,
    until: Timestamp,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'static str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: i64,
}

#[derive(Serialize)]
struct Message<'a> {
    message: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    token: &'a str,
    android: &'a RawValue,
}

impl Fcm {
    /// Opens the sender.
    pub(super) fn open(settings: &FcmSettings, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let service = "fcm";
        let account = &settings.account;
        let signer = Signer::rsa(account.private_key.reveal(), account.key_id.as_deref());
        let client = client::builder().build();
        let project = utf8_percent_encode(&account.project, NON_ALPHANUMERIC);
        Ok(Self {
            client: client.map_err(|error| OpenError::Client {
                service,
                why: error.to_string(),
            })?,
            url: format!("{}/v1/projects/{project}/messages:send", settings.endpoint),
            signer: signer.map_err(|why| OpenError::Key { service, why })?,
            email: account.email.clone(),
            token_url: account.token_url.clone(),
            token: Mutex::new(None),
            clock,
        })
    }

    /// Returns an access token other than `refused`.
    async fn access_token(&self, refused: Option<&Arc<str>>) -> Result<Arc<str>, SendError> {
        let mut token = self.token.lock().await;
        let now = self.clock.now();
        if let Some(cached) = &*token
            && now < cached.until
            && refused != Some(&cached.text)
        {
            return Ok(Arc::clone(&cached.text));
        }
        let granted = self.grant(now).await?;
        let life = granted.expires_in.saturating_sub(TOKEN_MARGIN).max(0);
        let until = now.micros().saturating_add(life.saturating_mul(1_000_000));
        let text: Arc<str> = granted.access_token.into();
        *token = Some(AccessToken {
            text: Arc::clone(&text),
            until: Timestamp::from_micros(until),
        });
        Ok(text)
    }

    async fn grant(&self, now: Timestamp) -> Result<Granted, SendError> {
        let claims = Claims {
            iss: &self.email,
            scope: SCOPE,
            aud: &self.token_url,
            iat: seconds(now),
            exp: seconds(now) + GRANT_LIFE,
        };
        let unreachable = |why| client::unreachable(format!("no access token: {why}"), true);
        let assertion = self.signer.sign(&claims);
        let assertion = assertion.map_err(|error| unreachable(error.to_string()))?;
        let grant = utf8_percent_encode(GRANT, NON_ALPHANUMERIC);
        let request = self
            .client
            .post(&self.token_url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(format!("grant_type={grant}&assertion={assertion}"));
        let answer = client::ask(request, now).await;
        let answer = answer.map_err(|error| unreachable(error.to_string()))?;
        if answer.status != 200 {
            let said = json::from_slice(&answer.body).unwrap_or_default();
            let reason = said.get("error").and_then(Json::as_str).unwrap_or_default();
            // Retried even if the account is refused: a person must fix that, and the waiting
            // messages are sent afterwards.
            return Err(answer.later(&format!("no access token: {reason}"), true));
        }
        serde_json::from_slice(&answer.body).map_err(|error| unreachable(error.to_string()))
    }

    async fn post(&self, body: Vec<u8>, token: &str) -> Result<Answer, SendError> {
        let request = self
            .client
            .post(&self.url)
            .bearer_auth(token)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let response = client::ask(request, self.clock.now()).await;
        // The address is in the body: a head that cannot be built would be so for every message.
        response.map_err(|error| client::unreachable(error.to_string(), true))
    }
}

#[async_trait]
impl PushSender for Fcm {
    fn name(&self) -> &'static str {
        "fcm"
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Android
    }

    fn prepare(&self, notification: &Map<String, Json>) -> Result<Option<Payload>, ApiError> {
        let Some((name, object)) = payload_of(notification, &["fcm", "gcm"])? else {
            return Ok(None);
        };
        check((name, object))?;
        let content = super::encode(name, object, MAX_PAYLOAD)?;
        Ok(Some(Payload::new(content, Vec::new())))
    }

    /// Builds a data message; its values are strings, as the service requires.
    fn notice(&self, number: u64, subscription: &str) -> Payload {
        let notice = json!({"seq-num": number, "subscription-id": subscription});
        let message = json!({"data": {"_skygear": notice.to_string()}});
        Payload::new(message.to_string().into_bytes(), Vec::new())
    }

    async fn send(
        &self,
        address: &Address,
        payload: &Arc<Payload>,
        _: Uuid,
    ) -> Result<(), SendError> {
        let unsendable = |error: serde_json::Error| SendError::Unsendable(error.to_string());
        let message = Message {
            message: Body {
                token: &address.token,
                android: serde_json::from_slice(&payload.content).map_err(unsendable)?,
            },
        };
        let body = serde_json::to_vec(&message).map_err(unsendable)?;
        let token = self.access_token(None).await?;
        let mut answer = self.post(body.clone(), &token).await?;
        if answer.status == 401 {
            let token = self.access_token(Some(&token)).await?;
            answer = self.post(body, &token).await?;
        }
        verdict(&answer)
    }
}

/// Checks what Google documents of the members of a message.
///
/// # Errors
/// 108 for what it would refuse.
fn check(android: Named<'_>) -> Result<(), ApiError> {
    let refused = |what: &str| {
        let message = format!("notification.{}.{what}", android.0);
        Err(ApiError::invalid_argument(message, &["notification"]))
    };
    object_in(android, "notification")?;
    for (name, value) in object_in(android, "data")?.into_iter().flatten() {
        if is_reserved(name) {
            return refused(&format!("data.{name}: Google reserves this name"));
        }
        if !value.is_string() {
            return refused(&format!("data.{name} is not a string"));
        }
    }
    match android.1.get("ttl") {
        None | Some(Json::Null) => Ok(()),
        Some(Json::String(text)) if is_duration(text) => Ok(()),
        Some(_) => refused("ttl is not a number of seconds as text, such as \"3.5s\""),
    }
}

/// Whether an app's own data cannot have a name.
fn is_reserved(name: &str) -> bool {
    matches!(name, "from" | "message_type")
        || ["google.", "gcm."].iter().any(|it| name.starts_with(it))
}

fn is_duration(text: &str) -> bool {
    let seconds = text.strip_suffix('s').unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    seconds.bytes().all(is_plain) && seconds.parse::<f64>().is_ok()
}

/// Google's reason for not accepting a message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refused {
    error: Reason,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    status: String,
    message: String,
    details: Vec<Detail>,
}

impl Reason {
    /// Returns whether only quotas of the message's target are exceeded. Without an explanation it
    /// is the project's.
    fn is_of_target(&self) -> bool {
        let mut violations = self.details.iter().flat_map(|detail| &detail.violations);
        let first = violations.next();
        first.is_some_and(Violation::is_of_target) && violations.all(Violation::is_of_target)
    }

    /// Returns whether the device's token is the argument that is invalid.
    fn is_about_token(&self) -> bool {
        let mut fields = self
            .details
            .iter()
            .flat_map(|detail| &detail.field_violations);
        self.message.starts_with(INVALID_TOKEN) || fields.any(|it| it.field == "message.token")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Detail {
    error_code: Option<String>,
    /// Which quotas are exceeded, if it is a `google.rpc.QuotaFailure`.
    violations: Vec<Violation>,
    /// Which members are invalid, if it is a `google.rpc.BadRequest`.
    field_violations: Vec<FieldViolation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FieldViolation {
    field: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Violation {
    /// What the quota is for, such as `device:…` or `project:…`.
    subject: String,
    description: String,
}

impl Violation {
    /// Returns whether it is the quota of the message's target. Google does not document the
    /// subjects, only that a message's target has a quota of its own.
    fn is_of_target(&self) -> bool {
        let text = if self.subject.is_empty() {
            &self.description
        } else {
            &self.subject
        };
        let text = text.to_ascii_lowercase();
        ["device", "topic", "token"]
            .iter()
            .any(|target| text.starts_with(target))
    }
}

fn verdict(answer: &Answer) -> Result<(), SendError> {
    if answer.status == 200 {
        return Ok(());
    }
    let said: Refused = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = said
        .error
        .details
        .iter()
        .find_map(|detail| detail.error_code.as_deref());
    let code = code.unwrap_or(&said.error.status);
    let refused = || {
        let words = format!("{code} {}", said.error.message);
        SendError::Refused(answer.words(&words))
    };
    let gone = || SendError::Gone {
        since: None,
        why: answer.words(code),
    };
    Err(match answer.status {
        // Concerns this device only: it belongs to another project, or Google reaches it over a
        // service for which it has no key.
        401 | 403 if matches!(code, "SENDER_ID_MISMATCH" | "THIRD_PARTY_AUTH_ERROR") => {
            SendError::Misaddressed(answer.words(code))
        }
        // The sender itself is refused, as when a grant is refused.
        401 | 403 => answer.later(code, true),
        404 if code == "UNREGISTERED" => gone(),
        400 if code == "INVALID_ARGUMENT" && said.error.is_about_token() => gone(),
        429 => SendError::Later {
            wait: Some(answer.retry_after.unwrap_or(QUOTA_PAUSE)),
            holds_all: !said.error.is_of_target(),
            why: answer.words(code),
        },
        500 => answer.later(code, false),
        501.. => answer.later(code, true),
        _ => refused(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_projects_quota_holds_all_messages() {
        let is_held = |violations: Json| {
            let details = json!([
                {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
                    "errorCode": "QUOTA_EXCEEDED"},
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations},
            ]);
            let error = json!({"status": "RESOURCE_EXHAUSTED", "details": details});
            let answer = Answer {
                status: 429,
                retry_after: None,
                body: json!({"error": error}).to_string().into_bytes(),
            };
            match verdict(&answer) {
                Err(SendError::Later {
                    wait, holds_all, ..
                }) => {
                    assert_eq!(wait, Some(QUOTA_PAUSE));
                    holds_all
                }
                other => panic!("{other:?}"),
            }
        };
        let device = json!({"subject": "device:project", "description": "too many"});
        let rate = json!({"description": "Topic message rate exceeded"});
        let project = json!({"subject": "project:device", "description": "Device messages"});
        assert!(!is_held(json!([device])));
        assert!(!is_held(json!([device, rate])));
        assert!(is_held(json!([project])));
        assert!(is_held(json!([device, project])));
        assert!(is_held(json!([])));
    }
}
