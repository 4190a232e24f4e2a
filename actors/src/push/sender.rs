//! The port to a push service.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value as Json};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{DeviceKind, DeviceState};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

/// What is sent to every device of a service alike, in the service's own terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// What the device gets, as JSON.
    pub content: Vec<u8>,
    /// What the service is told in addition, by name.
    pub options: Vec<(Cow<'static, str>, String)>,
}

impl Payload {
    /// Builds one.
    pub fn new(content: Vec<u8>, options: Vec<(&'static str, String)>) -> Self {
        let options = options.into_iter();
        Self {
            content,
            options: options.map(|(name, value)| (name.into(), value)).collect(),
        }
    }
}

/// Where a device can be reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What the service knows the device by. It concerns nobody but the service.
    pub token: String,
    /// The app on the device, for services that distinguish apps.
    pub topic: Option<String>,
}

impl Address {
    /// Returns where a device can be reached; `None` if it cannot.
    pub(super) fn of(device: DeviceState) -> Option<Self> {
        Some(Self {
            token: device.token?,
            topic: device.topic,
        })
    }
}

/// Why something was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The address is no longer valid.
    #[error("the address is gone: {why}")]
    Gone {
        /// Since when, if the service says so.
        since: Option<Timestamp>,
        /// What the service said.
        why: String,
    },
    /// It cannot be sent now.
    #[error("not now: {why}")]
    Later {
        /// When to retry, if the service says so.
        wait: Option<Duration>,
        /// Whether that is true of everything that is sent to the service.
        holds_all: bool,
        /// What the service said, or what happened to the connection.
        why: String,
    },
    /// The service refused it, and would again.
    #[error("refused: {0}")]
    Refused(String),
    /// The service refused the address, and would again.
    #[error("the address is refused: {0}")]
    Misaddressed(String),
    /// It can never be sent, and the service was not asked: nothing is known of the service.
    #[error("not sent: {0}")]
    Unsendable(String),
}

/// A push service.
#[async_trait]
pub trait PushSender: Send + Sync + 'static {
    /// Returns the service's name, as it is used in figures and in the log.
    fn name(&self) -> &'static str;

    /// Returns the type of devices that it reaches.
    fn kind(&self) -> DeviceKind;

    /// Takes what is for this service out of a notification; `None` if there is nothing.
    ///
    /// # Errors
    /// 108 for what the service would refuse for any recipient.
    fn prepare(&self, notification: &Map<String, Json>) -> Result<Option<Payload>, ApiError>;

    /// Returns the setting that is probably wrong, judging by the service's answers.
    fn doubted_setting(&self) -> Option<&'static str> {
        None
    }

    /// Returns the payload that wakes up an app, invisibly, because a subscription matched.
    fn notice(&self, number: u64, subscription: &str) -> Payload;

    /// Sends one push. Answers in bounded time. A push that is sent again has the same `id`.
    ///
    /// # Errors
    /// See [`SendError`].
    async fn send(
        &self,
        address: &Address,
        payload: &Arc<Payload>,
        id: Uuid,
    ) -> Result<(), SendError>;
}
