//! What was waiting when the server was stopped or killed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::{MAX_AGE, Push, QUEUE_TIMEOUT};
use super::outbox::Waiting;
use super::queue::NoteExpired;
use super::queued::QueuedPush;
use crate::spawn::spawn_named;

/// Passes what was waiting on to the queues, until the end. Each push takes room there like any
/// other. The queue looks up where its device can be reached.
pub(super) fn spawn(push: Push, waiting: Vec<Waiting>, ending: CancellationToken) {
    if waiting.is_empty() {
        return;
    }
    let num_waiting = waiting.len();
    tracing::info!(num_waiting, "sending the pushes left from before the start");
    spawn_named("pushes from before", async move {
        ending.run_until_cancelled(resume(&push, waiting)).await;
    });
}

async fn resume(push: &Push, waiting: Vec<Waiting>) {
    let (waiting, mut over) = last_notices(waiting);
    for waiting in waiting {
        let Some(service) = push.service(waiting.kind) else {
            let kind = waiting.kind.name();
            tracing::warn!(device = %waiting.device, kind, "a push no longer has a service");
            over.push(waiting.id);
            continue;
        };
        let now = push.clock().now().micros();
        let age = now.saturating_sub(waiting.since.micros());
        if Duration::from_micros(u64::try_from(age).unwrap_or(0)) > MAX_AGE {
            over.push(waiting.id);
            let _ = tokio::time::timeout(QUEUE_TIMEOUT, service.queue.send(NoteExpired(1))).await;
            continue;
        }
        let Ok(permit) = Arc::clone(&service.room).acquire_owned().await else {
            return;
        };
        let device = waiting.device.clone();
        let push = QueuedPush {
            id: waiting.id,
            device: waiting.device,
            user: waiting.user,
            since: waiting.since,
            subscription: waiting.subscription,
            is_kept: true,
            failure: None,
            address: None,
            payload: waiting.payload,
            permit,
        };
        if !service.take(vec![push]).await {
            tracing::warn!(%device, "a push waits for the next start");
        }
    }
    if !over.is_empty()
        && let Err(error) = push.outbox().forget_pushes(&over).await
    {
        tracing::warn!(%error, "pushes that are no longer sent could not be forgotten");
    }
}

/// Leaves out notices of a subscription that has a later one: a crash can leave both, if it comes
/// between keeping the one and forgetting the other. Returns the ids of these, too.
fn last_notices(mut waiting: Vec<Waiting>) -> (Vec<Waiting>, Vec<Uuid>) {
    let mut seen = HashSet::new();
    let mut over = Vec::new();
    waiting.reverse();
    waiting.retain(|push| {
        let notice = push.subscription.clone();
        let is_last = notice.is_none_or(|notice| seen.insert((push.device.clone(), notice)));
        if !is_last {
            over.push(push.id);
        }
        is_last
    });
    waiting.reverse();
    (waiting, over)
}
