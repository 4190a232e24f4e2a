//! What is sent next, and when it is retried: a pure machine that is given the time.

use std::collections::btree_map::Entry::Occupied;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::pauses::pause_after;

/// The longest pause of a service that failed, unless it asks for a longer one. Asking costs it one
/// push, and everything waits for the answer.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

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

/// Something that is sent to somebody's device.
pub trait Addressed {
    /// Identifies somebody.
    type User: Clone + Debug + Ord;

    /// Returns whose device it is for.
    fn user(&self) -> Self::User;
}

/// A push, and how often it was tried.
#[derive(Debug)]
pub struct Entry<T> {
    /// The push.
    pub push: T,
    /// How often it was tried, including this time. What showed that a service is still away does
    /// not count.
    pub num_attempts: u32,
    /// When it was added.
    pub added: Instant,
    expires: Instant,
    /// When it is retried; `None` if it was not tried yet.
    due: Option<Instant>,
    /// Identifies it, also while it is in flight.
    pub number: u64,
    /// Whether it is given up if this attempt fails.
    pub is_last: bool,
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
pub struct Schedule<T: Addressed> {
    bounds: Bounds,
    /// What is not in flight, by number. The next four order it.
    entries: BTreeMap<u64, Entry<T>>,
    /// What was not tried yet, in the order in which it was added.
    ready: BTreeSet<u64>,
    /// What waits for another attempt.
    waiting: BTreeSet<(Instant, u64)>,
    /// Both by user: first what was not tried yet.
    of_user: BTreeMap<T::User, BTreeSet<(Option<Instant>, u64)>>,
    /// Everything, by the time from which on it is too old.
    expiring: BTreeSet<(Instant, u64)>,
    next_number: u64,
    /// Whose push the service failed with last.
    last_asked: Option<T::User>,
    num_in_flight: usize,
    /// Failures of the whole service since it last accepted something.
    num_holds: u32,
    held_until: Option<Instant>,
}

impl<T: Addressed> Schedule<T> {
    /// Builds an empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            of_user: BTreeMap::new(),
            expiring: BTreeSet::new(),
            next_number: 0,
            last_asked: None,
            num_in_flight: 0,
            num_holds: 0,
            held_until: None,
        }
    }

    /// Adds a push that was requested that long ago. Returns its number.
    pub fn add(&mut self, push: T, age: Duration, now: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.insert(Entry {
            push,
            num_attempts: 0,
            added: now,
            expires: now + self.bounds.max_age.saturating_sub(age),
            due: None,
            number,
            is_last: false,
        });
        number
    }

    /// Returns a push by its number, if it is not in flight.
    pub fn get(&self, number: u64) -> Option<&T> {
        self.entries.get(&number).map(|entry| &entry.push)
    }

    /// Puts a push that is requested now in the place of one that is not in flight: it is sent when
    /// that one would have been, and has all its attempts. Otherwise nothing happens.
    pub fn replace(&mut self, number: u64, push: T, now: Instant) {
        if let Some(replaced) = self.remove(number) {
            self.insert(Entry {
                push,
                num_attempts: 0,
                added: now,
                expires: now + self.bounds.max_age,
                ..replaced
            });
        }
    }

    /// Takes out what is too old to be sent. To be called before [`Schedule::take`].
    pub fn expire(&mut self, now: Instant) -> Vec<Entry<T>> {
        let mut expired = Vec::new();
        while let Some((expires, number)) = self.expiring.first().copied()
            && expires <= now
        {
            self.expiring.pop_first();
            expired.extend(self.remove(number));
        }
        expired
    }

    /// Returns when the next push is too old, if it is not in flight by then.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiring.first().map(|(expires, _)| *expires)
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
        let mut entry = self.next(now).and_then(|number| self.remove(number))?;
        entry.num_attempts += 1;
        self.num_in_flight += 1;
        Some(entry)
    }

    /// A push that was tried and is due goes first, unless the service is down.
    fn next(&self, now: Instant) -> Option<u64> {
        let due = self.waiting.first().filter(|(due, _)| *due <= now);
        let next = due
            .map(|(_, number)| number)
            .or(self.ready.first())
            .copied();
        if self.num_holds > 0 && next.is_some() {
            self.next_probe(now)
        } else {
            next
        }
    }

    /// Returns what a service that failed is asked with next: a push of each user in turn, since
    /// somebody's devices may be why it fails, and must not hold up everybody else's. Of one user,
    /// each push is tried before any is retried: otherwise the others would never be looked at.
    fn next_probe(&self, now: Instant) -> Option<u64> {
        let last = self.last_asked.as_ref();
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.of_user.range((after, Bound::Unbounded));
        let mut turns = rest.chain(&self.of_user).map(|(_, pushes)| pushes);
        turns.find_map(|pushes| {
            let (due, number) = pushes.first()?;
            due.is_none_or(|due| due <= now).then_some(*number)
        })
    }

    /// Returns when there may be something to take, if nothing happens before.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let first = self.waiting.first().map(|(due, _)| *due);
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
        mut entry: Entry<T>,
        (wait, holds_all): (Option<Duration>, bool),
        now: Instant,
    ) -> Again<T> {
        self.num_in_flight = self.num_in_flight.saturating_sub(1);
        let wait = wait.unwrap_or_default();
        if holds_all {
            self.hold(wait.min(self.bounds.max_age), now);
            self.last_asked = Some(entry.push.user());
            if self.num_holds > 1 {
                // It has only shown that the service is still away.
                entry.num_attempts = entry.num_attempts.saturating_sub(1);
            }
        } else {
            self.is_there(now);
        }
        let pause = pause_after(entry.num_attempts).max(wait);
        let is_too_old = pause > entry.expires.saturating_duration_since(now);
        let is_last = entry.is_last || entry.num_attempts >= self.bounds.max_attempts;
        if is_last || is_too_old {
            return Again::GivenUp(entry.push);
        }
        entry.due = Some(now + pause);
        self.insert(entry);
        Again::Waits
    }

    /// Returns everything that is not in flight.
    pub fn entries(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.values()
    }

    /// Returns when something is tried again at the earliest; `None` if it was not tried yet.
    pub fn next_attempt(&self, entry: &Entry<T>) -> Option<Instant> {
        entry
            .due
            .map(|due| self.held_until.map_or(due, |until| due.max(until)))
    }

    /// Takes out what is not to be sent, if it is not in flight.
    pub fn withdraw(&mut self, is_selected: impl Fn(&T) -> bool) -> Vec<T> {
        let selected = self
            .entries
            .values()
            .filter(|entry| is_selected(&entry.push));
        let selected: Vec<u64> = selected.map(|entry| entry.number).collect();
        let withdrawn = selected
            .into_iter()
            .filter_map(|number| self.remove(number));
        withdrawn.map(|entry| entry.push).collect()
    }

    /// Ends all pauses. A service that has failed is still asked with one push first.
    pub fn retry_now(&mut self, now: Instant) {
        self.held_until = None;
        let waiting: Vec<u64> = self.waiting.iter().map(|(_, number)| *number).collect();
        for number in waiting {
            if let Some(mut entry) = self.remove(number) {
                entry.due = Some(now);
                self.insert(entry);
            }
        }
    }

    /// Takes everything that is not in flight, without sending it.
    pub fn drain(&mut self) -> Vec<T> {
        self.ready.clear();
        self.waiting.clear();
        self.of_user.clear();
        self.expiring.clear();
        let entries = std::mem::take(&mut self.entries).into_values();
        entries.map(|entry| entry.push).collect()
    }

    fn insert(&mut self, entry: Entry<T>) {
        let number = entry.number;
        match entry.due {
            Some(due) => self.waiting.insert((due, number)),
            None => self.ready.insert(number),
        };
        let its = self.of_user.entry(entry.push.user()).or_default();
        its.insert((entry.due, number));
        self.expiring.insert((entry.expires, number));
        self.entries.insert(number, entry);
    }

    fn remove(&mut self, number: u64) -> Option<Entry<T>> {
        let entry = self.entries.remove(&number)?;
        match entry.due {
            Some(due) => self.waiting.remove(&(due, number)),
            None => self.ready.remove(&number),
        };
        if let Occupied(mut its) = self.of_user.entry(entry.push.user()) {
            its.get_mut().remove(&(entry.due, number));
            if its.get().is_empty() {
                its.remove();
            }
        }
        self.expiring.remove(&(entry.expires, number));
        Some(entry)
    }

    /// Whether nothing can be sent before some time has passed.
    pub fn is_waiting(&self) -> bool {
        self.ready.is_empty() || self.is_held()
    }

    /// Returns the number of pushes that wait, including those for another attempt.
    pub fn num_queued(&self) -> usize {
        self.entries.len()
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
        let pause = pause_after(self.num_holds).min(LONGEST_HOLD);
        let until = now + pause.max(wait);
        self.held_until = self.held_until.max(Some(until));
    }
}

#[cfg(test)]
mod tests;
