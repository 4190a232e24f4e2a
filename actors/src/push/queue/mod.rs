//! The actor that sends the pushes for one service.
//!
//! A kept push is forgotten once it is settled: several at once, while the queue goes on sending.
//! If the process is killed in between, it is sent again. A push that is not kept is kept as soon
//! as it has to wait.
//!
//! While a push waits, its device's address and user may change. So the device is looked up before
//! every attempt, except for one that follows at once. A push is dropped if its device is gone or
//! belongs to another user.
//!
//! A notice of a subscription says only that something has changed. So of each subscription one
//! notice waits or is in flight, and none overtakes a later one: of several that wait only the last
//! one does, in the place and with the id of the first. What comes while one is in flight follows
//! it, or takes its place if it fails.

mod inspect;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt as _, AsyncContext, Context, Handler, Message, SpawnHandle};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::device::directory::DeviceDirectory;
use crate::push::attempt::{Outgoing, PushOutcome, deliver};
use crate::push::notes::{Notes, write};
use crate::push::outbox::Outbox;
use crate::push::queued::{NoticeKey, QueuedPush};
use crate::push::schedule::{Again, Bounds, Entry, Schedule};
use crate::push::sender::PushSender;
use crate::push::state::PushState;

pub use inspect::{ListPushes, ListedPush, PushSelection, RetryPushes, WithdrawPushes};

/// How many requests can wait for the actor; each can have any number of pushes.
const MAILBOX: usize = 1024;
/// How long the address that was passed with a push is valid.
const ADDRESS_LIFE: Duration = Duration::from_secs(1);

/// The pause after the outbox could not be written.
const NOTES_PAUSE: Duration = Duration::from_secs(1);

/// The notice of a subscription that waits or is in flight.
struct Notice {
    /// Its number in the schedule.
    number: u64,
    /// The last one that came while it was in flight.
    next: Option<QueuedPush>,
}

/// See the module's overview.
pub struct PushQueue {
    sender: Arc<dyn PushSender>,
    devices: Arc<dyn DeviceDirectory>,
    outbox: Arc<dyn Outbox>,
    clock: Arc<dyn Clock>,
    schedule: Schedule<QueuedPush>,
    /// By number.
    in_flight: HashMap<u64, Entry<QueuedPush>>,
    notices: HashMap<NoticeKey, Notice>,
    notes: Notes,
    is_writing: bool,
    state: PushState,
    alarm: Option<SpawnHandle>,
    leaving: Vec<oneshot::Sender<()>>,
}

impl PushQueue {
    /// Builds a queue.
    pub fn new(
        sender: Arc<dyn PushSender>,
        devices: Arc<dyn DeviceDirectory>,
        outbox: Arc<dyn Outbox>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> Self {
        let state = PushState {
            service: sender.name(),
            ..PushState::default()
        };
        Self {
            sender,
            devices,
            outbox,
            clock,
            schedule: Schedule::new(bounds),
            in_flight: HashMap::new(),
            notices: HashMap::new(),
            notes: Notes::default(),
            is_writing: false,
            state,
            alarm: None,
            leaving: Vec::new(),
        }
    }

    /// Sends what can be sent now, and makes sure that the rest is looked at in time.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.drop_expired(now);
        while let Some(mut entry) = self.schedule.take(now) {
            let is_fresh = now.saturating_duration_since(entry.added) < ADDRESS_LIFE;
            let push = &mut entry.push;
            let outgoing = Outgoing {
                id: push.id,
                device: push.device.clone(),
                user: push.user.clone(),
                address: push.address.take().filter(|_| is_fresh),
                payload: Arc::clone(&push.payload),
            };
            let send = deliver(
                Arc::clone(&self.sender),
                Arc::clone(&self.devices),
                outgoing,
                self.clock.now(),
            );
            let number = entry.number;
            self.in_flight.insert(number, entry);
            ctx.spawn(wrap_future(send).map(move |ending, this: &mut Self, ctx| {
                if let Some(entry) = this.in_flight.remove(&number) {
                    this.finish(entry, ending);
                }
                this.pump(ctx);
            }));
        }
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        let next = [self.schedule.next_due(now), self.schedule.next_expiry()];
        if let Some(at) = next.into_iter().flatten().min() {
            let pause = at.saturating_duration_since(now);
            self.alarm = Some(ctx.run_later(pause, |this, ctx| {
                this.alarm = None;
                this.pump(ctx);
            }));
        }
        self.write_notes(ctx);
        self.say_when_left(ctx);
    }

