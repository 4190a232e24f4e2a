//! A consumer's loop: reads the log, starts attempts, handles their results, saves its position.
//!
//! Everything that it waits for comes together in one place ([`DeliveryLoop::await_something`]), so
//! only the attempts themselves run concurrently. Files: `read` (the registration, and pages of the
//! log), `attempt` (one delivery, from its content to the consequences of its end), `orders`
//! (operators' orders), `save` (what is saved durably), `due` (what events require).

mod attempt;
mod due;
mod orders;
mod read;
mod save;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use skytrail_schema::code::ApiError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::actor::Shown;
use super::announced::{AnnouncedCommit, HookResult};
use super::messages::{Command, ConsumerState, Retry};
use super::parts::{ConsumerParts, Recipient};
use super::schedule::{Moment, Schedule, TaskId};
use super::store::{ConsumerCheckpoint, DeadLetterId};
use crate::plugin::errors::{Unavailable, unavailable};
use crate::plugin::{ExtensionPoints, Presence, Via, WorkerId};
use attempt::Ended;
use save::Unsaved;

/// The pause after a failure of the log or a store.
const PAUSE: Duration = Duration::from_secs(1);

/// How many requests are remembered for deliveries that nothing waits for.
const MAX_REQUESTS: usize = 1024;

/// How many deliveries that are being retried are shown.
const MAX_RETRIES: usize = 20;

/// The promise to deliver to hooks.
type Promises = watch::Sender<Arc<BTreeSet<String>>>;

/// See the module.
pub(super) struct DeliveryLoop {
    parts: Arc<ConsumerParts>,
    commands: mpsc::Receiver<Command>,
    promises: Promises,
    shown: Arc<Shown>,
    changes: watch::Receiver<()>,
    begun: Instant,
    /// The stored state apart from the cursor, which the schedule has.
    checkpoint: ConsumerCheckpoint,
    /// Whether the plugin had no checkpoint.
    is_new: bool,
    schedule: Schedule,
    points: Arc<ExtensionPoints>,
    presence: Presence,
    /// Since when no worker has been connected, or the plugin could not be reached.
    absent_since: Option<Instant>,
    /// Whether the plugin has served clients.
    has_served: bool,
    /// Whether catching up has begun since the plugin became ready.
    has_begun_catch_up: bool,
    /// The worker that last said where deliveries start.
    starter: Option<WorkerId>,
    /// Whether delivery to the last registered hooks is promised durably.
    has_promised: bool,
    attempts: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Tells attempts that somebody waits for what is queued after them.
    urgencies: HashMap<TaskId, watch::Sender<Vec<Via>>>,
    /// Each ends when it is the turn of an event's synchronous hooks.
    turns: FuturesUnordered<BoxFuture<'static, u64>>,
    /// The requests behind the events being delivered, by position.
    requests: HashMap<u64, EventRequest>,
    /// Deliveries that have failed and are not done.
    retries: BTreeMap<DeadLetterId, Arc<Retry>>,
    /// Grows with each rewind: earlier attempts no longer matter.
    epoch: u64,
    unsaved: Unsaved,
    /// How many times in a row a delivery did not reach the plugin, and until when none is tried.
    num_unready: u32,
    held_until: Option<Instant>,
    /// Until then, the log is not read and no promise is saved.
    not_before: Option<Instant>,
    closing: Option<oneshot::Sender<()>>,
    num_delivered: u64,
    num_failed: u64,
}

/// The request behind an event, and whether it still waits.
struct EventRequest {
    commit: Arc<AnnouncedCommit>,
    /// Where the answer of the synchronous hooks goes, and how many hooks are left.
    answer: Option<oneshot::Sender<HookResult>>,
    num_left: usize,
    /// Since when it is the turn of these hooks; `None` while other plugins have theirs.
    its_turn_since: Option<Instant>,
}

