//! One worker: its state, and what it is working on.

use std::collections::VecDeque;
use std::time::Instant;

use super::state::{CallId, Ticket};
use crate::plugin::zmq::message::{RequestId, ZmqMessage};

/// A worker with a socket that has a connection, or had one until just now.
#[derive(Debug)]
pub(super) struct Worker {
    /// Whether it said READY, and nothing since has revoked that.
    pub(super) is_ready: bool,
    /// Since when it has had no connection.
    pub(super) unlinked_at: Option<Instant>,
    /// When it was last heard.
    pub(super) heard_at: Instant,
    /// Its place in the order of being heard; a larger number is later.
    pub(super) turn: u64,
    /// When it was last sent something other than a heartbeat.
    pub(super) told_at: Instant,
    /// What it is working on, outermost first.
    pub(super) stack: Vec<Entry>,
    /// Requests that its calls caused while it was still working on another.
    pub(super) nested: VecDeque<Nested>,
    /// What it will be sent once it has a connection again.
    pub(super) unsent: Vec<ZmqMessage>,
}

/// A level of a worker's stack.
#[derive(Debug)]
pub(super) struct Entry {
    /// The outermost request.
    pub(super) id: RequestId,
    /// The depth.
    pub(super) bounce: u32,
    pub(super) work: Work,
}

/// Which side works for the other.
#[derive(Debug)]
pub(super) enum Work {
    /// The worker works for the server, with the caller and its deadline if it still waits.
    Request(Option<(Ticket, Instant)>),
    /// The server works for the worker, until a deadline.
    Call(CallId, Instant),
}

/// A request that waits for its call to become the top of the stack.
#[derive(Debug)]
pub(super) struct Nested {
    pub(super) ticket: Ticket,
    pub(super) call: CallId,
    pub(super) body: Vec<u8>,
    pub(super) deadline: Instant,
}

impl Worker {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            is_ready: false,
            unlinked_at: None,
            heard_at: now,
            turn: 0,
            told_at: now,
            stack: Vec::new(),
            nested: VecDeque::new(),
            unsent: Vec::new(),
        }
    }

    /// Returns whether it can be given a request.
    pub(super) fn is_idle(&self) -> bool {
        self.is_ready && self.unlinked_at.is_none() && self.stack.is_empty()
    }

    /// Returns the index of a request in the stack.
    pub(super) fn find_request(&self, id: &RequestId, bounce: u32) -> Option<usize> {
        self.find(|entry| {
            entry.id == *id && entry.bounce == bounce && matches!(entry.work, Work::Request(_))
        })
    }

    /// Returns the index of a call in the stack.
    pub(super) fn find_call(&self, sought: &CallId) -> Option<usize> {
        self.find(|entry| matches!(&entry.work, Work::Call(call, _) if call == sought))
    }

    fn find(&self, is_match: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.stack.iter().rposition(is_match)
    }

    /// Returns whether it would handle a request caused by this call now, because it waits for the
    /// call.
    pub(super) fn waits_for(&self, sought: &CallId) -> bool {
        let top = self.stack.last().map(|entry| &entry.work);
        matches!(top, Some(Work::Call(call, _)) if call == sought)
    }

    /// Returns whether it was given a request that it has not answered.
    pub(super) fn has_request(&self) -> bool {
        let mut works = self.stack.iter().map(|entry| &entry.work);
        works.any(|work| matches!(work, Work::Request(_)))
    }

    /// Returns whether it only works on requests that no caller waits for any more.
    pub(super) fn is_given_up(&self) -> bool {
        let mut works = self.stack.iter().map(|entry| &entry.work);
        !self.stack.is_empty() && works.all(|work| matches!(work, Work::Request(None)))
    }

    /// Gives up requests that are overdue; returns their tickets. The worker stays busy with those
    /// that it has.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        for entry in &mut self.stack {
            if let Work::Request(waiting) = &mut entry.work {
                let over = waiting.take_if(|(_, deadline)| *deadline <= now);
                tickets.extend(over.map(|(ticket, _)| ticket));
            }
        }
        let is_over = |nested: &Nested| nested.deadline <= now;
        while self.nested.front().is_some_and(is_over) {
            tickets.extend(self.nested.pop_front().map(|nested| nested.ticket));
        }
        tickets
    }

    /// Returns its calls that the server has failed to answer in time.
    pub(super) fn overdue_calls(&self, now: Instant) -> Vec<CallId> {
        let overdue = self.stack.iter().filter_map(|entry| match &entry.work {
            Work::Call(call, deadline) if *deadline <= now => Some(call.clone()),
            Work::Call(..) | Work::Request(_) => None,
        });
        overdue.collect()
    }

    /// Drops a level of the stack and everything above it; returns the tickets of the requests in
    /// them.
    pub(super) fn drop_from(&mut self, index: usize) -> Vec<Ticket> {
        let dropped = self.stack.drain(index..);
        let tickets = dropped.filter_map(|entry| entry.ticket().cloned());
        let mut tickets: Vec<_> = tickets.collect();
        tickets.extend(self.drop_orphans());
        tickets
    }

    /// Drops what belongs to an outermost request, from a level of the stack on; returns the
    /// tickets of the requests in it.
    ///
    /// A call that the worker makes by itself has an id of its own. It may have begun while a
    /// request was on its way to the worker, which handles that request while it waits.
    pub(super) fn drop_within(&mut self, index: usize, id: &RequestId) -> Vec<Ticket> {
        let above = self.stack.split_off(index);
        let (over, kept): (Vec<_>, Vec<_>) = above.into_iter().partition(|entry| entry.id == *id);
        self.stack.extend(kept);
        let tickets = over.iter().filter_map(|entry| entry.ticket().cloned());
        let mut tickets: Vec<_> = tickets.collect();
        tickets.extend(self.drop_orphans());
        tickets
    }

    /// Returns the worker to the request that a call is made for.
    ///
    /// It does one thing at a time, so it no longer works on anything within that request. Returns
    /// the ticket of that request, if a caller still waits, and the tickets of the requests above
    /// it.
    pub(super) fn return_to(
        &mut self,
        id: &RequestId,
        bounce: u32,
    ) -> (Option<Ticket>, Vec<Ticket>) {
        let outer = bounce.checked_sub(1);
        let Some(index) = outer.and_then(|outer| self.find_request(id, outer)) else {
            // That request was given up and forgotten; what was within it is over all the same.
            let is_within = |entry: &Entry| {
                entry.id == *id && entry.bounce > bounce && matches!(entry.work, Work::Request(_))
            };
            let within = self.stack.iter().position(is_within);
            let unfinished = within.map(|index| self.drop_within(index, id));
            return (None, unfinished.unwrap_or_default());
        };
        let unfinished = self.drop_within(index + 1, id);
        let parent = self.stack.get(index).and_then(Entry::ticket).cloned();
        (parent, unfinished)
    }

    /// Drops requests when their calls are over; returns their tickets.
    pub(super) fn drop_orphans(&mut self) -> Vec<Ticket> {
        let nested = std::mem::take(&mut self.nested);
        let (kept, orphans): (VecDeque<_>, VecDeque<_>) = nested
            .into_iter()
            .partition(|nested| self.find_call(&nested.call).is_some());
        self.nested = kept;
        orphans.into_iter().map(|orphan| orphan.ticket).collect()
    }
}

impl Entry {
    /// Returns its ticket, if a caller waits for it.
    pub(super) fn ticket(&self) -> Option<&Ticket> {
        match &self.work {
            Work::Request(waiting) => waiting.as_ref().map(|(ticket, _)| ticket),
            Work::Call(..) => None,
        }
    }
}
