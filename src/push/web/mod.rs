//! Browsers' push services, which all use one protocol: RFC 8030 for delivery, RFC 8291 for
//! encrypting the content ([`encrypt`]), RFC 8292 for identifying the sender ([`VapidKey`]).
//!
//! A browser chooses its service, so a device's address is a URL that a client has given to this
//! server. The server only sends to services on the list.

mod encrypt;
mod hosts;
mod subscription;
mod vapid;

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Map, Value as Json, json};
use skytrail_actors::clock::Clock;
use skytrail_actors::push::{Address, Payload, PushSender, SendError};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::DeviceKind;
use uuid::Uuid;

pub use hosts::Hosts;
pub use subscription::Subscription;
pub use vapid::VapidKey;

use super::{Form, Headers, OpenError, client, payload_of, with_headers};
use crate::config::{Secret, WebPushSettings};
use vapid::Vapid;

/// How long a service keeps a message that a browser does not fetch: four weeks, the longest that
/// any service allows.
const TIME_TO_LIVE: u32 = 28 * 24 * 60 * 60;

/// See RFC 8030.
const HEADERS: Headers = (
    "web_headers",
    &[
        ("TTL", Form::Number),
        (
            "Urgency",
            Form::OneOf(&["very-low", "low", "normal", "high"]),
        ),
        ("Topic", Form::AtMost(32)),
    ],
);

/// See the module's overview.
pub(super) struct WebPush {
    client: Client,
    vapid: Vapid,
    hosts: Hosts,
    clock: Arc<dyn Clock>,
}

impl WebPush {
    /// Opens the sender.
    pub(super) fn open(
        settings: &WebPushSettings,
        key: &Secret,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let service = "web";
        let key_error = |why| OpenError::Key { service, why };
        let key = VapidKey::parse(key.reveal()).map_err(key_error)?;
        let client = client::builder().https_only(true).build();
        Ok(Self {
            client: client.map_err(|error| OpenError::Client {
                service,
                why: error.to_string(),
            })?,
            vapid: Vapid::new(&key, settings.subject.clone()).map_err(key_error)?,
            hosts: settings.hosts.clone(),
            clock,
        })
    }
}

/// Returns the default options of a notification.
fn how() -> [(&'static str, String); 1] {
    [("TTL", TIME_TO_LIVE.to_string())]
}

#[async_trait]
impl PushSender for WebPush {
    fn name(&self) -> &'static str {
        "web"
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Web
    }

    fn prepare(&self, notification: &Map<String, Json>) -> Result<Option<Payload>, ApiError> {
        let Some((_, object)) = payload_of(notification, &["web"])? else {
            return Ok(None);
        };
        Ok(Some(Payload::new(
            super::encode("web", object, encrypt::MAX_CONTENT)?,
            with_headers(Vec::from(how()), notification, HEADERS)?,
        )))
    }

    fn notice(&self, number: u64, subscription: &str) -> Payload {
        let notice = json!({"seq-num": number, "subscription-id": subscription});
        Payload::new(
            json!({"_skygear": notice}).to_string().into_bytes(),
            Vec::from(how()),
        )
    }

    async fn send(
        &self,
        address: &Address,
        payload: &Arc<Payload>,
        id: Uuid,
    ) -> Result<(), SendError> {
        let unsendable = |why: String| SendError::Unsendable(why);
        let subscription = Subscription::parse(&address.token).map_err(unsendable)?;
        if !self.hosts.admit(&subscription.endpoint) {
            let service = hosts::place(&subscription.endpoint).unwrap_or_default();
            return Err(unsendable(format!(
                "its service {service} is not one of WEBPUSH_HOSTS"
            )));
        }
        let body = encrypt::encrypt(&payload.content, &subscription).map_err(unsendable)?;
        let now = self.clock.now();
        let authorization = self.vapid.authorization(&subscription.endpoint, now);
        let mut request = self
            .client
            .post(subscription.endpoint.clone())
            .header(AUTHORIZATION, authorization.map_err(unsendable)?)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_ENCODING, "aes128gcm")
            .body(body);
        for (name, value) in &payload.options {
            request = request.header(&**name, value);
        }
        // If two messages with the same topic wait at the service, the browser receives only one.
        // So a message that is sent twice arrives once.
        if !payload.options.iter().any(|(name, _)| name == "Topic") {
            request = request.header("Topic", id.simple().to_string());
        }
        // Each browser's service is one of many: none delays the others.
        let response = client::ask(request, now).await;
        let answer = response.map_err(|error| error.verdict(false))?;
        let said = String::from_utf8_lossy(&answer.body);
        match answer.status {
            200..300 => Ok(()),
            404 | 410 => Err(SendError::Gone {
                since: None,
                why: answer.words(&said),
            }),
            429 | 500.. => Err(answer.later(&said, false)),
            _ => Err(SendError::Refused(answer.words(&said))),
        }
    }
}