impl DeliveryLoop {
    pub(super) fn new(
        parts: ConsumerParts,
        checkpoint: Option<ConsumerCheckpoint>,
        commands: mpsc::Receiver<Command>,
        (promises, shown): (Promises, Arc<Shown>),
    ) -> Self {
        let changes = match &parts.recipient {
            Recipient::Plugin => parts.env.plugins.changes(),
            Recipient::Log(side) => side.dispatcher.changes(),
        };
        let is_new = checkpoint.is_none();
        let mut checkpoint = checkpoint.unwrap_or_default();
        let head = parts.env.log.head();
        if checkpoint.cursor.clamp(head) {
            let consumer = &parts.name;
            tracing::warn!(%consumer, head, "the log ends before the consumer's cursor");
        }
        for leftover in checkpoint.gone.values_mut() {
            leftover.until = leftover.until.min(head);
        }
        let cursor = std::mem::take(&mut checkpoint.cursor);
        Self {
            schedule: Schedule::new(cursor, parts.settings.max_attempts),
            points: Arc::default(),
            presence: Presence::default(),
            absent_since: None,
            has_served: false,
            has_begun_catch_up: false,
            starter: None,
            parts: Arc::new(parts),
            commands,
            promises,
            shown,
            changes,
            begun: Instant::now(),
            checkpoint,
            is_new,
            has_promised: false,
            attempts: FuturesUnordered::new(),
            urgencies: HashMap::new(),
            turns: FuturesUnordered::new(),
            requests: HashMap::new(),
            retries: BTreeMap::new(),
            epoch: 0,
            unsaved: Unsaved::default(),
            num_unready: 0,
            held_until: None,
            not_before: None,
            closing: None,
            num_delivered: 0,
            num_failed: 0,
        }
    }

    /// Delivers until it is closed.
    pub(super) async fn run(mut self) {
        self.count_dead_letters().await;
        // The registration may have arrived before the actor started.
        self.changes.mark_changed();
        loop {
            self.look_for_changes().await;
            self.read_page().await;
            self.note_absence();
            self.fail_waiters();
            self.release_waiters();
            self.expedite_attempts();
            self.start_attempts();
            self.show();
            if self.is_over() {
                break;
            }
            self.await_something().await;
        }
        self.save_all().await;
        self.show();
        // Dropping it tells the waiter that this has ended.
        drop(self.closing.take());
    }

    /// Returns whether it is closed and has nothing in progress.
    fn is_over(&self) -> bool {
        self.closing.is_some() && self.attempts.is_empty()
    }

    fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    /// Returns whether the server is about to stop: nothing more is started.
    fn is_draining(&self) -> bool {
        self.parts.ending.is_cancelled()
    }

    fn is_running(&self) -> bool {
        !self.is_draining() && self.closing.is_none() && self.checkpoint.paused.is_none()
    }

    /// Returns whether the plugin or a worker can receive deliveries.
    fn is_reachable(&self) -> bool {
        self.has_promised && self.presence.num_workers > 0 && self.held_until.is_none()
    }

    async fn await_something(&mut self) {
        let due = self.next_due();
        let read = self.schedule.read();
        let applied = self.parts.env.applied.clone();
        let wants_more = self.may_read() && applied.position() <= read;
        let ending = self.parts.ending.clone();
        tokio::select! {
            Some(ended) = self.attempts.next(), if !self.attempts.is_empty() => {
                self.end(ended);
            }
            Some(position) = self.turns.next(), if !self.turns.is_empty() => {
                if let Some(request) = self.requests.get_mut(&position) {
                    request.its_turn_since = Some(Instant::now());
                }
                self.schedule.release(position);
            }
            command = self.commands.recv() => match command {
                Some(command) => self.handle_command(command).await,
                // Nothing can reach the loop any more.
                None => self.closing = Some(oneshot::channel().0),
            },
            Ok(()) = self.changes.changed() => self.changes.mark_changed(),
            () = ending.cancelled(), if !ending.is_cancelled() => {}
            Some(_) = applied.beyond(read), if wants_more => {}
            outcome = self.unsaved.done(), if self.unsaved.is_in_progress() => {
                self.handle_saved(outcome);
            }
            () = tokio::time::sleep_until(due) => {}
        }
    }

    /// Returns when something is due by time alone.
    fn next_due(&self) -> Instant {
        const LONG: Duration = Duration::from_secs(60);
        let now = Instant::now();
        if self.may_read() && self.not_before.is_none() && self.is_page_left() {
            return now;
        }
        let retry = self.schedule.next_wake().filter(|_| self.is_running());
        let retry = retry.map(|due| self.begun + due);
        let expiry = self.next_expiry();
        let dues = [
            retry,
            expiry,
            self.save_due(),
            self.not_before,
            self.held_until,
        ];
        let due = dues.into_iter().flatten().min();
        due.unwrap_or(now + LONG)
    }

