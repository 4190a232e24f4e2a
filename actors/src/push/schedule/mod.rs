//! What is sent next, and when it is retried: a pure machine that is given the time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::pauses::pause_after;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pushes in flight at once.
    pub at_once: usize,
    /// After this many attempts a push is given up.
    pub max_attempts: u32,
    /// An older push is given up: it would only puzzle its recipient. If a service asks for a
    /// longer pause than this, nothing waits for it.
    pub max_age: Duration,
}

/// A push, and how often it was tried.
#[derive(Debug)]
pub struct Entry<T> {
    /// The push.
    pub push: T,
    /// How often it was tried, including this time.
    pub num_attempts: u32,
    /// When it was added.
    pub added: Instant,
    expires: Instant,
}

/// What became of a push that had to be retried.
#[derive(Debug, PartialEq, Eq)]
pub enum Again<T> {
    /// It waits for another attempt.
    Waits,
    /// It was tried often or long enough.
    GivenUp(T),
}

/// See the module's overview.
#[derive(Debug)]
pub struct Schedule<T> {
    bounds: Bounds,
    ready: VecDeque<Entry<T>>,
    waiting: BTreeMap<(Instant, u64), Entry<T>>,
    next_number: u64,
    num_in_flight: usize,
    /// Failures of the whole service since it last accepted something.
    num_holds: u32,
    held_until: Option<Instant>,
}

impl<T> Schedule<T> {
    /// Builds an empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
            num_in_flight: 0,
            num_holds: 0,
            held_until: None,
        }
    }

    /// Adds a push that was requested that long ago.
    pub fn add(&mut self, push: T, age: Duration, now: Instant) {
        self.ready.push_back(Entry {
            push,
            num_attempts: 0,
            added: now,
            expires: now + self.bounds.max_age.saturating_sub(age),
        });
    }

    /// Takes the next push that can be sent now. The caller must report what became of it:
    /// [`Schedule::answered`], [`Schedule::dropped`] or [`Schedule::put_back`].
    pub fn take(&mut self, now: Instant) -> Option<Entry<T>> {
        if self.held_until.is_some_and(|until| now < until) {
            return None;
        }
        // A service that failed is probed with one push.
        let at_once = if self.num_holds > 0 {
            1
        } else {
            self.bounds.at_once
        };
        if self.num_in_flight >= at_once {
            return None;
        }
        // A push that was tried and is due goes first. But while the service is down, every push is
        // tried once before any is retried: otherwise one push would use up its attempts, and the
        // others would never be looked at.
        let untried = (self.num_holds > 0).then(|| self.ready.pop_front());
        let due = self.waiting.first_entry();
        let due = due.filter(|entry| entry.key().0 <= now);
        let mut entry = match (untried.flatten(), due) {
            (Some(untried), _) => untried,
            (None, Some(due)) => due.remove(),
            (None, None) => self.ready.pop_front()?,
        };
        entry.num_attempts += 1;
        self.num_in_flight += 1;
        Some(entry)
    }

    /// Returns when there may be something to take, if nothing happens before.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let first = self.waiting.keys().next().map(|(due, _)| *due);
        let first = if self.ready.is_empty() {
            first
        } else {
            Some(now)
        };
        let held = self.held_until.filter(|until| now < *until);
        match (first, held) {
            (Some(due), Some(until)) => Some(due.max(until)),
            (Some(due), None) if due > now => Some(due),
            // A push in flight frees its slot when it ends.
            _ => None,
        }
    }

    /// The service has given its final answer to a push, whatever it was: the service is up.
    pub fn answered(&mut self, now: Instant) {
        self.num_in_flight = self.num_in_flight.saturating_sub(1);
        self.is_there(now);
    }

    /// A push was not sent, and will not be: the service was not asked.
    pub fn dropped(&mut self) {
        self.num_in_flight = self.num_in_flight.saturating_sub(1);
    }

    /// A push has to be retried, after `wait` at the earliest. With `holds_all`, nothing else is
    /// sent before that either.
    pub fn put_back(
        &mut self,
        entry: Entry<T>,
        (wait, holds_all): (Option<Duration>, bool),
        now: Instant,
    ) -> Again<T> {
        self.num_in_flight = self.num_in_flight.saturating_sub(1);
        let wait = wait.unwrap_or_default();
        if holds_all {
            self.hold(wait.min(self.bounds.max_age), now);
        } else {
            self.is_there(now);
        }
        let pause = pause_after(entry.num_attempts).max(wait);
        let is_too_old = pause > entry.expires.saturating_duration_since(now);
        if entry.num_attempts >= self.bounds.max_attempts || is_too_old {
            return Again::GivenUp(entry.push);
        }
        self.next_number += 1;
        self.waiting.insert((now + pause, self.next_number), entry);
        Again::Waits
    }

    /// Takes everything that is not in flight, without sending it.
    pub fn drain(&mut self) -> Vec<T> {
        let ready = std::mem::take(&mut self.ready).into_iter();
        let waiting = std::mem::take(&mut self.waiting).into_values();
        ready.chain(waiting).map(|entry| entry.push).collect()
    }

    /// Whether nothing can be sent before some time has passed.
    pub fn is_waiting(&self) -> bool {
        self.ready.is_empty() || self.is_held()
    }

    /// Returns the number of pushes that wait, including those for another attempt.
    pub fn num_queued(&self) -> usize {
        self.ready.len() + self.waiting.len()
    }

    /// Returns the number of pushes that wait for another attempt.
    pub fn num_retrying(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of pushes in flight.
    pub fn num_in_flight(&self) -> usize {
        self.num_in_flight
    }

    /// Whether the service has failed, and has not been heard of since.
    pub fn is_held(&self) -> bool {
        self.num_holds > 0
    }

    /// An answer to what was sent before the service failed does not end the pause.
    fn is_there(&mut self, now: Instant) {
        if self.held_until.is_none_or(|until| until <= now) {
            self.num_holds = 0;
            self.held_until = None;
        }
    }

    fn hold(&mut self, wait: Duration, now: Instant) {
        // The pushes that were in flight when it failed count once.
        if self.held_until.is_none_or(|until| until <= now) {
            self.num_holds += 1;
        }
        let until = now + pause_after(self.num_holds).max(wait);
        self.held_until = self.held_until.max(Some(until));
    }
}

#[cfg(test)]
mod tests;
