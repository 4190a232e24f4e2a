//! Waking devices up when something that they subscribe to has changed.

use std::collections::HashMap;

use skytrail_schema::id::DeviceId;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

use super::handle::Push;
use crate::spawn::spawn_named;

/// How many notices can wait for their devices to be looked up.
const QUEUE: usize = 4096;
/// How many are looked up at once.
const BATCH_SIZE: usize = 256;

/// Where notices of subscriptions are handed in. It never makes the caller wait.
#[derive(Clone)]
pub struct NoticePush(Option<mpsc::Sender<Notice>>);

/// A subscription has matched.
pub(super) struct Notice {
    device: DeviceId,
    subscription: String,
    number: u64,
}

impl NoticePush {
    /// Builds both ends; without services, notices are dropped.
    pub(super) fn new(has_services: bool) -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(has_services.then_some(sender)), receiver)
    }

    /// Tells a device that a subscription has matched, if it can be told. If several notices of a
    /// subscription wait here or in the queue, only the last one is sent.
    pub fn notify(&self, device: &DeviceId, subscription: &str, number: u64) {
        let Some(sender) = &self.0 else { return };
        let notice = Notice {
            device: device.clone(),
            subscription: subscription.to_owned(),
            number,
        };
        // Nobody receives any more once the server stops.
        if let Err(TrySendError::Full(_)) = sender.try_send(notice) {
            tracing::warn!(%device, "a notice is not pushed: too many are waiting");
        }
    }
}

/// Passes notices on to the queues until the end.
pub(super) fn spawn(push: Push, mut coming: mpsc::Receiver<Notice>, ending: CancellationToken) {
    spawn_named("push notices", async move {
        let mut notices = Vec::new();
        loop {
            let received = coming.recv_many(&mut notices, BATCH_SIZE);
            match ending.run_until_cancelled(received).await {
                None | Some(0) => return,
                Some(_) => deliver(&push, notices.drain(..)).await,
            }
        }
    });
}

async fn deliver(push: &Push, notices: impl Iterator<Item = Notice>) {
    let numbers = notices.map(|notice| ((notice.device, notice.subscription), notice.number));
    let last: HashMap<_, _> = numbers.collect();
    let last = Vec::from_iter(last);
    let ids: Vec<DeviceId> = last.iter().map(|((device, _), _)| device.clone()).collect();
    let found = match push.devices().find_devices(&ids).await {
        Ok(found) => found,
        Err(error) => {
            let num_notices = last.len();
            tracing::warn!(%error, num_notices, "notices are not pushed");
            return;
        }
    };
    for (((device, subscription), number), found) in last.into_iter().zip(found) {
        // A device without an address hears of it over the hub only, and so does one whose service
        // is not configured.
        let Some(state) = found.filter(|state| state.token.is_some()) else {
            continue;
        };
        let payloads = push.notice(number, &subscription);
        if !payloads.reaches(state.kind) {
            continue;
        }
        let recipient = vec![(device, state)];
        if let Err(error) = push.post(recipient, &payloads, Some(&subscription)).await {
            tracing::warn!(%error, "a notice is not pushed");
        }
    }
}
