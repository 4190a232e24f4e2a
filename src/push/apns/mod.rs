//! Apple's push service (APNs), over its HTTP/2 interface.
//!
//! The server authenticates with a certificate, whose subject names the app, or with a token signed
//! by a key of the team; with a token each device's topic names the app.

pub(crate) mod address;
mod environment;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Identity};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use skytrail_actors::clock::Clock;
use skytrail_actors::push::{Address, Payload, PushSender, SendError};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::DeviceKind;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use self::address::{check_topic, is_apples};
use self::environment::Environment;
use super::client::{self, Answer};
use super::signer::{Signer, seconds};
use super::{Form, Headers, OpenError, object_in, payload_of, with_headers};
use crate::config::{ApnsAuth, ApnsSettings};

/// Apple refuses larger payloads.
const MAX_PAYLOAD: usize = 4096;
/// The longest collapse id; a later notification replaces an earlier one with the same id.
const MAX_COLLAPSE: usize = 64;
/// Apple adds push types now and then.
const HEADERS: Headers = (
    "apns_headers",
    &[
        ("apns-push-type", Form::Text),
        ("apns-priority", Form::OneOf(&["1", "5", "10"])),
        ("apns-expiration", Form::Number),
        ("apns-collapse-id", Form::AtMost(MAX_COLLAPSE)),
    ],
);
/// Apple accepts tokens for an hour, and a new one at most every 20 minutes.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 60);

/// See the module's overview.
pub(super) struct Apns {
    client: Client,
    endpoint: String,
    identity: Proof,
    environment: Environment,
    clock: Arc<dyn Clock>,
}

/// How the sender authenticates to the service.
enum Proof {
    Certificate { topic: String },
    Token(Box<ProviderToken>),
}

impl Proof {
    /// Records that Apple has accepted a message for a topic.
    fn note_taken(&self, topic: &str) {
        if let Self::Token(token) = self {
            let mut topics = token.topics.lock();
            if !topics.contains(topic) {
                topics.insert(topic.to_owned());
            }
        }
    }

    /// Returns whether a refusal of the sender affects all messages.
    ///
    /// If Apple accepts other topics, a refusal for a topic that it never accepted affects only
    /// that topic: anyone can register a device with another team's topic.
    fn is_refused_for_all(&self, topic: &str) -> bool {
        match self {
            Self::Certificate { .. } => true,
            Self::Token(token) => {
                let topics = token.topics.lock();
                topics.is_empty() || topics.contains(topic)
            }
        }
    }
}

/// The credentials that are put into a request.
struct Shown {
    topic: String,
    token: Option<Arc<str>>,
}

impl Apns {
    /// Opens the sender.
    pub(super) fn open(settings: &ApnsSettings, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let service = "apns";
        let key_error = |why: String| OpenError::Key { service, why };
        let mut builder = client::builder()
            .http2_prior_knowledge()
            // Apple wants connections to stay open.
            .pool_idle_timeout(None)
            .tcp_keepalive(settings.keepalive);
        let identity = match &settings.auth {
            ApnsAuth::Certificate { pem, key, topic } => {
                let both = format!("{pem}\n{}", key.reveal());
                let identity = Identity::from_pem(both.as_bytes());
                let identity = identity.map_err(|error| key_error(error.to_string()))?;
                builder = builder.identity(identity);
                let topic = topic.clone();
                Proof::Certificate { topic }
            }
            ApnsAuth::Token { team, key_id, key } => {
                let signer = Signer::elliptic(key.reveal(), Some(key_id)).map_err(key_error)?;
                Proof::Token(Box::new(ProviderToken::new(signer, team.clone())))
            }
        };
        let client = builder.build().map_err(|error| OpenError::Client {
            service,
            why: error.to_string(),
        })?;
        Ok(Self {
            client,
            endpoint: settings.endpoint.clone(),
            identity,
            environment: Environment::default(),
            clock,
        })
    }

