//! What waited when the server was stopped or killed.

use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::event::DeviceState;
use tokio_util::sync::CancellationToken;

use super::front::{MAX_AGE, PATIENCE, Push};
use super::outbox::Waiting;
use super::queue::{Letter, NoteExpired};
use super::sender::Address;
use crate::spawn::spawn_named;

/// So many devices are looked up at once.
const AT_ONCE: usize = 256;
/// The pause when devices cannot be looked up.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes what waited to the queues, until the end; each has a seat there as any other.
pub(super) fn spawn(push: Push, waiting: Vec<Waiting>, ending: CancellationToken) {
    if waiting.is_empty() {
        return;
    }
    let num_waiting = waiting.len();
    tracing::info!(num_waiting, "pushes from before the start are sent");
    spawn_named("pushes from before", async move {
        for page in waiting.chunks(AT_ONCE) {
            if ending
                .run_until_cancelled(resume(&push, page))
                .await
                .is_none()
            {
                return;
            }
        }
    });
}

async fn resume(push: &Push, page: &[Waiting]) {
    let ids: Vec<_> = page.iter().map(|it| it.device.clone()).collect();
    let devices = loop {
        match push.devices().find_devices(&ids).await {
            Ok(devices) => break devices,
            Err(error) => tracing::warn!(%error, "devices cannot be looked up yet"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    let mut over = Vec::new();
    for (waiting, device) in page.iter().zip(devices) {
        let Some(service) = push.service(waiting.kind) else {
            let kind = waiting.kind.name();
            tracing::warn!(device = %waiting.device, kind, "no service for a push any more");
            over.push(waiting.id);
            continue;
        };
        let age = push.clock().now().micros() - waiting.since.micros();
        let is_old = u128::try_from(age).unwrap_or(0) > MAX_AGE.as_micros();
        let address = device.filter(|device| !is_old && device.kind == waiting.kind);
        let Some(address) = address.and_then(address_of) else {
            over.push(waiting.id);
            let _ = tokio::time::timeout(PATIENCE, service.queue.send(NoteExpired(1))).await;
            continue;
        };
        let Ok(seat) = Arc::clone(&service.seats).acquire_owned().await else {
            return;
        };
        let letter = Letter {
            id: waiting.id,
            device: waiting.device.clone(),
            since: waiting.since,
            is_kept: true,
            address,
            payload: Arc::new(waiting.payload.clone()),
            seat,
        };
        if !service.take(vec![letter]).await {
            tracing::warn!(device = %waiting.device, "a push waits for the next start");
        }
    }
    if !over.is_empty()
        && let Err(error) = push.outbox().forget_pushes(&over).await
    {
        tracing::warn!(%error, "pushes that are not sent any more are not forgotten");
    }
}

/// Returns where a device is reached now.
fn address_of(device: DeviceState) -> Option<Address> {
    Some(Address {
        token: device.token?,
        topic: device.topic,
    })
}
