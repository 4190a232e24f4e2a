//! The messages between the plugin actors.
//!
//! Transports send [`FromTransport`]; everything else stays between the gate, [`super::Plugins`]
//! and [`super::PluginConnection`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Addr, Message};
use serde_json::Value as Json;
use serde_json::value::RawValue;
use skytrail_schema::code::ApiError;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::caller::ApiReply;
use super::connection::PluginConnection;
use super::figures::RequestStats;
use super::gate::{CallContext, DeliveryNote, Lineage, Via, WorkerId};
use super::protocol::{CancelReason, CloseCode, FrameError, Outcome, Problem, Resume, WorkerFrame};
use super::settings::TransportKind;
use super::transport::OutgoingSender;

/// A worker sent something, or its transport broke. The reply follows when the actor has handled
/// it, so a transport that waits for the reply is slowed to the actor's pace.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromTransport(pub TransportEvent);

/// What arrives from a transport.
#[derive(Debug)]
pub enum TransportEvent {
    /// A text frame, parsed.
    Frame(Result<WorkerFrame, FrameError>),
    /// A binary frame.
    Binary,
    /// A frame above the size limit.
    TooLarge,
    /// The connection ended; the worker may come back to its session.
    Closed,
    /// The worker closed the connection properly: its session is over.
    Goodbye,
    /// This many processes share the worker's requests.
    Crew(usize),
    /// The plugin can no longer be reached, or can be again.
    Reachable(bool),
}

/// Something arrived over the transport of another connection, which this session continues on.
/// Replies like [`FromTransport`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Relayed {
    pub(super) link: WorkerId,
    pub(super) event: TransportEvent,
}

/// The result of a request.
pub(super) type Answer = Result<Json, ApiError>;

/// Whether a request must wait for a worker's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// It does.
    Window,
    /// A worker's call caused it: the worker cannot free a slot before this is answered.
    Nested,
    /// It is part of one worker's lifecycle and never goes to another worker.
    Lifecycle,
}

/// A request on its way to a worker. Dropping it without an answer means that it was lost; the gate
/// then tells the caller.
#[derive(Debug)]
pub(super) struct Job {
    /// Identifies the request within this process.
    pub(super) ticket: u64,
    /// The plugin.
    pub(super) plugin: Arc<str>,
    /// `op`, `hook`, `event`, …
    pub(super) kind: &'static str,
    /// The point's name.
    pub(super) name: String,
    /// The content, serialized.
    pub(super) param: Option<Box<RawValue>>,
    /// The circumstances.
    pub(super) context: Option<CallContext>,
    /// What it descends from.
    pub(super) lineage: Lineage,
    /// When it arrived.
    pub(super) arrived: Instant,
    /// When its answer no longer counts.
    pub(super) deadline: Instant,
    /// Whether it can be sent again when a worker is lost with it.
    pub(super) is_idempotent: bool,
    /// Whether it waits for the window.
    pub(super) lane: Lane,
    /// What it delivers, and its limit, which the worker can restart.
    pub(super) delivery: Option<Box<Lease>>,
    /// Set when there is no answer; read by the gate.
    pub(super) silence: Arc<OnceLock<Silence>>,
    /// Where the answer goes; taken when the answer is given.
    pub(super) reply: Option<oneshot::Sender<Answer>>,
}

/// A delivery's limit.
#[derive(Debug)]
pub(super) struct Lease {
    /// What the worker is told.
    pub(super) note: DeliveryNote,
    /// How long it may take.
    pub(super) limit: Duration,
    /// When its time is over; read by the gate.
    pub(super) until: watch::Sender<Instant>,
}

/// Why a plugin that does not connect by itself did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The request may have reached it.
    Lost,
    /// The request has certainly not reached it.
    Unreached,
}

impl Silence {
    pub(super) fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Lost(_) => Some(Self::Lost),
            Outcome::Unreached(_) => Some(Self::Unreached),
            Outcome::Result(_) | Outcome::Error(_) | Outcome::Malformed => None,
        }
    }
}

impl Job {
    /// Restarts the limit of a delivery; other requests are not extended.
    pub(super) fn extend(&mut self, now: Instant) {
        if let Some(lease) = &self.delivery {
            self.deadline = now + lease.limit;
            lease.until.send_replace(self.deadline);
        }
    }

    /// Gives the answer. Only the first one counts.
    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // The caller may be gone; then the answer is not needed.
            let _ = reply.send(answer);
        }
    }

    /// Returns whether no caller waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Returns whether it is a timer run.
    pub(super) fn is_timer(&self) -> bool {
        self.kind == "timer"
    }

    /// Returns the approximate memory that it takes.
    pub(super) fn size(&self) -> usize {
        const OVERHEAD: usize = 256;
        self.param.as_ref().map_or(0, |param| param.get().len()) + self.name.len() + OVERHEAD
    }
}

/// The gate sends a request. Replies when the request was sent on, queued or refused; the answer
/// arrives on the job's own channel.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Ask(pub(super) Box<Job>);

/// No caller waits for a request any more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Abandon {
    pub(super) ticket: u64,
    pub(super) reason: CancelReason,
}

