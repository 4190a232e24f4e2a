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