    /// What got too old while it waited gives its room to others.
    fn drop_expired(&mut self, now: Instant) {
        let expired = self.schedule.expire(now);
        if expired.is_empty() {
            return;
        }
        let (service, num_pushes) = (self.state.service, expired.len());
        tracing::info!(service, num_pushes, "pushes are not sent: they are too old");
        self.state.num_expired += num_pushes as u64;
        for entry in &expired {
            self.forget(&entry.push);
        }
    }

    /// Tells the outbox what it does not know yet, while sending goes on.
    fn write_notes(&mut self, ctx: &mut Context<Self>) {
        if self.is_writing || self.notes.is_empty() {
            return;
        }
        self.is_writing = true;
        let notes = std::mem::take(&mut self.notes);
        let write = write(Arc::clone(&self.outbox), notes);
        ctx.spawn(wrap_future(write).map(|written, this: &mut Self, ctx| {
            match written {
                Ok((num_kept, num_forgotten)) => {
                    this.is_writing = false;
                    let num_kept = this.state.num_kept + num_kept;
                    this.state.num_kept = num_kept.saturating_sub(num_forgotten);
                    this.write_notes(ctx);
                }
                Err(notes) if this.leaving.is_empty() => {
                    // Nothing else may follow that would have them written.
                    this.notes.put_back(notes);
                    ctx.run_later(NOTES_PAUSE, |this, ctx| {
                        this.is_writing = false;
                        this.write_notes(ctx);
                        this.say_when_left(ctx);
                    });
                }
                Err(_) => this.is_writing = false,
            }
            this.say_when_left(ctx);
        }));
    }

    /// Adds pushes; the caller has them sent.
    pub fn accept(&mut self, pushes: Vec<QueuedPush>) {
        let now = Instant::now();
        for push in pushes {
            self.state.num_kept += u64::from(push.is_kept);
            self.add(push, now);
        }
    }

    fn add(&mut self, mut push: QueuedPush, now: Instant) {
        let key = push.notice_key();
        let Some(known) = key.as_ref().and_then(|key| self.notices.get_mut(key)) else {
            let age = self
                .clock
                .now()
                .micros()
                .saturating_sub(push.since.micros());
            let age = Duration::from_micros(u64::try_from(age).unwrap_or(0));
            let number = self.schedule.add(push, age, now);
            if let Some(key) = key {
                self.notices.insert(key, Notice { number, next: None });
            }
            return;
        };
        let Some(waiting) = self.schedule.get(known.number) else {
            // By the time it is sent, the device can have another address.
            push.address = None;
            known.next = Some(push);
            return;
        };
        push.id = waiting.id;
        push.is_kept = waiting.is_kept;
        push.failure.clone_from(&waiting.failure);
        if push.is_kept {
            self.notes.change(push.waiting(self.sender.kind()));
        }
        self.schedule.replace(known.number, push, now);
    }

    /// Takes the notice that came while another of its subscription was in flight.
    fn take_next(&mut self, ended: &QueuedPush) -> Option<QueuedPush> {
        let key = ended.notice_key()?;
        self.notices.get_mut(&key)?.next.take()
    }

    /// A push is finished.
    fn forget(&mut self, push: &QueuedPush) {
        if push.is_kept {
            self.notes.forget(push.id);
        }
        if let Some(key) = push.notice_key() {
            self.notices.remove(&key);
        }
    }

    /// A push has to wait: a crash must not lose it.
    fn keep(&mut self, push: &mut QueuedPush) {
        if !push.is_kept {
            push.is_kept = true;
            self.notes.keep(push.waiting(self.sender.kind()));
        }
    }

