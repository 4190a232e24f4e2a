//! What was waiting when the server was stopped or killed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use skytrail_schema::event::DeviceKind;
use uuid::Uuid;

use super::outbox::{Outbox, Waiting};
use crate::spawn::spawn_named;

/// What is sent, by service; each has the oldest first.
pub(super) type Resumed = HashMap<DeviceKind, Vec<Waiting>>;

/// Sorts what was waiting by the services that there are now. The outbox forgets what is not sent.
pub(super) fn sort(
    waiting: Vec<Waiting>,
    has_service: impl Fn(DeviceKind) -> bool,
    outbox: &Arc<dyn Outbox>,
) -> Resumed {
    if waiting.is_empty() {
        return Resumed::new();
    }
    let (waiting, mut over) = last_notices(waiting);
    let mut resumed = Resumed::new();
    for push in waiting {
        resumed.entry(push.kind).or_default().push(push);
    }
    for (kind, without) in resumed.extract_if(|kind, _| !has_service(*kind)) {
        let (kind, num_pushes) = (kind.name(), without.len());
        tracing::warn!(kind, num_pushes, "pushes no longer have a service");
        over.extend(without.iter().map(|push| push.id));
    }
    let num_waiting = resumed.values().map(Vec::len).sum::<usize>();
    tracing::info!(num_waiting, "sending the pushes left from before the start");
    if !over.is_empty() {
        let outbox = Arc::clone(outbox);
        spawn_named("pushes from before", async move {
            if let Err(error) = outbox.forget_pushes(&over).await {
                tracing::warn!(%error, "pushes that are no longer sent could not be forgotten");
            }
        });
    }
    resumed
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
