//! One attempt to send a push.

use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::event::{DeviceKind, DeviceState};
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;
use tokio::time::timeout;
use uuid::Uuid;

use super::sender::{Address, Payload, PushSender, SendError};
use crate::device::directory::DeviceDirectory;

/// How long it can take to look up a device.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);
/// How long it can take to forget a device.
const FORGET_DEADLINE: Duration = Duration::from_secs(10);
/// How long a sender can take; senders have shorter limits of their own.
const SEND_DEADLINE: Duration = Duration::from_secs(60);

/// What is sent, and to which device.
pub(super) struct Outgoing {
    pub(super) id: Uuid,
    pub(super) device: DeviceId,
    pub(super) user: Option<UserId>,
    /// `None` if it has to be looked up.
    pub(super) address: Option<Address>,
    pub(super) payload: Arc<Payload>,
}

/// The outcome of an attempt.
pub(super) enum PushOutcome {
    Sent,
    /// The device is gone or belongs to another user: the recipient is no longer there.
    Unwanted,
    Gone {
        num_forgotten: u64,
        why: String,
    },
    Later {
        wait: Option<Duration>,
        holds_all: bool,
        why: String,
    },
    Refused(String),
    Misaddressed(String),
    Unsendable(String),
}

/// Makes one attempt, and forgets the device if it is gone.
pub(super) async fn deliver(
    sender: Arc<dyn PushSender>,
    devices: Arc<dyn DeviceDirectory>,
    outgoing: Outgoing,
    sent_at: Timestamp,
) -> PushOutcome {
    let address = match &outgoing.address {
        Some(address) => address.clone(),
        None => match look_up(&*devices, &outgoing, sender.kind()).await {
            Ok(Some(address)) => address,
            Ok(None) => return PushOutcome::Unwanted,
            Err(why) => {
                return PushOutcome::Later {
                    wait: None,
                    holds_all: true,
                    why: format!("the device cannot be looked up: {why}"),
                };
            }
        },
    };
    let send = sender.send(&address, &outgoing.payload, outgoing.id);
    let sent = timeout(SEND_DEADLINE, send).await;
    let (since, why) = match sent {
        Ok(Ok(())) => return PushOutcome::Sent,
        Ok(Err(SendError::Refused(why))) => return PushOutcome::Refused(why),
        Ok(Err(SendError::Misaddressed(why))) => return PushOutcome::Misaddressed(why),
        Ok(Err(SendError::Unsendable(why))) => return PushOutcome::Unsendable(why),
        Ok(Err(SendError::Later {
            wait,
            holds_all,
            why,
        })) => {
            return PushOutcome::Later {
                wait,
                holds_all,
                why,
            };
        }
        Err(_) => {
            return PushOutcome::Later {
                wait: None,
                holds_all: true,
                why: "no answer in time".to_owned(),
            };
        }
        Ok(Err(SendError::Gone { since, why })) => (since, why),
    };
    // A device that registers again while the service is asked is not gone.
    let before = since.unwrap_or(sent_at);
    let forget = devices.forget_address(&address.token, before);
    let num_forgotten = match timeout(FORGET_DEADLINE, forget).await {
        Ok(Ok(num_forgotten)) => num_forgotten,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a device that is gone could not be forgotten");
            0
        }
        Err(_) => {
            tracing::warn!("a device that is gone could not be forgotten in time");
            0
        }
    };
    PushOutcome::Gone {
        num_forgotten: num_forgotten as u64,
        why,
    }
}

/// Finds where a device can be reached now, if this service still reaches it and this user still
/// has it.
async fn look_up(
    devices: &dyn DeviceDirectory,
    outgoing: &Outgoing,
    kind: DeviceKind,
) -> Result<Option<Address>, String> {
    let find = devices.find_devices(std::slice::from_ref(&outgoing.device));
    let found = timeout(LOOK_DEADLINE, find).await;
    let found = found.map_err(|_| "no answer in time".to_owned())?;
    let found = found.map_err(|error| error.to_string())?;
    let is_meant = |device: &DeviceState| {
        let belongs_to_user = outgoing.user.is_none() || device.user == outgoing.user;
        device.kind == kind && belongs_to_user
    };
    let device = found.into_iter().next().flatten().filter(is_meant);
    Ok(device.and_then(Address::of))
}
