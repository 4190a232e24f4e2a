//! A push in a queue.

use std::sync::Arc;

use skytrail_schema::event::DeviceKind;
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::outbox::Waiting;
use super::room::Place;
use super::schedule::Addressed;
use super::sender::{Address, Payload};

/// Something for one device.
pub struct QueuedPush {
    /// The same at every attempt.
    pub id: Uuid,
    /// The device.
    pub device: DeviceId,
    /// Whom it is for: see [`Waiting::user`].
    pub user: Option<UserId>,
    /// When it was requested.
    pub since: Timestamp,
    /// The subscription that it is a notice of.
    pub subscription: Option<String>,
    /// Whether the outbox has it.
    pub is_kept: bool,
    /// Why the last attempt failed, since the start.
    pub failure: Option<String>,
    /// Where the device can be reached, if that was looked up just now.
    pub address: Option<Address>,
    /// What it gets.
    pub payload: Arc<Payload>,
    /// Its place in the queue.
    pub place: Place,
}

/// A subscription of a device.
pub(super) type NoticeKey = (DeviceId, String);

impl Addressed for QueuedPush {
    type User = Option<UserId>;

    fn user(&self) -> Option<UserId> {
        self.user.clone()
    }
}

impl QueuedPush {
    /// Builds one that was kept before the start.
    pub(super) fn resumed(waiting: Waiting, place: Place) -> Self {
        Self {
            id: waiting.id,
            device: waiting.device,
            user: waiting.user,
            since: waiting.since,
            subscription: waiting.subscription,
            is_kept: true,
            failure: None,
            address: None,
            payload: waiting.payload,
            place,
        }
    }

    /// Returns what it is a notice of.
    pub(super) fn notice_key(&self) -> Option<NoticeKey> {
        Some((self.device.clone(), self.subscription.clone()?))
    }

    /// Returns it as the outbox keeps it.
    pub(super) fn waiting(&self, kind: DeviceKind) -> Waiting {
        Waiting {
            id: self.id,
            device: self.device.clone(),
            user: self.user.clone(),
            kind,
            subscription: self.subscription.clone(),
            payload: Arc::clone(&self.payload),
            since: self.since,
        }
    }
}
