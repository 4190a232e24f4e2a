//! The push services, each a sender for [`skytrail_actors::push`].
//!
//! All are reached over HTTP/2 with one client library ([`client`]), and [`signer`] signs their
//! credentials. The senders differ in the credentials that each service expects and in how it
//! refuses.

pub(crate) mod apns;
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

/// Longer than any real option.
const MAX_HEADER: usize = 256;

/// Why a service cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A key or a certificate is invalid.
    #[error("push with {service}: {why}")]
    Key {
        /// The service.
        service: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client cannot be built.
    #[error("push with {service}: the client cannot be built: {why}")]
    Client {
        /// The service.
        service: &'static str,
        /// The reason.
        why: String,
    },
}

/// Opens the senders that are configured; nothing is connected yet.
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

/// A service's part of a notification, and the name it was found under.
type Named<'a> = (&'static str, &'a Map<String, Json>);

/// Finds a service's part of a notification under one of its names.
///
/// # Errors
/// 108 if it is not an object.
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

/// Returns a member of a service's part of a notification, if it is there.
///
/// # Errors
/// 108 if it is not an object.
fn object_in<'a>(
    (name, object): Named<'a>,
    member: &str,
) -> Result<Option<&'a Map<String, Json>>, ApiError> {
    match object.get(member) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(object)) => Ok(Some(object)),
        Some(_) => {
            let message = format!("notification.{name}.{member} is not an object");
            Err(ApiError::invalid_argument(message, &["notification"]))
        }
    }
}

/// The headers for the service, in addition to the content for the device.
type Options = Vec<(&'static str, String)>;

/// What a service accepts as the value of a header.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Anything.
    Text,
    /// A whole number that is not negative.
    Number,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// At most so many characters.
    AtMost(usize),
}

impl Form {
    /// Returns what is wrong with a value.
    fn fault_of(self, text: &str) -> Option<String> {
        let (fault, is_right) = match self {
            Self::Text => return None,
            Self::Number => {
                let is_number = text.parse::<u64>().is_ok() && !text.starts_with('+');
                ("is not a whole number".to_owned(), is_number)
            }
            Self::OneOf(known) => {
                let fault = format!("is not one of {}", known.join(", "));
                (fault, known.contains(&text))
            }
            Self::AtMost(most) => {
                let size = text.len();
                let fault = format!("has {size} characters, at most {most} are allowed");
                (fault, size <= most)
            }
        };
        (!is_right).then_some(fault)
    }
}

/// The headers of a service with which an app can control how a notification is handled, and the
/// member of the notification that contains them.
type Headers = (&'static str, &'static [(&'static str, Form)]);

/// Replaces and adds options from the member `name` of a notification, an object of strings and
/// numbers.
///
/// # Errors
/// 108 for an option that is not one of `known`, and for a value that no header can hold or that
/// the service would refuse.
fn with_headers(
    mut options: Options,
    notification: &Map<String, Json>,
    (name, known): Headers,
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
            .find(|(known, _)| known.eq_ignore_ascii_case(header));
        let Some((known_as, form)) = known_as else {
            let names = Vec::from_iter(known.iter().map(|(name, _)| *name));
            let names = names.join(", ");
            return Err(refused(&format!("{header} is not one of {names}")));
        };
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => {
                return Err(refused(&format!(
                    "{header} is neither a string nor a number"
                )));
            }
        };
        let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_plain || text.len() > MAX_HEADER {
            return Err(refused(&format!(
                "{header} must be at most {MAX_HEADER} printable ASCII characters"
            )));
        }
        if let Some(fault) = form.fault_of(&text) {
            return Err(refused(&format!("{header} {fault}")));
        }
        options.retain(|(given, _)| given != known_as);
        options.push((known_as, text));
    }
    Ok(options)
}

/// Encodes the content for a device.
///
/// # Errors
/// 108 if it is larger than the service accepts.
fn encode(name: &str, object: &Map<String, Json>, max: usize) -> Result<Vec<u8>, ApiError> {
    let content = serde_json::to_vec(object).unwrap_or_default();
    let size = content.len();
    if size > max {
        let message = format!("notification.{name} has {size} bytes, at most {max} are allowed");
        return Err(ApiError::invalid_argument(message, &["notification"]));
    }
    Ok(content)
}
