//! The pool's state, and how the server uses it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skytrail_schema::code::{ApiError, Code};

use super::worker::{Entry, Nested, Work, Worker};
use crate::plugin::zmq::bodies;
use crate::plugin::zmq::message::{Envelope, Identity, RequestId, ZmqMessage};

/// How long a request waits for a worker: v1 retries after a second, three times.
pub(super) const WORKER_WAIT: Duration = Duration::from_secs(3);

/// How many levels a stack can have beyond those that the bounce count allows.
const SPARE_LEVELS: usize = 2;

/// How many requests caused by one worker's calls can be waiting.
const MAX_NESTED: usize = 64;

/// Identifies a request to the caller.
pub(in crate::plugin::zmq) type Ticket = Arc<str>;
/// Identifies a worker's call.
pub(in crate::plugin::zmq) type CallId = Arc<str>;

/// The limits of the pool.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugin::zmq) struct Limits {
    /// How long a request may take once a worker has it.
    pub(in crate::plugin::zmq) timeout: Duration,
    /// The highest bounce count.
    pub(in crate::plugin::zmq) max_bounce: u32,
    /// How many requests can wait for any worker.
    pub(in crate::plugin::zmq) max_waiting: usize,
}

impl Limits {
    /// Returns how many levels a stack can have when a worker adds a call to it.
    pub(super) fn max_levels(&self) -> usize {
        let max_bounce = usize::try_from(self.max_bounce).unwrap_or(usize::MAX);
        max_bounce.saturating_add(SPARE_LEVELS)
    }
}

/// An action to perform.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plugin::zmq) enum Action {
    /// Send a message to a worker.
    Tell(Identity, ZmqMessage),
    /// End the connection of a peer that is not a worker.
    HangUp(Identity),
    /// Answer a request with its worker's answer, or with the reason why there is none.
    Answer(Ticket, Result<Vec<u8>, Failure>),
    /// Run an action for a worker, which may be working on a request.
    Call(CallId, Option<Ticket>, Vec<u8>),
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::plugin::zmq) enum Failure {
    /// There was no answer, or the worker was lost.
    #[error("Plugin time out")]
    TimedOut,
    /// No worker has accepted it.
    #[error("Plugin time out")]
    NotTaken,
    /// It would be nested too deeply.
    #[error("Plugin exceeded max bounce count")]
    TooDeep,
    /// A worker makes more calls than it may.
    #[error("too many calls at once")]
    TooManyCalls,
    /// The worker's message was larger than this.
    #[error("more than {0} bytes")]
    TooLarge(u64),
    /// The messages of all workers together were too large.
    #[error("too many large messages at once")]
    NoRoom,
}

impl Failure {
    /// Returns the answer to a worker's call.
    pub(in crate::plugin::zmq) fn to_body(self) -> Vec<u8> {
        let error = match self {
            Self::TooLarge(_) => ApiError::new(Code::BadRequest, format!("a call of {self}")),
            _ => ApiError::unexpected(self.to_string()),
        };
        bodies::refusal(&error)
    }
}

/// A request of the server.
#[derive(Clone, Debug)]
pub(in crate::plugin::zmq) struct WorkerRequest {
    /// Identifies it.
    pub(in crate::plugin::zmq) ticket: Ticket,
    /// The worker's call that caused it, if it was one of this pool.
    pub(in crate::plugin::zmq) parent: Option<CallId>,
    /// How deeply it is nested in requests to others.
    pub(in crate::plugin::zmq) bounce: u32,
    /// JSON.
    pub(in crate::plugin::zmq) body: Vec<u8>,
}

/// A request without a worker, and when it has waited long enough.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: WorkerRequest,
    pub(super) expiry: Instant,
}

/// See the module.
#[derive(Debug)]
pub(in crate::plugin::zmq) struct Pool {
    pub(super) limits: Limits,
    pub(super) workers: BTreeMap<Identity, Worker>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) last_turn: u64,
    pub(super) last_call: u64,
    pub(super) next_beat: Option<Instant>,
    pub(super) actions: Vec<Action>,
}

impl Pool {
    /// Returns a pool without workers.
    pub(in crate::plugin::zmq) fn new(limits: Limits) -> Self {
        Self {
            limits,
            workers: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_turn: 0,
            last_call: 0,
            next_beat: None,
            actions: Vec::new(),
        }
    }

    /// Returns the actions to perform, in order.
    pub(in crate::plugin::zmq) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Returns how many messages a worker can be sent at once that has not said anything: the
    /// replies to all its calls, and then a request.
    pub(in crate::plugin::zmq) fn max_told_at_once(&self) -> usize {
        self.limits.max_levels().saturating_add(1)
    }

    /// Counts the workers that accept requests, now or when they have finished their current ones.
    pub(in crate::plugin::zmq) fn num_ready(&self) -> usize {
        let workers = self.workers.values();
        let ready = workers.filter(|worker| worker.is_ready && worker.unlinked_at.is_none());
        ready.count()
    }

    /// Adds a request.
    pub(in crate::plugin::zmq) fn ask(&mut self, request: WorkerRequest, now: Instant) {
        if let Some(call) = request.parent.clone() {
            return self.ask_nested(request, call, now);
        }
        if request.bounce > self.limits.max_bounce {
            return self.fail(request.ticket, Failure::TooDeep);
        }
        if self.waiting.len() >= self.limits.max_waiting {
            return self.fail(request.ticket, Failure::NotTaken);
        }
        let expiry = now + WORKER_WAIT;
        self.waiting.push_back(Waiting { request, expiry });
        self.serve(now);
    }

