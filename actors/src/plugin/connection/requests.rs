//! The requests that a worker has not answered. Pure: the time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::plugin::messages::{Job, Lane};

/// How long after its deadline a request is given up without a word from the gate, whose message
/// may have found a full mailbox.
const GRACE: Duration = Duration::from_secs(1);

/// The table.
#[derive(Debug, Default)]
pub(super) struct Requests {
    by_ticket: HashMap<u64, Pending>,
    num_nested: usize,
}

#[derive(Debug)]
struct Pending {
    job: Box<Job>,
    given_up_at: Option<Instant>,
    /// Ends the calls that are made for it, when it is answered or given up.
    over: CancellationToken,
}

/// What an answer means to the table.
#[derive(Debug)]
pub(super) enum Answered {
    /// A caller may still be waiting for it.
    InTime(Box<Job>),
    /// It was given up before.
    Late(Box<Job>),
    /// The request does not exist, or has been answered.
    Unknown,
}

/// Returns a request's id on the wire.
pub(super) fn id_of(ticket: u64) -> String {
    format!("r{ticket}")
}

/// Returns the ticket of an id; accepts only the exact text that [`id_of`] writes.
pub(super) fn ticket_of(id: &str) -> Option<u64> {
    let ticket = id.strip_prefix('r')?.parse().ok()?;
    (id_of(ticket) == id).then_some(ticket)
}

impl Requests {
    /// Records a request that was sent. One that cannot be repeated no longer needs its content.
    pub(super) fn insert(&mut self, mut job: Box<Job>) {
        if !job.is_idempotent {
            job.param = None;
        }
        self.num_nested += usize::from(job.lane != Lane::Window);
        let pending = Pending {
            job,
            given_up_at: None,
            over: CancellationToken::new(),
        };
        self.by_ticket.insert(pending.job.ticket, pending);
    }

    /// Handles the answer to a request, which frees its slot.
    pub(super) fn answer(&mut self, ticket: u64) -> Answered {
        let Some(pending) = self.by_ticket.remove(&ticket) else {
            return Answered::Unknown;
        };
        pending.over.cancel();
        self.num_nested -= usize::from(pending.job.lane != Lane::Window);
        let job = pending.job;
        if pending.given_up_at.is_some() {
            Answered::Late(job)
        } else {
            Answered::InTime(job)
        }
    }

    /// Gives a request up: its answer no longer counts, but it keeps its slot. Returns whether it
    /// was not given up before.
    pub(super) fn give_up(&mut self, ticket: u64, now: Instant) -> bool {
        let pending = self.by_ticket.get_mut(&ticket);
        let Some(pending) = pending.filter(|pending| pending.given_up_at.is_none()) else {
            return false;
        };
        pending.given_up_at = Some(now);
        pending.over.cancel();
        true
    }

    /// Restarts the limit of a delivery, unless it was given up.
    pub(super) fn extend(&mut self, ticket: u64, now: Instant) {
        let pending = self.by_ticket.get_mut(&ticket);
        if let Some(pending) = pending.filter(|pending| pending.given_up_at.is_none()) {
            pending.job.extend(now);
        }
    }

    /// Returns the requests that are overdue and not given up.
    pub(super) fn overdue(&self, now: Instant) -> Vec<u64> {
        let is_overdue =
            |pending: &Pending| pending.given_up_at.is_none() && pending.job.deadline + GRACE < now;
        self.by_ticket
            .values()
            .filter(|pending| is_overdue(pending))
            .map(|pending| pending.job.ticket)
            .collect()
    }

    /// Returns the requests that are not given up.
    pub(super) fn awaited(&self) -> Vec<u64> {
        let awaited = |pending: &&Pending| pending.given_up_at.is_none();
        let all = self.by_ticket.values().filter(awaited);
        all.map(|pending| pending.job.ticket).collect()
    }

    /// Counts the slots of requests that were given up at least `after` ago.
    pub(super) fn num_stuck(&self, now: Instant, after: Duration) -> usize {
        let is_stuck = |pending: &&Pending| {
            pending.job.lane == Lane::Window
                && pending
                    .given_up_at
                    .is_some_and(|since| since + after <= now)
        };
        self.by_ticket.values().filter(is_stuck).count()
    }

    /// Returns the request that a call is made for, and the token that says when it is over.
    pub(super) fn get(&self, ticket: u64) -> Option<(&Job, &CancellationToken)> {
        let pending = self.by_ticket.get(&ticket);
        pending.map(|pending| (&*pending.job, &pending.over))
    }

    /// Counts the slots in use.
    pub(super) fn num_plain(&self) -> usize {
        self.by_ticket.len() - self.num_nested
    }

    /// Counts the requests that were sent beyond the window.
    pub(super) fn num_nested(&self) -> usize {
        self.num_nested
    }

    /// Returns whether no request is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// Empties the table and returns the requests that a caller may still wait for.
    pub(super) fn take_waiting(&mut self) -> Vec<Job> {
        self.num_nested = 0;
        let all = std::mem::take(&mut self.by_ticket).into_values();
        let all = all.inspect(|pending| pending.over.cancel());
        all.filter(|pending| pending.given_up_at.is_none())
            .map(|pending| *pending.job)
            .collect()
    }
}
