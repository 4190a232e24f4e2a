//! An actor's loop: reads the log, starts what may start, hears how it went, keeps where it is.
//!
//! Everything it waits for comes together in one place ([`DeliveryLoop::await_something`]), so nothing
//! here runs side by side but the attempts themselves. Files: `read` (the registration, and pages
//! of the log), `attempt` (one delivery, from its content to what follows from its end), `orders`
//! (what people want), `keep` (what is kept durably), `wanted` (what
//! events call for).

mod attempt;
mod keep;
mod orders;
mod read;
mod wanted;

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
use super::attendance::{Answer, Attendance};
use super::messages::{Command, ConsumerState, Retry};
use super::parts::{ConsumerParts, Recipient};
use super::schedule::{Moment, Schedule, TaskId};
use super::store::{ConsumerCheckpoint, DeadLetterId};
use crate::plugin::errors::{Unavailable, unavailable};
use crate::plugin::{Points, Presence, Via, WorkerId};
use attempt::Ended;
use keep::Keeping;

/// The pause after something failed that is nobody's fault here.
const PAUSE: Duration = Duration::from_secs(1);

/// So many attendances are kept for deliveries that nobody waits for.
const MAX_GUESTS: usize = 1024;

/// So many deliveries that are tried again are shown.
const MAX_RETRIES: usize = 20;

/// A promise to bring hooks.
type Promises = watch::Sender<Arc<BTreeSet<String>>>;

/// See the module.
pub(super) struct DeliveryLoop {
    parts: Arc<ConsumerParts>,
    commands: mpsc::Receiver<Command>,
    promises: Promises,
    shown: Arc<Shown>,
    changes: watch::Receiver<()>,
    begun: Instant,
    /// What is kept besides the cursor, which the schedule knows better.
    checkpoint: ConsumerCheckpoint,
    /// Whether the plugin was never met before.
    is_new: bool,
    schedule: Schedule,
    points: Arc<Points>,
    presence: Presence,
    /// Whether it is known that it is there, and where deliveries go on since it is.
    is_welcomed: bool,
    /// The worker that said last where deliveries start.
    starter: Option<WorkerId>,
    /// Whether the plugin's registration was looked at, and what it asks for is promised.
    is_adopted: bool,
    attempts: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Tells attempts that what somebody waits for is behind them.
    hurries: HashMap<TaskId, watch::Sender<Vec<Via>>>,
    /// Ends when it is the turn of an event's synchronous hooks.
    turns: FuturesUnordered<BoxFuture<'static, u64>>,
    /// Those who attend events that are being delivered, by position.
    guests: HashMap<u64, Guest>,
    /// What has failed and is not over.
    retries: BTreeMap<DeadLetterId, Arc<Retry>>,
    /// Grows with each rewind: what was under way before is of no interest.
    epoch: u64,
    keeping: Keeping,
    /// How often in a row a delivery did not reach the plugin, and until when none is tried.
    num_unready: u32,
    held_until: Option<Instant>,
    /// Not before then is the log read again, or the ops store written.
    not_before: Option<Instant>,
    closing: Option<oneshot::Sender<()>>,
    num_delivered: u64,
    num_failed: u64,
}

/// Who attends an event.
struct Guest {
    attendance: Arc<Attendance>,
    /// Where the answer of the synchronous hooks goes, and how many are left.
    answer: Option<oneshot::Sender<Answer>>,
    num_left: usize,
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
        for left in checkpoint.gone.values_mut() {
            left.until = left.until.min(head);
        }
        let cursor = std::mem::take(&mut checkpoint.cursor);
        Self {
            schedule: Schedule::new(cursor, parts.settings.max_attempts),
            points: Arc::default(),
            presence: Presence::default(),
            is_welcomed: false,
            starter: None,
            parts: Arc::new(parts),
            commands,
            promises,
            shown,
            changes,
            begun: Instant::now(),
            checkpoint,
            is_new,
            is_adopted: false,
            attempts: FuturesUnordered::new(),
            hurries: HashMap::new(),
            turns: FuturesUnordered::new(),
            guests: HashMap::new(),
            retries: BTreeMap::new(),
            epoch: 0,
            keeping: Keeping::default(),
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
        // The registration may have come before the actor.
        self.changes.mark_changed();
        loop {
            self.look_around().await;
            self.read_page().await;
            self.turn_away();
            self.let_go();
            self.hurry_attempts();
            self.start_attempts();
            self.show();
            if self.is_over() {
                break;
            }
            self.await_something().await;
        }
        self.keep_all().await;
        self.show();
        // Dropped: whoever waits for the end hears of it.
        drop(self.closing.take());
    }

