//! A stand-in for Apple's service with the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::certificates::{self, APP};
use super::service::{Received, Reply, Service};

pub const TEAM: &str = "TEAM567890";
pub const KEY: &str = "KEY4567890";

/// The state of Apple's service.
#[derive(Default)]
pub struct Apple {
    /// Tokens that are no longer valid, and since when, in milliseconds.
    pub gone: Mutex<BTreeMap<String, i64>>,
    /// Tokens that Apple never issued.
    pub bad: Mutex<BTreeSet<String>>,
    /// Provider tokens that have expired by Apple's clock.
    pub expired: Mutex<BTreeSet<String>>,
}

pub fn refusal(status: u16, reason: &str) -> Reply {
    Reply::json(status, &json!({"reason": reason}))
}

pub fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "Apple has a clock of its own")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Apple {
    /// Answers as in Apple's reference.
    fn judge(&self, request: &Received) -> Reply {
        let Some(token) = request.path.strip_prefix("/3/device/") else {
            return refusal(404, "BadPath");
        };
        if request.method != "POST" {
            return refusal(405, "MethodNotAllowed");
        }
        if let Err(reply) = self.check_sender(request) {
            return reply;
        }
        match (
            request.header("apns-push-type"),
            request.header("apns-priority"),
        ) {
            (Some("alert"), Some("10" | "5")) | (Some("background"), Some("5")) => {}
            (Some("alert" | "background"), _) => return refusal(400, "BadPriority"),
            _ => return refusal(400, "InvalidPushType"),
        }
        if request.body.len() > 4096 {
            return refusal(413, "PayloadTooLarge");
        }
        if !request.json()["aps"].is_object() {
            return refusal(400, "PayloadEmpty");
        }
        if self.bad.lock().contains(token) {
            return refusal(400, "BadDeviceToken");
        }
        if let Some(since) = self.gone.lock().get(token) {
            let body = json!({"reason": "Unregistered", "timestamp": since});
            return Reply::json(410, &body);
        }
        Reply::status(200).with("apns-id", "A-B-C")
    }

    fn check_sender(&self, request: &Received) -> Result<(), Reply> {
        let topic = request.header("apns-topic");
        let topic = topic.ok_or_else(|| refusal(400, "MissingTopic"))?;
        if topic != APP {
            return Err(refusal(400, "DeviceTokenNotForTopic"));
        }
        if request.has_certificate {
            return Ok(());
        }
        let shown = request.header("authorization");
        let shown = shown.and_then(|it| it.strip_prefix("bearer "));
        let token = shown.ok_or_else(|| refusal(403, "MissingProviderToken"))?;
        let invalid = |_| refusal(403, "InvalidProviderToken");
        let key = certificates::text("team.pub");
        let key = DecodingKey::from_ec_pem(key.as_bytes()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_required_spec_claims(&["iss"]);
        validation.set_issuer(&[TEAM]);
        validation.validate_exp = false;
        let claims = decode::<Json>(token, &key, &validation)
            .map_err(invalid)?
            .claims;
        let header = decode_header(token).map_err(invalid)?;
        let age = now().abs_diff(claims["iat"].as_u64().unwrap_or(0));
        if header.kid.as_deref() != Some(KEY) {
            return Err(refusal(403, "InvalidProviderToken"));
        }
        if age > 3600 || self.expired.lock().contains(token) {
            return Err(refusal(403, "ExpiredProviderToken"));
        }
        Ok(())
    }
}

pub fn apple() -> (Arc<Apple>, Service) {
    let apple = Arc::<Apple>::default();
    let judge = Arc::clone(&apple);
    (apple, Service::start(move |request| judge.judge(request)))
}