    /// Gives waiting requests to idle workers.
    pub(super) fn serve(&mut self, now: Instant) {
        while !self.waiting.is_empty() {
            let idle = self.workers.iter().filter(|(_, worker)| worker.is_idle());
            let latest = idle.max_by_key(|(_, worker)| worker.turn);
            let Some(identity) = latest.map(|(identity, _)| identity.clone()) else {
                return;
            };
            let Some(Waiting { request, .. }) = self.waiting.pop_front() else {
                return;
            };
            let place = (RequestId::random(), request.bounce);
            let deadline = now + self.limits.timeout;
            let waiting = (request.ticket, deadline);
            self.give(&identity, waiting, (place, request.body), now);
        }
    }

    fn ask_nested(&mut self, request: WorkerRequest, call: CallId, now: Instant) {
        let WorkerRequest { ticket, body, .. } = request;
        let deadline = now + self.limits.timeout;
        let holder = self.holder_of(&call);
        let Some((identity, worker)) =
            holder.filter(|(_, worker)| worker.nested.len() < MAX_NESTED)
        else {
            // The worker is gone, or no longer waits for the call, or has too many such requests.
            return self.fail(ticket, Failure::TimedOut);
        };
        worker.nested.push_back(Nested {
            ticket,
            call,
            body,
            deadline,
        });
        self.pump(&identity, now);
    }

    /// Gives a worker the requests that its calls caused, as soon as it would handle them.
    pub(super) fn pump(&mut self, identity: &Identity, now: Instant) {
        loop {
            let Some(worker) = self.workers.get_mut(identity) else {
                return;
            };
            let next = worker.nested.front();
            if !next.is_some_and(|next| worker.waits_for(&next.call)) {
                return;
            }
            let (Some(next), Some(call)) = (worker.nested.pop_front(), worker.stack.last()) else {
                return;
            };
            let place = (call.id.clone(), call.bounce + 1);
            if place.1 > self.limits.max_bounce {
                self.fail(next.ticket, Failure::TooDeep);
            } else {
                let waiting = (next.ticket, next.deadline);
                self.give(identity, waiting, (place, next.body), now);
            }
        }
    }

    fn give(
        &mut self,
        to: &Identity,
        waiting: (Ticket, Instant),
        ((id, bounce), body): ((RequestId, u32), Vec<u8>),
        now: Instant,
    ) {
        if let Some(worker) = self.workers.get_mut(to) {
            worker.stack.push(Entry {
                id: id.clone(),
                bounce,
                work: Work::Request(Some(waiting)),
            });
        }
        self.tell(to, ZmqMessage::Request(Envelope { bounce, id, body }), now);
    }

    /// Cancels a request, because no caller waits for it any more. A worker that has it stays busy.
    pub(in crate::plugin::zmq) fn cancel(&mut self, ticket: &Ticket) {
        let num_before = self.waiting.len();
        self.waiting
            .retain(|waiting| waiting.request.ticket != *ticket);
        let mut is_found = self.waiting.len() < num_before;
        for worker in self.workers.values_mut() {
            let num_before = worker.nested.len();
            worker.nested.retain(|nested| nested.ticket != *ticket);
            is_found |= worker.nested.len() < num_before;
        }
        if is_found {
            self.fail(Arc::clone(ticket), Failure::TimedOut);
        }
    }

    /// Sends a worker the reply to its call.
    pub(in crate::plugin::zmq) fn reply(&mut self, call: &CallId, body: Vec<u8>, now: Instant) {
        let Some((identity, worker)) = self.holder_of(call) else {
            return;
        };
        let Some(entry) = worker
            .find_call(call)
            .map(|index| worker.stack.remove(index))
        else {
            return;
        };
        let orphans = worker.drop_orphans();
        self.fail_all(orphans);
        let Entry { id, bounce, .. } = entry;
        self.tell(
            &identity,
            ZmqMessage::Response(Envelope { bounce, id, body }),
            now,
        );
        self.pump(&identity, now);
        self.serve(now);
    }

    fn holder_of(&mut self, call: &CallId) -> Option<(Identity, &mut Worker)> {
        let mut workers = self.workers.iter_mut();
        let (identity, worker) = workers.find(|(_, worker)| worker.find_call(call).is_some())?;
        Some((identity.clone(), worker))
    }

    /// Returns whether a connection can have this identity.
    ///
    /// An identity that is connected is not taken over, because the answers of two connections
    /// could not be told apart.
    pub(in crate::plugin::zmq) fn link(&mut self, identity: &Identity, now: Instant) -> bool {
        let worker = self.workers.entry(identity.clone());
        let worker = worker.or_insert_with(|| Worker {
            unlinked_at: Some(now),
            ..Worker::new(now)
        });
        if worker.unlinked_at.take().is_none() {
            return false;
        }
        for message in std::mem::take(&mut worker.unsent) {
            self.actions.push(Action::Tell(identity.clone(), message));
        }
        self.serve(now);
        true
    }

    /// Handles the loss of a connection. Its socket may be back in a moment, and its worker with
    /// it.
    pub(in crate::plugin::zmq) fn unlink(&mut self, identity: &Identity, now: Instant) {
        if let Some(worker) = self.workers.get_mut(identity) {
            worker.unlinked_at.get_or_insert(now);
        }
    }

    pub(super) fn tell(&mut self, to: &Identity, message: ZmqMessage, now: Instant) {
        let Some(worker) = self.workers.get_mut(to) else {
            return;
        };
        worker.told_at = now;
        if worker.unlinked_at.is_none() {
            self.actions.push(Action::Tell(to.clone(), message));
        } else {
            worker.unsent.push(message);
        }
    }

    pub(super) fn fail(&mut self, ticket: Ticket, failure: Failure) {
        self.actions.push(Action::Answer(ticket, Err(failure)));
    }

    pub(super) fn fail_all(&mut self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            self.fail(ticket, Failure::TimedOut);
        }
    }
}