/// A delivery must not wait for its turn any more, because these calls wait for what is queued
/// after it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Expedite {
    pub(super) ticket: u64,
    pub(super) via: Vec<Via>,
}

/// A worker said `hello`. Replies with the plugin's figures if the worker is accepted; then its
/// lifecycle begins.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<RequestStats>, Refusal>")]
pub(super) struct Join {
    pub(super) worker: WorkerId,
    pub(super) plugin: String,
    pub(super) transport: TransportKind,
    pub(super) label: String,
    pub(super) sdk: String,
    pub(super) generation: u64,
    pub(super) session: Arc<str>,
    pub(super) window: usize,
    pub(super) from: Option<u64>,
    pub(super) address: Addr<PluginConnection>,
}

/// Looks for a session. Replies with its actor, unless the session is known to have ended.
#[derive(Debug, Message)]
#[rtype(result = "Option<Addr<PluginConnection>>")]
pub(super) struct FindSession {
    pub(super) plugin: String,
    pub(super) session: String,
}

/// A worker came back and claims a session. Replies with whether the session continues on the new
/// transport.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct Attach {
    /// The connection that the worker came back over.
    pub(super) link: WorkerId,
    pub(super) sender: OutgoingSender,
    pub(super) claim: Resume,
    /// The window that it asks for, if any.
    pub(super) window: Option<u64>,
}

/// Why a worker is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: CloseCode,
    pub(super) reason: String,
}

/// A connection reports what happened to its worker and its requests.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct FromWorker {
    pub(super) worker: WorkerId,
    pub(super) report: Report,
}

/// See [`FromWorker`].
#[derive(Debug)]
pub(super) enum Report {
    /// A request no longer takes a slot.
    Freed { ticket: u64 },
    /// A request was not written because there was no room, as the capacity shows.
    Returned { job: Box<Job>, capacity: Capacity },
    /// The worker's capacity has changed.
    Capacity(Capacity),
    /// The worker came back to its session.
    Resumed,
    /// The worker is gone; these requests can be sent to another one.
    Gone { retry: Vec<Job> },
}

/// How much a worker takes at the moment. Numbered, so that a delayed report does not undo a later
/// one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capacity {
    pub(super) number: u64,
    pub(super) window: usize,
    /// How many processes share its requests, where that is known: what can wait is sent only up to
    /// that number at once.
    pub(super) crew: Option<usize>,
    /// Too much is waiting to be written.
    pub(super) is_choked: bool,
    /// It wants no new requests.
    pub(super) is_draining: bool,
    /// Its transport is lost.
    pub(super) is_suspended: bool,
    /// The plugin behind it did not accept the last request. It is asked all the same: that is how
    /// its return is noticed.
    pub(super) is_unreachable: bool,
}

/// `init` was answered, or failed.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct Initialised {
    pub(super) worker: WorkerId,
    pub(super) answer: Answer,
    /// Why the plugin did not answer; `None` if it answered, or if the reason is unknown.
    pub(super) silence: Option<Silence>,
}

/// What became of a registration: the number of points, or why it was refused.
pub type Registered = Result<Json, Vec<Problem>>;

/// Asks for a plugin to be initialised anew. Replies with the outcome of the first attempt that
/// began after the request: when the registration counts, or when it is refused. Replies with
/// `None` if there is no such plugin.
#[derive(Debug, Message)]
#[rtype(result = "Option<Registered>")]
pub(super) struct InitialiseAnew(pub(super) String);

/// A worker has finished `after-config`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Configured(pub(super) WorkerId);

/// Every plugin was sent `before-plugins-ready`. With a worker, only the new generation that the
/// worker belongs to was.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Prepared {
    pub(super) generation_of: Option<WorkerId>,
}

/// Sends a request to the worker.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Dispatch(pub(super) Box<Job>);

/// Tells the worker about its lifecycle.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) enum Notice {
    /// Stop working on a request.
    Cancel(Abandon),
    /// The registration was accepted, with the number of points, or refused.
    Registered(Registered),
    /// Clients are served.
    Ready,
    /// No new requests will follow. With a number, connect again, like so many workers.
    Drain {
        reason: &'static str,
        reconnect: Option<usize>,
        /// How long it has, if that is less than usual.
        within: Option<Duration>,
    },
    /// Another registration counts by now. Ends a session that is suspended.
    Outdated,
    /// The broker knows that it has ended; nothing more will be sent to it.
    Stop,
}

/// An action that a worker asked for has been answered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct CallDone {
    pub(super) id: Arc<str>,
    pub(super) reply: ApiReply,
}

/// Announces something to all workers, without waiting for answers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Announce {
    pub(super) name: &'static str,
    pub(super) param: Json,
}

/// Asks for the state of all plugins.
#[derive(Debug, Message)]
#[rtype(result = "super::PluginsState")]
pub(super) struct GetState;

/// Lets all workers finish their requests, and accepts no new workers. Replies when the last worker
/// is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Leave {
    /// How long workers have to finish their requests.
    pub(super) within: Duration,
}
