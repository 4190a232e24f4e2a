//! What the plugin actors tell each other.
//!
//! Transports send [`FromTransport`]; everything else stays between gate, [`super::Plugins`] and
//! [`super::PluginConnection`].

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
use super::figures::Figures;
use super::gate::{CallContext, DeliveryNote, Lineage, Via, WorkerId};
use super::protocol::{CancelReason, CloseCode, FrameError, Outcome, Problem, Resume, WorkerFrame};
use super::settings::TransportKind;
use super::transport::OutgoingSender;

/// Something came from a worker, or its transport broke. Replies when the actor has dealt with it,
/// so that a transport that waits for the reply is slowed to the actor's pace.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromTransport(pub TransportEvent);

/// What comes from a transport.
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
    /// The worker ended the connection in order: its session is over.
    Goodbye,
    /// So many share the worker's requests out among them.
    Crew(usize),
}

/// Something came over the transport of another connection, which this session goes on over.
/// Replies as [`FromTransport`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Relayed {
    pub(super) link: WorkerId,
    pub(super) event: TransportEvent,
}

/// The result of a request.
pub(super) type Answer = Result<Json, ApiError>;

/// Whether a request waits for a worker's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// It does.
    Window,
    /// A worker's call caused it: who waits for it cannot free a slot before it is answered.
    Nested,
    /// It belongs to the life of one worker and never goes to another.
    Lifecycle,
}

/// A request on its way to a worker. Whoever drops it without an answer has lost it; the gate
/// tells its caller so.
#[derive(Debug)]
pub(super) struct Job {
    /// Names the request in this process.
    pub(super) ticket: u64,
    /// The plugin.
    pub(super) plugin: Arc<str>,
    /// `op`, `hook`, `event`, …
    pub(super) kind: &'static str,
    /// The point's name.
    pub(super) name: String,
    /// The content, written.
    pub(super) param: Option<Box<RawValue>>,
    /// The circumstances.
    pub(super) context: Option<CallContext>,
    /// What it descends from.
    pub(super) lineage: Lineage,
    /// When it came.
    pub(super) arrived: Instant,
    /// When its answer no longer counts.
    pub(super) deadline: Instant,
    /// Whether it may be sent again when a worker is lost with it.
    pub(super) is_idempotent: bool,
    /// Whether it waits for the window.
    pub(super) lane: Lane,
    /// What it delivers, and its limit, which the worker may start anew.
    pub(super) delivery: Option<Box<Lease>>,
    /// Set when there is no answer; the gate looks here.
    pub(super) silence: Arc<OnceLock<Silence>>,
    /// Where the answer goes; taken when it is given.
    pub(super) reply: Option<oneshot::Sender<Answer>>,
}

/// A delivery's limit.
#[derive(Debug)]
pub(super) struct Lease {
    /// What the worker is told.
    pub(super) note: DeliveryNote,
    /// How long it may take.
    pub(super) limit: Duration,
    /// Until when it has; the gate looks here.
    pub(super) until: watch::Sender<Instant>,
}

/// Why a plugin that is not connected by itself did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The request may have reached it.
    Lost,
    /// It certainly has not.
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
    /// Starts a delivery's limit anew; others are not delayed.
    pub(super) fn extend(&mut self, now: Instant) {
        if let Some(lease) = &self.delivery {
            self.deadline = now + lease.limit;
            lease.until.send_replace(self.deadline);
        }
    }

    /// Gives the answer. Only the first counts.
    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may be gone; then nobody is to be told.
            let _ = reply.send(answer);
        }
    }

    /// Whether nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Whether it is a timer's run.
    pub(super) fn is_timer(&self) -> bool {
        self.kind == "timer"
    }

    /// Returns roughly how much memory it takes.
    pub(super) fn size(&self) -> usize {
        const OVERHEAD: usize = 256;
        self.param.as_ref().map_or(0, |param| param.get().len()) + self.name.len() + OVERHEAD
    }
}

/// The gate has a request. Replies when it was sent on, queued or refused; the answer comes by the
/// job's own channel.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Ask(pub(super) Box<Job>);

/// Nobody waits for a request any more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Abandon {
    pub(super) ticket: u64,
    pub(super) reason: CancelReason,
}

/// A delivery is not to wait for its turn any more: these calls wait for what is behind it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Hasten {
    pub(super) ticket: u64,
    pub(super) via: Vec<Via>,
}

/// A worker has said `hello`. Replies with the plugin's figures if it is taken; then its lifecycle
/// begins.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Figures>, Refusal>")]
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

/// Looks for a session. Replies with its actor while its end is not known.
#[derive(Debug, Message)]
#[rtype(result = "Option<Addr<PluginConnection>>")]
pub(super) struct FindSession {
    pub(super) plugin: String,
    pub(super) session: String,
}

/// A worker came back and claims a session. Replies with whether it goes on over the new transport.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct Attach {
    /// The connection that the worker came back over.
    pub(super) link: WorkerId,
    pub(super) sender: OutgoingSender,
    pub(super) claim: Resume,
    /// The window that it asks for, if it does.
    pub(super) window: Option<u64>,
}

/// Why a worker is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: CloseCode,
    pub(super) reason: String,
}

/// A connection tells what became of its worker and its requests.
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
    /// A request was not written: there is no room, as the capacity says.
    Returned { job: Box<Job>, capacity: Capacity },
    /// What it takes has changed.
    Capacity(Capacity),
    /// It came back to its session.
    Resumed,
    /// It is gone; these requests may be sent to another worker.
    Gone { retry: Vec<Job> },
}

/// What a worker takes at the moment. Numbered: one that was delayed does not undo a later one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capacity {
    pub(super) number: u64,
    pub(super) window: usize,
    /// How many share its requests out among them, where that is known: who can wait with what he
    /// has sends no more at once.
    pub(super) crew: Option<usize>,
    /// Too much waits to be written.
    pub(super) is_choked: bool,
    /// It wants no new requests.
    pub(super) is_draining: bool,
    /// Its transport is lost.
    pub(super) is_suspended: bool,
}

/// `init` was answered, or not.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct Initialised {
    pub(super) worker: WorkerId,
    pub(super) answer: Answer,
}

/// A worker has been through `after-config`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Configured(pub(super) WorkerId);

/// Every plugin was sent `before-plugins-ready`; or, with a name, that plugin's new generation was.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Prepared {
    pub(super) generation_of: Option<WorkerId>,
}

/// Send a request to the worker.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Dispatch(pub(super) Box<Job>);

/// Tell the worker something about its life.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) enum Notice {
    /// Stop working on a request.
    Cancel(Abandon),
    /// The registration was taken, with the number of points, or refused.
    Registered(Result<Json, Vec<Problem>>),
    /// Clients are served.
    Ready,
    /// No new requests come; connect again elsewhere, or do not.
    Drain {
        reason: &'static str,
        reconnect: bool,
    },
    /// It has missed too much: another registration counts. Ends a session that is suspended.
    Outdated,
    /// Its end is known; nothing more will be sent to it.
    Stop,
}

/// An action that a worker asked for has been answered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct CallDone {
    pub(super) id: Arc<str>,
    pub(super) reply: ApiReply,
}

/// Tells all workers something, without waiting for answers.
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

/// Lets all workers finish what they have, and takes no new ones. Replies when the last is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Leave;