    /// Records since when no worker has been connected, or the plugin could not be reached. What
    /// waits for a suspended worker has waited when its session ends.
    fn note_absence(&mut self) {
        let is_there = self.presence.is_attended && self.has_promised && self.held_until.is_none();
        if is_there {
            self.absent_since = None;
        } else {
            self.absent_since.get_or_insert_with(Instant::now);
        }
    }

    /// Tells waiters that nothing is delivered for now; those whose deliveries are in progress hear
    /// how these end. A plugin without a worker is waited for as by other requests: its only worker
    /// may be restarting.
    fn fail_waiters(&mut self) {
        let (why, now) = if self.is_draining() || self.checkpoint.paused.is_some() {
            (Unavailable::Paused, None)
        } else if !self.is_reachable() {
            (Unavailable::NoWorker, Some(Instant::now()))
        } else {
            return;
        };
        let over: Vec<u64> = self
            .idle_waiters()
            .filter(|(_, expiry)| now.is_none_or(|now| expiry.is_some_and(|it| it <= now)))
            .map(|(position, _)| position)
            .collect();
        for position in over {
            let request = self.requests.get_mut(&position);
            if let Some(answer) = request.and_then(|request| request.answer.take()) {
                let _ = answer.send(Err(unavailable(&self.parts.name, why)));
            }
        }
    }

    /// Returns the waiters whose deliveries are not in progress, and until when each waits for a
    /// worker.
    fn idle_waiters(&self) -> impl Iterator<Item = (u64, Option<Instant>)> {
        let (schedule, absent_since) = (&self.schedule, self.absent_since);
        let wait = self.parts.settings.rejoin_wait;
        let waiting = self.requests.iter().filter(move |(position, request)| {
            request.answer.is_some() && !schedule.is_in_progress(**position)
        });
        waiting.map(move |(position, request)| {
            let began = absent_since.zip(request.its_turn_since);
            (*position, began.map(|(one, other)| one.max(other) + wait))
        })
    }

    /// Returns when the first waiter has waited long enough for a worker.
    fn next_expiry(&self) -> Option<Instant> {
        if self.is_reachable() {
            return None;
        }
        self.idle_waiters().filter_map(|(_, expiry)| expiry).min()
    }

    /// Answers the waiters of events that a retry holds back: their changes are stored, and the
    /// plugin will be told in turn.
    fn release_waiters(&mut self) {
        for position in self.schedule.take_held_back() {
            let request = self.requests.get_mut(&position);
            if let Some(answer) = request.and_then(|request| request.answer.take()) {
                let _ = answer.send(Ok(()));
            }
            if self.requests.len() > MAX_REQUESTS {
                self.requests.remove(&position);
            }
        }
    }

    /// Returns its state, for display.
    fn state(&self) -> ConsumerState {
        let counts = self.schedule.counts();
        let first_open = self.schedule.first_open();
        let read = self.schedule.read();
        let position = first_open.map_or(read, |open| read.min(open.saturating_sub(1)));
        let state = if self.checkpoint.paused.is_some() {
            "paused"
        } else if !self.has_promised {
            "unknown"
        } else if !self.presence.is_ready || self.num_unready > 0 {
            "away"
        } else {
            "running"
        };
        ConsumerState {
            name: Arc::clone(&self.parts.name),
            kind: self.parts.recipient.kind(),
            state,
            workers: self.presence.num_workers,
            reason: self.checkpoint.paused.clone(),
            position,
            lag: self.parts.env.log.head().saturating_sub(position),
            in_flight: counts.running,
            retrying: counts.waiting,
            retries: self.retries.values().take(MAX_RETRIES).cloned().collect(),
            open: counts.open,
            dead_letters: self.unsaved.num_dead_letters(),
            skipped: self.checkpoint.num_skipped,
            delivered: self.num_delivered,
            failed: self.num_failed,
            is_failing: self.unsaved.is_failing(),
        }
    }

    fn show(&mut self) {
        /// A consumer that is this far behind stays behind for a while.
        const FAR: u64 = 4096;
        let distance = self
            .parts
            .env
            .log
            .head()
            .saturating_sub(self.schedule.read());
        self.shown
            .is_behind
            .store(distance > FAR, Ordering::Relaxed);
        self.shown.is_full.store(self.is_full(), Ordering::Relaxed);
        *self.shown.state.lock() = self.state();
    }

    fn unreadable(&mut self, error: &ApiError) {
        tracing::warn!(consumer = %self.parts.name, %error, "deliveries pause");
        self.not_before = Some(Instant::now() + PAUSE);
    }
}