    fn finish(&mut self, mut entry: Entry<QueuedPush>, ending: PushOutcome) {
        let now = Instant::now();
        let next = self.take_next(&entry.push);
        if !matches!(ending, PushOutcome::Later { .. }) {
            self.forget(&entry.push);
        }
        let (service, device) = (self.state.service, entry.push.device.clone());
        match ending {
            PushOutcome::Sent => {
                self.state.num_sent += 1;
                self.schedule.answered(now);
            }
            PushOutcome::Unwanted => {
                self.state.num_expired += 1;
                self.schedule.dropped();
                tracing::info!(
                    service, %device,
                    "a push is not sent: its device is gone or has another user"
                );
            }
            PushOutcome::Gone { num_forgotten, why } => {
                self.state.num_unreachable += 1;
                self.state.num_unregistered += num_forgotten;
                self.schedule.answered(now);
                tracing::info!(
                    service, %device, why, num_forgotten,
                    "a device is no longer registered"
                );
            }
            PushOutcome::Refused(why) => {
                self.state.num_failed += 1;
                self.schedule.answered(now);
                tracing::error!(service, %device, why, "a push was refused");
            }
            PushOutcome::Misaddressed(why) => {
                self.state.num_unreachable += 1;
                self.schedule.answered(now);
                tracing::warn!(service, %device, why, "a device's address is refused");
            }
            PushOutcome::Unsendable(why) => {
                self.state.num_unreachable += 1;
                self.schedule.dropped();
                tracing::warn!(service, %device, why, "a push cannot be sent");
            }
            PushOutcome::Later {
                wait,
                holds_all,
                why,
            } => {
                let (attempt, is_withdrawn) = (entry.num_attempts, entry.is_last);
                if !is_withdrawn {
                    self.keep(&mut entry.push);
                }
                entry.push.failure = Some(why.clone());
                match self.schedule.put_back(entry, (wait, holds_all), now) {
                    Again::Waits => {
                        self.state.num_retried += 1;
                        tracing::warn!(service, %device, why, attempt, "a push is tried again later");
                    }
                    Again::GivenUp(push) if is_withdrawn => {
                        self.state.num_withdrawn += 1;
                        self.forget(&push);
                        tracing::info!(service, %device, why, "a push was withdrawn meanwhile");
                    }
                    Again::GivenUp(push) => {
                        self.state.num_failed += 1;
                        self.forget(&push);
                        tracing::error!(service, %device, why, attempt, "a push was given up");
                    }
                }
            }
        }
        if let Some(next) = next {
            self.add(next, now);
        }
    }

    fn state(&self) -> PushState {
        PushState {
            num_queued: self.schedule.num_queued(),
            num_retrying: self.schedule.num_retrying(),
            num_in_flight: self.schedule.num_in_flight(),
            is_held: self.schedule.is_held(),
            doubted_setting: self.sender.doubted_setting(),
            ..self.state
        }
    }

    /// Tells those who wait for the end that nothing is left to do.
    fn say_when_left(&mut self, ctx: &mut Context<Self>) {
        if self.leaving.is_empty() || self.is_writing {
            return;
        }
        // A server that stops does not wait for another attempt.
        let is_idle = self.schedule.num_in_flight() == 0 && self.schedule.is_waiting();
        if !is_idle {
            return;
        }
        let unsent = self.schedule.drain();
        self.notices.clear();
        if !unsent.is_empty() {
            let (service, num_left) = (self.state.service, unsent.len());
            tracing::info!(service, num_left, "pushes wait for the next start");
        }
        for mut push in unsent {
            self.keep(&mut push);
        }
        self.write_notes(ctx);
        if self.is_writing {
            return;
        }
        for waiting in self.leaving.drain(..) {
            let _ = waiting.send(());
        }
    }
}

impl Actor for PushQueue {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.pump(ctx);
    }
}

/// Accepts pushes. Replies when they are in the queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Enqueue(pub Vec<QueuedPush>);

impl Handler<Enqueue> for PushQueue {
    type Result = ();

    fn handle(&mut self, message: Enqueue, ctx: &mut Self::Context) {
        self.accept(message.0);
        self.pump(ctx);
    }
}

/// Notes that there was no room for pushes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NoteDropped(pub u64);

impl Handler<NoteDropped> for PushQueue {
    type Result = ();

    fn handle(&mut self, message: NoteDropped, _: &mut Self::Context) {
        self.state.num_dropped += message.0;
    }
}

/// Asks for the state.
#[derive(Debug, Message)]
#[rtype(result = "Option<PushState>")]
pub struct GetPushState;

impl Handler<GetPushState> for PushQueue {
    type Result = Option<PushState>;

    fn handle(&mut self, _: GetPushState, _: &mut Self::Context) -> Self::Result {
        Some(self.state())
    }
}

/// The server stops.
///
/// The reply resolves once everything that could be sent has been sent. What waits for another
/// attempt is kept for the next start.
#[derive(Debug, Message)]
#[rtype(result = "Option<Drained>")]
pub struct Leave;

/// Resolves when a queue has nothing left to do.
#[derive(Debug)]
pub struct Drained(pub oneshot::Receiver<()>);

impl Handler<Leave> for PushQueue {
    type Result = Option<Drained>;

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = oneshot::channel();
        self.leaving.push(sender);
        self.pump(ctx);
        Some(Drained(receiver))
    }
}