    fn shown(&self, address: &Address) -> Result<Shown, SendError> {
        match &self.identity {
            Proof::Certificate { topic } => Ok(Shown {
                topic: topic.clone(),
                token: None,
            }),
            Proof::Token(token) => {
                let no_topic = || SendError::Unsendable("the device has no topic".to_owned());
                let topic = address.topic.clone().ok_or_else(no_topic)?;
                let unsendable = |why| SendError::Unsendable(format!("its topic: {why}"));
                check_topic(&topic).map_err(unsendable)?;
                Ok(Shown {
                    topic,
                    token: Some(token.current(self.clock.now())?),
                })
            }
        }
    }

    /// Returns what a refusal means for a push.
    fn verdict(&self, refusal: &Refusal, answer: &Answer, topic: &str) -> SendError {
        let (reason, identity) = (refusal.reason.as_str(), &self.identity);
        let gone = || SendError::Gone {
            since: refusal.since(),
            why: answer.words(reason),
        };
        match (answer.status, reason) {
            (410, _) => gone(),
            (400, "BadDeviceToken") if self.environment.has_known() => gone(),
            // Too many for this one device.
            (429, "TooManyRequests") => answer.later(reason, false),
            (429 | 500.., _) => answer.later(reason, true),
            // The sender itself is refused: a person must fix that, and the waiting messages are
            // sent afterwards.
            (403, _) => answer.later(reason, identity.is_refused_for_all(topic)),
            // A certificate has its own topic. With a token, each device supplies the topic, and a
            // wrong one concerns that device alone.
            (400, "TopicDisallowed") if matches!(identity, Proof::Certificate { .. }) => {
                answer.later(reason, true)
            }
            (400, "BadDeviceToken" | "TopicDisallowed" | "BadTopic" | "DeviceTokenNotForTopic") => {
                SendError::Misaddressed(answer.words(reason))
            }
            _ => SendError::Refused(answer.words(reason)),
        }
    }

    async fn post(
        &self,
        (address, payload, id): (&Address, &Payload, Uuid),
        shown: &Shown,
    ) -> Result<Answer, SendError> {
        let url = format!("{}/3/device/{}", self.endpoint, address.token);
        let mut request = self
            .client
            .post(url)
            .header("apns-topic", &shown.topic)
            .header("apns-id", id.to_string())
            .body(payload.content.clone());
        for (name, value) in &payload.options {
            request = request.header(&**name, value);
        }
        if let Some(token) = &shown.token {
            request = request.header(AUTHORIZATION, format!("bearer {token}"));
        }
        let response = client::ask(request, self.clock.now()).await;
        response.map_err(|error| error.verdict(true))
    }
}

#[async_trait]
impl PushSender for Apns {
    fn name(&self) -> &'static str {
        "apns"
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Ios
    }

    fn prepare(&self, notification: &Map<String, Json>) -> Result<Option<Payload>, ApiError> {
        let Some((name, object)) = payload_of(notification, &["apns"])? else {
            return Ok(None);
        };
        object_in((name, object), "aps")?;
        let content = super::encode(name, object, MAX_PAYLOAD)?;
        let options = how(object.get("aps").unwrap_or(&Json::Null)).to_vec();
        let options = with_headers(options, notification, HEADERS)?;
        Ok(Some(Payload::new(content, options)))
    }

    fn doubted_setting(&self) -> Option<&'static str> {
        self.environment.is_doubted().then_some("APNS_ENV")
    }

    fn notice(&self, number: u64, subscription: &str) -> Payload {
        let aps = json!({"content-available": 1});
        let mut options = how(&aps).to_vec();
        // A device that was offline needs only the last one.
        if subscription.len() <= MAX_COLLAPSE
            && subscription.bytes().all(|it| it.is_ascii_graphic())
        {
            options.push(("apns-collapse-id", subscription.to_owned()));
        }
        let notice = json!({"seq-num": number, "subscription-id": subscription});
        // v1's server documents the first name, and its iOS SDK reads the second.
        let notice = json!({"aps": aps, "_skygear": notice, "_ourd": notice});
        Payload::new(notice.to_string().into_bytes(), options)
    }

    async fn send(
        &self,
        address: &Address,
        payload: &Arc<Payload>,
        id: Uuid,
    ) -> Result<(), SendError> {
        if !is_apples(&address.token) {
            let why = "its token is not one of Apple's".to_owned();
            return Err(SendError::Unsendable(why));
        }
        let shown = self.shown(address)?;
        let mut answer = self.post((address, payload, id), &shown).await?;
        let mut refusal = Refusal::of(&answer);
        // Only Apple's clock decides when a token is too old.
        if let (Proof::Token(provider), Some(token)) = (&self.identity, &shown.token)
            && refusal.as_ref().is_some_and(Refusal::is_of_old_token)
        {
            provider.forget(token);
            let shown = self.shown(address)?;
            answer = self.post((address, payload, id), &shown).await?;
            refusal = Refusal::of(&answer);
        }
        let reason = refusal.as_ref().map_or("", |refusal| &refusal.reason);
        self.environment.note(answer.status, reason);
        let Some(refusal) = refusal else {
            self.identity.note_taken(&shown.topic);
            return Ok(());
        };
        Err(self.verdict(&refusal, &answer, &shown.topic))
    }
}