    /// Whether it is closed and has nothing under way.
    fn is_over(&self) -> bool {
        self.closing.is_some() && self.attempts.is_empty()
    }

    fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    /// Whether the server is about to stop: nothing is started any more.
    fn is_quiet(&self) -> bool {
        self.parts.ending.is_cancelled()
    }

    fn is_running(&self) -> bool {
        !self.is_quiet() && self.closing.is_none() && self.checkpoint.paused.is_none()
    }

    /// Whether somebody is there for what is delivered.
    fn is_attended(&self) -> bool {
        self.is_adopted && self.presence.num_workers > 0 && self.held_until.is_none()
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
                self.schedule.release(position);
            }
            command = self.commands.recv() => match command {
                Some(command) => self.obey(command).await,
                // Nobody can reach it any more.
                None => self.closing = Some(oneshot::channel().0),
            },
            Ok(()) = self.changes.changed() => self.changes.mark_changed(),
            () = ending.cancelled(), if !ending.is_cancelled() => {}
            Some(_) = applied.beyond(read), if wants_more => {}
            kept = self.keeping.done(), if self.keeping.is_under_way() => {
                self.kept(kept);
            }
            () = tokio::time::sleep_until(due) => {}
        }
    }

    /// Returns when time alone brings something to do.
    fn next_due(&self) -> Instant {
        const LONG: Duration = Duration::from_secs(60);
        let now = Instant::now();
        if self.may_read() && self.not_before.is_none() && self.is_page_left() {
            return now;
        }
        let retry = self.schedule.next_wake().filter(|_| self.is_running());
        let retry = retry.map(|due| self.begun + due);
        let dues = [retry, self.keep_due(), self.not_before, self.held_until];
        let due = dues.into_iter().flatten().min();
        due.unwrap_or(now + LONG)
    }

    /// Tells those who attend that nothing comes for now; who waits for what is under way hears how
    /// that ends.
    fn turn_away(&mut self) {
        let why = if self.is_quiet() || self.checkpoint.paused.is_some() {
            Unavailable::Paused
        } else if !self.is_attended() {
            Unavailable::NoWorker
        } else {
            return;
        };
        let schedule = &self.schedule;
        let is_idle = |position: u64| !schedule.is_under_way(position);
        let guests = self.guests.iter_mut();
        for (_, guest) in guests.filter(|(position, _)| is_idle(**position)) {
            if let Some(answer) = guest.answer.take() {
                let _ = answer.send(Err(unavailable(&self.parts.name, why)));
            }
        }
    }

    /// Lets those go who wait for what a retry holds back: what they asked for is stored, and the
    /// plugin is told of it in its turn.
    fn let_go(&mut self) {
        for position in self.schedule.take_held_back() {
            let guest = self.guests.get_mut(&position);
            if let Some(answer) = guest.and_then(|guest| guest.answer.take()) {
                let _ = answer.send(Ok(()));
            }
            if self.guests.len() > MAX_GUESTS {
                self.guests.remove(&position);
            }
        }
    }

    /// Returns what it says of itself.
    fn state(&self) -> ConsumerState {
        let counts = self.schedule.counts();
        let first_open = self.schedule.first_open();
        let read = self.schedule.read();
        let position = first_open.map_or(read, |open| read.min(open.saturating_sub(1)));
        let state = if self.checkpoint.paused.is_some() {
            "paused"
        } else if !self.is_adopted {
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
            dead_letters: self.keeping.num_dead_letters(),
            skipped: self.checkpoint.num_skipped,
            delivered: self.num_delivered,
            failed: self.num_failed,
            is_failing: self.keeping.is_failing(),
        }
    }

    fn show(&mut self) {
        /// A consumer that is so far behind is behind for a while.
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
        *self.shown.state.lock() = self.state();
    }

    fn unreadable(&mut self, error: &ApiError) {
        tracing::warn!(consumer = %self.parts.name, %error, "deliveries pause");
        self.not_before = Some(Instant::now() + PAUSE);
    }
}
