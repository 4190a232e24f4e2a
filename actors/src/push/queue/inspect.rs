//! Looking at what waits in a queue, giving it up, and having it tried now.

use std::collections::BTreeSet;
use std::time::Instant;

use actix::{Handler, Message};
use serde::Serialize;
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::PushQueue;
use crate::push::queued::QueuedPush;
use crate::push::state::PushState;

/// Selects pushes that wait; a member that is missing, or an empty set, stands for all.
#[derive(Clone, Debug, Default)]
pub struct PushSelection {
    /// The user they are for.
    pub user: Option<UserId>,
    /// The device they are for.
    pub device: Option<DeviceId>,
    /// Their ids.
    pub ids: BTreeSet<Uuid>,
}

/// A push that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedPush {
    /// Its id, the same at every attempt.
    pub id: Uuid,
    /// The service.
    pub service: &'static str,
    /// The device.
    pub device: DeviceId,
    /// Who used the device when the push was requested.
    pub user: Option<UserId>,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// The subscription that it is a notice of.
    pub subscription: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub failure: Option<String>,
    /// When it is tried again at the earliest; `None` if it was not tried yet.
    pub next_attempt_at: Option<Timestamp>,
    /// What the device gets.
    pub content: String,
}

/// Lists pushes that wait, the oldest first: a part of them, after one of them.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Option<Vec<ListedPush>>")]
pub struct ListPushes {
    /// Which.
    pub selection: PushSelection,
    /// Only those whose ids come after this one.
    pub after: Option<Uuid>,
    /// How many at most.
    pub limit: usize,
}

/// Gives up pushes that wait. What is in flight goes on, and is not tried again.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Option<Withdrawn>")]
pub struct WithdrawPushes(pub PushSelection);

/// What was given up.
#[derive(Debug, Default)]
pub struct Withdrawn {
    /// How many pushes waited.
    pub num_waiting: usize,
    /// The ids of all pushes that the outbox must not have any more.
    pub ids: Vec<Uuid>,
}

/// Has everything that waits for another attempt tried now, also if the service has failed: that is
/// asked with one push first, as always. Replies with the queue's state.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<PushState>")]
pub struct RetryPushes;

impl PushSelection {
    fn has(&self, push: &QueuedPush) -> bool {
        let is_of_user = |user| push.user.as_ref() == Some(user);
        self.user.as_ref().is_none_or(is_of_user)
            && self.device.as_ref().is_none_or(|it| *it == push.device)
            && (self.ids.is_empty() || self.ids.contains(&push.id))
    }
}

impl PushQueue {
    fn list(&self, message: &ListPushes) -> Vec<ListedPush> {
        let is_wanted = |push: &QueuedPush| {
            message.after.is_none_or(|after| push.id > after) && message.selection.has(push)
        };
        let tried = self
            .schedule
            .entries()
            .map(|entry| (&entry.push, Some(entry)));
        let followers = self.notices.values().filter_map(|it| it.next.as_ref());
        let waiting = tried.chain(followers.map(|push| (push, None)));
        let mut waiting: Vec<_> = waiting.filter(|(push, _)| is_wanted(push)).collect();
        waiting.sort_unstable_by_key(|(push, _)| push.id);
        waiting.truncate(message.limit);
        let now = (Instant::now(), self.clock.now());
        let listed = waiting.into_iter().map(|(push, entry)| {
            let next = entry.and_then(|entry| self.schedule.next_attempt(entry));
            ListedPush {
                id: push.id,
                service: self.state.service,
                device: push.device.clone(),
                user: push.user.clone(),
                requested_at: push.since,
                subscription: push.subscription.clone(),
                attempts: entry.map(|entry| entry.num_attempts).unwrap_or_default(),
                failure: push.failure.clone(),
                next_attempt_at: next.map(|at| time_of(at, now)),
                content: String::from_utf8_lossy(&push.payload.content).into_owned(),
            }
        });
        listed.collect()
    }

    fn withdraw(&mut self, selection: &PushSelection) -> Withdrawn {
        let withdrawn = self.schedule.withdraw(|push| selection.has(push));
        for push in &withdrawn {
            self.forget(push);
        }
        let mut ids: Vec<Uuid> = withdrawn.into_iter().map(|push| push.id).collect();
        for notice in self.notices.values_mut() {
            let follower = notice.next.take_if(|push| selection.has(push));
            ids.extend(follower.map(|push| push.id));
        }
        let num_waiting = ids.len();
        self.state.num_withdrawn += num_waiting as u64;
        for entry in self.in_flight.values_mut() {
            if selection.has(&entry.push) {
                entry.is_last = true;
                if std::mem::take(&mut entry.push.is_kept) {
                    self.notes.forget(entry.push.id);
                    ids.push(entry.push.id);
                }
            }
        }
        Withdrawn { num_waiting, ids }
    }
}

impl Handler<ListPushes> for PushQueue {
    type Result = Option<Vec<ListedPush>>;

    fn handle(&mut self, message: ListPushes, _: &mut Self::Context) -> Self::Result {
        Some(self.list(&message))
    }
}

impl Handler<WithdrawPushes> for PushQueue {
    type Result = Option<Withdrawn>;

    fn handle(&mut self, message: WithdrawPushes, ctx: &mut Self::Context) -> Self::Result {
        let withdrawn = self.withdraw(&message.0);
        let (service, num_pushes) = (self.state.service, withdrawn.num_waiting);
        tracing::warn!(
            service,
            num_pushes,
            "pushes are not sent: they were withdrawn"
        );
        self.pump(ctx);
        Some(withdrawn)
    }
}

impl Handler<RetryPushes> for PushQueue {
    type Result = Option<PushState>;

    fn handle(&mut self, _: RetryPushes, ctx: &mut Self::Context) -> Self::Result {
        self.schedule.retry_now(Instant::now());
        self.pump(ctx);
        Some(self.state())
    }
}

/// Returns when a moment is, given what time it is now by both clocks.
fn time_of(at: Instant, (now, time): (Instant, Timestamp)) -> Timestamp {
    let ahead = at.saturating_duration_since(now).as_micros();
    let ahead = i64::try_from(ahead).unwrap_or(i64::MAX);
    Timestamp::from_micros(time.micros().saturating_add(ahead))
}