/// Returns how a notification is sent, depending on its content: one that only wakes the app up
/// must not be marked as urgent.
fn how(aps: &Json) -> [(&'static str, String); 2] {
    let member = |name: &str| aps.get(name).filter(|value| !value.is_null());
    let is_seen = ["alert", "badge", "sound"]
        .iter()
        .any(|name| member(name).is_some());
    let is_silent = !is_seen && member("content-available").is_some_and(|value| *value == 1);
    let (push_type, priority) = if is_silent {
        ("background", "5")
    } else {
        ("alert", "10")
    };
    [
        ("apns-push-type", push_type.to_owned()),
        ("apns-priority", priority.to_owned()),
    ]
}

/// Apple's reason for not accepting a message.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    reason: String,
    /// Since when the device has been gone, in milliseconds.
    #[serde(default)]
    timestamp: Option<i64>,
}

impl Refusal {
    fn of(answer: &Answer) -> Option<Self> {
        if answer.status == 200 {
            return None;
        }
        Some(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    fn is_of_old_token(&self) -> bool {
        self.reason == "ExpiredProviderToken"
    }

    /// Returns since when the device has been gone, if Apple says so.
    fn since(&self) -> Option<Timestamp> {
        let micros = self.timestamp?.saturating_mul(1000);
        Some(Timestamp::from_micros(micros))
    }
}

/// The token that authenticates the sender, signed again when it gets old.
struct ProviderToken {
    signer: Signer,
    team: String,
    current: Mutex<Option<(Arc<str>, Timestamp)>>,
    /// The topics for which Apple has accepted messages: the team's own.
    topics: Mutex<BTreeSet<String>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
}

impl ProviderToken {
    fn new(signer: Signer, team: String) -> Self {
        Self {
            signer,
            team,
            current: Mutex::new(None),
            topics: Mutex::default(),
        }
    }

    fn current(&self, now: Timestamp) -> Result<Arc<str>, SendError> {
        let mut current = self.current.lock();
        if let Some((token, since)) = &*current {
            let age = now.micros().saturating_sub(since.micros());
            if (0..TOKEN_LIFE.as_micros().cast_signed()).contains(&age.into()) {
                return Ok(Arc::clone(token));
            }
        }
        let claims = Claims {
            iss: &self.team,
            iat: seconds(now),
        };
        let token = self.signer.sign(&claims);
        let token = token.map_err(|error| client::unreachable(error.to_string(), true))?;
        let token: Arc<str> = token.into();
        *current = Some((Arc::clone(&token), now));
        Ok(token)
    }

    /// Discards a token, unless it has been replaced already.
    fn forget(&self, token: &Arc<str>) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|(known, _)| known == token) {
            *current = None;
        }
    }
}
