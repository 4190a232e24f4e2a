//! One attempt to send a letter.

use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::time::Timestamp;
use tokio::time::timeout;
use uuid::Uuid;

use super::sender::{Address, Payload, PushSender, SendError};
use crate::device::service::DeviceService;

/// How long forgetting a device may take.
const FORGET_DEADLINE: Duration = Duration::from_secs(10);
/// How long a sender may take; they keep to less by themselves.
const SEND_DEADLINE: Duration = Duration::from_secs(60);

/// What became of an attempt.
pub(super) enum Ending {
    Sent,
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
}

/// Makes one attempt, and forgets the device if it is gone.
pub(super) async fn deliver(
    sender: Arc<dyn PushSender>,
    devices: Arc<dyn DeviceService>,
    (address, payload, id): (Address, Arc<Payload>, Uuid),
    sent_at: Timestamp,
) -> Ending {
    let sent = timeout(SEND_DEADLINE, sender.send(&address, &payload, id)).await;
    let (since, why) = match sent {
        Ok(Ok(())) => return Ending::Sent,
        Ok(Err(SendError::Refused(why))) => return Ending::Refused(why),
        Ok(Err(SendError::Later {
            wait,
            holds_all,
            why,
        })) => {
            return Ending::Later {
                wait,
                holds_all,
                why,
            };
        }
        Err(_) => {
            return Ending::Later {
                wait: None,
                holds_all: true,
                why: "no answer in time".to_owned(),
            };
        }
        Ok(Err(SendError::Gone { since, why })) => (since, why),
    };
    // Who registers again while the service is asked is there.
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
    Ending::Gone {
        num_forgotten: num_forgotten as u64,
        why,
    }
}
