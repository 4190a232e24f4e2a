//! The requests that a worker has not answered. Pure: time comes from outside.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::plugin::messages::{Job, Lane};

/// How long after its deadline a request is given up although nobody said so: the gate's word may
/// have found a full mailbox.
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

/// What an answer is to the table.
#[derive(Debug)]
pub(super) enum Answered {
    /// Someone may still wait for it.
    InTime(Box<Job>),
    /// It was given up before.
    Late(Box<Job>),
    /// There is no such request, or it has been answered.
    Unknown,
}

/// Returns a request's id on the wire.
pub(super) fn id_of(ticket: u64) -> String {
    format!("r{ticket}")
}

/// Returns the ticket of an id; only the exact text that [`id_of`] wrote counts.
pub(super) fn ticket_of(id: &str) -> Option<u64> {
    let ticket = id.strip_prefix('r')?.parse().ok()?;
    (id_of(ticket) == id).then_some(ticket)
}

impl Requests {
    /// Notes a request that was sent. One that may not be repeated no longer needs its content.
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

    /// Takes the answer to a request; its slot is free.
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

    /// Gives a request up: its answer no longer counts, though it keeps its slot. Says whether it
    /// was news.
    pub(super) fn give_up(&mut self, ticket: u64, now: Instant) -> bool {
        let pending = self.by_ticket.get_mut(&ticket);
        let Some(pending) = pending.filter(|pending| pending.given_up_at.is_none()) else {
            return false;
        };
        pending.given_up_at = Some(now);
        pending.over.cancel();
        true
    }

    /// Starts the limit of a delivery anew, unless it was given up.
    pub(super) fn extend(&mut self, ticket: u64, now: Instant) {
        let pending = self.by_ticket.get_mut(&ticket);
        if let Some(pending) = pending.filter(|pending| pending.given_up_at.is_none()) {
            pending.job.extend(now);
        }
    }

    /// Returns the requests whose time passed without anybody giving them up.
    pub(super) fn overdue(&self, now: Instant) -> Vec<u64> {
        let is_overdue =
            |pending: &Pending| pending.given_up_at.is_none() && pending.job.deadline + GRACE < now;
        self.by_ticket
            .values()
            .filter(|pending| is_overdue(pending))
            .map(|pending| pending.job.ticket)
            .collect()
    }

    /// Returns the requests that nobody has given up.
    pub(super) fn awaited(&self) -> Vec<u64> {
        let awaited = |pending: &&Pending| pending.given_up_at.is_none();
        let all = self.by_ticket.values().filter(awaited);
        all.map(|pending| pending.job.ticket).collect()
    }

    /// Counts the slots of requests that were given up longer ago than this.
    pub(super) fn num_stuck(&self, now: Instant, after: Duration) -> usize {
        let is_stuck = |pending: &&Pending| {
            pending.job.lane == Lane::Window
                && pending
                    .given_up_at
                    .is_some_and(|since| since + after <= now)
        };
        self.by_ticket.values().filter(is_stuck).count()
    }

    /// Returns the request that a call is made for, and what says that it is over.
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

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// Empties the table: all that somebody may still wait for.
    pub(super) fn take_waiting(&mut self) -> Vec<Job> {
        self.num_nested = 0;
        let all = std::mem::take(&mut self.by_ticket).into_values();
        let all = all.inspect(|pending| pending.over.cancel());
        all.filter(|pending| pending.given_up_at.is_none())
            .map(|pending| *pending.job)
            .collect()
    }
}
