//! The actor that sends what is for one service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt as _, AsyncContext, Context, Handler, Message, SpawnHandle};
use serde::Serialize;
use skytrail_schema::id::DeviceId;
use skytrail_schema::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::schedule::{Again, Bounds, Entry, Schedule};
use super::sender::{Address, Payload, PushSender, SendError};
use crate::clock::Clock;
use crate::device::service::DeviceService;

/// How many requests, with as many letters as they like, may wait for the actor.
const MAILBOX: usize = 1024;
/// How long forgetting a device may take.
const FORGET_DEADLINE: Duration = Duration::from_secs(10);
/// How long a sender may take; they keep to less by themselves.
const SEND_DEADLINE: Duration = Duration::from_secs(60);

/// Something for one device.
pub struct Letter {
    /// The device.
    pub device: DeviceId,
    /// Where it is reached.
    pub address: Address,
    /// What it gets.
    pub payload: Arc<Payload>,
    /// Its room in the queue.
    pub seat: OwnedSemaphorePermit,
}

/// What a queue says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PushState {
    /// The service.
    pub service: &'static str,
    /// Letters that wait, those for another attempt included.
    pub num_queued: usize,
    /// Those that wait for another attempt.
    pub num_retrying: usize,
    /// Letters on their way.
    pub num_in_flight: usize,
    /// Whether the service failed when it was asked last.
    pub is_held: bool,
    /// Letters that the service took.
    pub num_sent: u64,
    /// Letters that were refused or given up.
    pub num_failed: u64,
    /// Attempts that were followed by another.
    pub num_retried: u64,
    /// Devices forgotten because the service does not know them any more.
    pub num_unregistered: u64,
    /// Letters for which there was no room.
    pub num_dropped: u64,
}

/// See the module's overview.
pub struct PushQueue {
    sender: Arc<dyn PushSender>,
    devices: Arc<dyn DeviceService>,
    clock: Arc<dyn Clock>,
    schedule: Schedule<Letter>,
    state: PushState,
    alarm: Option<SpawnHandle>,
    leaving: Vec<oneshot::Sender<()>>,
}

impl PushQueue {
    /// Builds a queue.
    pub fn new(
        sender: Arc<dyn PushSender>,
        devices: Arc<dyn DeviceService>,
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
            clock,
            schedule: Schedule::new(bounds),
            state,
            alarm: None,
            leaving: Vec::new(),
        }
    }

    /// Sends what may be sent now, and sees to it that the rest is looked at in time.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        while let Some(entry) = self.schedule.take(now) {
            let letter = &entry.letter;
            let send = deliver(
                Arc::clone(&self.sender),
                Arc::clone(&self.devices),
                (letter.address.clone(), Arc::clone(&letter.payload)),
                self.clock.now(),
            );
            ctx.spawn(wrap_future(send).map(|ending, this: &mut Self, ctx| {
                this.settle(entry, ending);
                this.pump(ctx);
            }));
        }
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        if let Some(at) = self.schedule.next_look(now) {
            let pause = at.saturating_duration_since(now);
            self.alarm = Some(ctx.run_later(pause, |this, ctx| {
                this.alarm = None;
                this.pump(ctx);
            }));
        }
        self.say_when_left();
    }

    fn settle(&mut self, entry: Entry<Letter>, ending: Ending) {
        let now = Instant::now();
        let (service, device) = (self.state.service, entry.letter.device.clone());
        match ending {
            Ending::Sent => {
                self.state.num_sent += 1;
                self.schedule.settled(now);
            }
            Ending::Gone { num_forgotten, why } => {
                self.state.num_failed += 1;
                self.state.num_unregistered += num_forgotten;
                self.schedule.settled(now);
                tracing::info!(service, %device, why, num_forgotten, "a device is not there any more");
            }
            Ending::Refused(why) => {
                self.state.num_failed += 1;
                self.schedule.settled(now);
                tracing::error!(service, %device, why, "a push was refused");
            }
            Ending::Later {
                wait,
                holds_all,
                why,
            } => {
                let attempt = entry.num_attempts;
                match self.schedule.put_back(entry, (wait, holds_all), now) {
                    Again::Waits => {
                        self.state.num_retried += 1;
                        tracing::warn!(service, %device, why, attempt, "a push is tried again later");
                    }
                    Again::GivenUp(_) => {
                        self.state.num_failed += 1;
                        tracing::error!(service, %device, why, attempt, "a push was given up");
                    }
                }
            }
        }
    }

    /// Tells those who wait for the end that nothing is left to be done.
    fn say_when_left(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        // Who is stopping does not wait for another attempt.
        let is_idle = self.schedule.num_in_flight() == 0 && self.schedule.is_waiting();
        if !is_idle {
            return;
        }
        let num_lost = self.schedule.drain().len();
        if num_lost > 0 {
            let service = self.state.service;
            tracing::warn!(service, num_lost, "pushes that waited are lost");
        }
        for waiting in self.leaving.drain(..) {
            let _ = waiting.send(());
        }
    }
}

/// What became of an attempt.
enum Ending {
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
async fn deliver(
    sender: Arc<dyn PushSender>,
    devices: Arc<dyn DeviceService>,
    (address, payload): (Address, Arc<Payload>),
    sent_at: Timestamp,
) -> Ending {
    let sent = timeout(SEND_DEADLINE, sender.send(&address, &payload)).await;
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

impl Actor for PushQueue {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Takes letters. Replies when they are in the queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Enqueue(pub Vec<Letter>);

impl Handler<Enqueue> for PushQueue {
    type Result = ();

    fn handle(&mut self, message: Enqueue, ctx: &mut Self::Context) {
        let now = Instant::now();
        for letter in message.0 {
            self.schedule.add(letter, now);
        }
        self.pump(ctx);
    }
}

/// Notes that there was no room for letters.
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
        Some(PushState {
            num_queued: self.schedule.num_queued(),
            num_retrying: self.schedule.num_retrying(),
            num_in_flight: self.schedule.num_in_flight(),
            is_held: self.schedule.is_held(),
            ..self.state
        })
    }
}

/// The server stops. Replies with where it is said when everything that could be sent has been;
/// what waits for another attempt is lost.
#[derive(Debug, Message)]
#[rtype(result = "Option<Left>")]
pub struct Leave;

/// Heard when a queue has nothing left to do.
#[derive(Debug)]
pub struct Left(pub oneshot::Receiver<()>);

impl Handler<Leave> for PushQueue {
    type Result = Option<Left>;

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = oneshot::channel();
        self.leaving.push(sender);
        self.pump(ctx);
        Some(Left(receiver))
    }
}
