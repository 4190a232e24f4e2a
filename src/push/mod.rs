//! The push services, each a sender for [`skytrail_actors::push`].
//!
//! All are reached over HTTP/2 with one client library ([`client`]) and signed for
//! with [`signer`]. What differs is what each wants to be shown and how it says no.

mod apns;
mod client;
mod fcm;
pub(crate) mod signer;
pub mod web;

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use skytrail_actors::clock::Clock;
use skytrail_actors::push::PushSender;
use skytrail_schema::code::ApiError;

use crate::config;

/// More than any option has.
const MAX_HEADER: usize = 256;

/// Why a service cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A key or a certificate.
    #[error("push with {service}: {why}")]
    Key {
        /// The service.
        service: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client.
    #[error("push with {service}: the client cannot be built: {why}")]
    Client {
        /// The service.
        service: &'static str,
        /// Why.
        why: String,
    },
}

/// Opens the senders that are configured; nothing is connected to yet.
///
/// # Errors
/// See [`OpenError`].
pub fn open(
    config: &config::Push,
    web_key: &config::Secret,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Arc<dyn PushSender>>, OpenError> {
    let mut senders: Vec<Arc<dyn PushSender>> = Vec::new();
    if let Some(settings) = &config.apns {
        senders.push(Arc::new(apns::Apns::open(settings, Arc::clone(clock))?));
    }
    if let Some(settings) = &config.fcm {
        senders.push(Arc::new(fcm::Fcm::open(settings, Arc::clone(clock))?));
    }
    if let Some(settings) = &config.web {
        let sender = web::WebPush::open(settings, web_key, Arc::clone(clock))?;
        senders.push(Arc::new(sender));
    }
    Ok(senders)
}

/// What is for a service, and the name that it stands under.
type Named<'a> = (&'static str, &'a Map<String, Json>);

/// Finds what is for a service under one of its names.
///
/// # Errors
/// 108 for something other than an object.
fn payload_of<'a>(
    notification: &'a Map<String, Json>,
    names: &[&'static str],
) -> Result<Option<Named<'a>>, ApiError> {
    for name in names {
        match notification.get(*name) {
            None | Some(Json::Null) => {}
            Some(Json::Object(object)) => return Ok(Some((name, object))),
            Some(_) => {
                let message = format!("notification.{name} is not an object");
                return Err(ApiError::invalid_argument(message, &["notification"]));
            }
        }
    }
    Ok(None)
}

/// What the service is told beside what the device gets.
type Options = Vec<(&'static str, String)>;

/// Replaces and adds options by what stands in a notification under `name`, an object of texts and
/// numbers.
///
/// # Errors
/// 108 for an option that is not one of `known`, and for what no header can hold.
fn with_headers(
    mut options: Options,
    notification: &Map<String, Json>,
    (name, known): (&'static str, &[&'static str]),
) -> Result<Options, ApiError> {
    let refused = |what: &str| {
        let message = format!("notification.{name}: {what}");
        ApiError::invalid_argument(message, &["notification"])
    };
    let Some((_, headers)) = payload_of(notification, &[name])? else {
        return Ok(options);
    };
    for (header, value) in headers {
        let known_as = known
            .iter()
            .find(|known| known.eq_ignore_ascii_case(header));
        let Some(known_as) = known_as else {
            return Err(refused(&format!(
                "{header} is none of {}",
                known.join(", ")
            )));
        };
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => return Err(refused(&format!("{header} is neither text nor number"))),
        };
        let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_plain || text.len() > MAX_HEADER {
            return Err(refused(&format!(
                "{header} is not {MAX_HEADER} plain letters at most"
            )));
        }
        options.retain(|(given, _)| given != known_as);
        options.push((known_as, text));
    }
    Ok(options)
}

/// Encodes what a device gets.
///
/// # Errors
/// 108 for more than the service takes.
fn encode(name: &str, object: &Map<String, Json>, max: usize) -> Result<Vec<u8>, ApiError> {
    let content = serde_json::to_vec(object).unwrap_or_default();
    let size = content.len();
    if size > max {
        let message = format!("notification.{name} has {size} bytes, {max} at most");
        return Err(ApiError::invalid_argument(message, &["notification"]));
    }
    Ok(content)
}
