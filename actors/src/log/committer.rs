//! The committer: the one thread that assigns positions and makes decisions durable.
//!
//! It takes the decisions that are waiting, drops those that the resolver refuses, writes the rest
//! to the journal as one group, flushes once, tells the observers, and answers. There is no timer:
//! while a flush runs, the next group gathers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use skytrail_schema::codec::{self, CodecError, EncodedEvents, Seal};
use skytrail_schema::event::{Commit, EventBody, Stream};
use skytrail_schema::id::TypeName;
use skytrail_schema::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::disk::{is_full, is_out_of_descriptors};
use super::journal::Journal;
use super::keyring::Keyring;
use super::recent::Recent;
use super::reserve::Reserve;
use super::resolver::Resolver;
use super::{AppendError, CommitObserver, ConflictKey, SequenceRequest};
use crate::observe::Histogram;

/// A group has at most this many commits.
const MAX_GROUP_COMMITS: usize = 1024;
/// A group that has reached this size accepts no more commits.
const MAX_GROUP_BYTES: usize = 1 << 20;
/// The largest number of a sequence field. Numbers that clients ask for have at most 32 bits, so no
/// client can use up what is left for others. And all clients can tell whole numbers up to this one
/// apart.
pub(crate) const MAX_NUMBER: i64 = (1 << 53) - 1;
/// The log's time may be this many microseconds ahead of the clock without a warning, because
/// clocks get adjusted.
const AHEAD_UNSAID_MICROS: i64 = 10 * 1_000_000;

/// Called once when the log can no longer vouch for what it wrote; the process should end.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Returns the time; a commit's time is never before that of the one before it.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The last numbers given to sequence fields.
pub type SequenceNumbers = HashMap<(TypeName, String), i64>;

/// An order to the committer.
pub(super) enum Order {
    /// Append a decision.
    Append(Request),
    /// Seal the open segment, so that everything written so far is in sealed segments.
    Seal(oneshot::Sender<io::Result<()>>),
}

/// A decision on its way to the journal.
pub(super) struct Request {
    pub(super) encoded: EncodedEvents,
    pub(super) read_position: u64,
    pub(super) reads: Vec<ConflictKey>,
    pub(super) writes: Vec<ConflictKey>,
    pub(super) sequences: Vec<SequenceRequest>,
    pub(super) reply: oneshot::Sender<Result<Arc<Commit>, AppendError>>,
}

/// Counters that other threads can read.
#[derive(Debug)]
pub(super) struct Counters {
    /// The time of the last durable commit, in microseconds.
    pub(super) time_micros: AtomicI64,
    pub(super) queued_bytes: AtomicUsize,
    pub(super) num_groups: AtomicU64,
    pub(super) num_conflicts: AtomicU64,
    /// Commits per group.
    pub(super) group_commits: Histogram,
    /// Seconds per flush.
    pub(super) flush_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            time_micros: AtomicI64::default(),
            queued_bytes: AtomicUsize::default(),
            num_groups: AtomicU64::default(),
            num_conflicts: AtomicU64::default(),
            group_commits: Histogram::new(Histogram::NUMBERS),
            flush_seconds: Histogram::new(Histogram::SECONDS),
        }
    }
}

pub(super) struct Committer {
    pub(super) journal: Journal,
    pub(super) resolver: Resolver,
    pub(super) sequences: SequenceNumbers,
    pub(super) observers: Vec<Arc<dyn CommitObserver>>,
    pub(super) recent: Arc<Recent>,
    pub(super) head: watch::Sender<u64>,
    pub(super) counters: Arc<Counters>,
    pub(super) keyring: Option<Arc<Keyring>>,
    pub(super) epoch: u32,
    pub(super) now: Now,
    /// Whether the last commit had to be later than the clock.
    pub(super) is_ahead: bool,
    pub(super) reserve: Option<Arc<Reserve>>,
    pub(super) on_fatal: OnFatal,
}

/// A decision that has its position and waits for the flush.
struct Sealed {
    writes: Vec<ConflictKey>,
    reply: oneshot::Sender<Result<Arc<Commit>, AppendError>>,
}

/// A sequence field, and its last number before it changed.
type NumberBefore = ((TypeName, String), Option<i64>);

/// A group being gathered.
#[derive(Default)]
struct Group {
    commits: Vec<(Vec<u8>, Commit)>,
    waiting: Vec<Sealed>,
    bytes: usize,
    /// Sequence numbers from before they changed, in case a decision is refused or the group is not
    /// written.
    sequences_before: Vec<NumberBefore>,
    /// Keys that the group's erasures retire; the keyring retires them once the group is durable.
    retired: Vec<u64>,
}

impl Committer {
    /// Runs until all senders are gone and the queue is empty, or until the log is in doubt.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group = Group::default();
            let mut seal = None;
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Append(request) => self.admit(request, &mut group),
                    Order::Seal(reply) => {
                        seal = Some(reply);
                        break;
                    }
                }
                let is_full =
                    group.commits.len() >= MAX_GROUP_COMMITS || group.bytes >= MAX_GROUP_BYTES;
                next = if is_full { None } else { queue.try_recv().ok() };
            }
            let done = self.commit(group).and_then(|()| self.seal(seal));
            if let Err(doubt) = done {
                queue.close();
                (self.on_fatal)(&doubt);
                while let Some(order) = queue.blocking_recv() {
                    if let Order::Append(request) = order {
                        let _ = request.reply.send(Err(AppendError::Closed));
                    }
                }
                return;
            }
        }
    }

    /// Assigns a decision its position, or refuses it.
    fn admit(&mut self, request: Request, group: &mut Group) {
        self.counters
            .queued_bytes
            .fetch_sub(request.encoded.size_bytes(), Ordering::Relaxed);
        let is_permitted = self.resolver.permits(request.read_position, &request.reads);
        if !is_permitted || !self.are_in_use(&request.encoded, group) {
            self.counters.num_conflicts.fetch_add(1, Ordering::Relaxed);
            let conflict = AppendError::Conflict {
                read_position: request.read_position,
            };
            let _ = request.reply.send(Err(conflict));
            return;
        }
        let mut encoded = request.encoded;
        let mut writes = request.writes;
        let end = self.journal.end();
        let (position, time, chain) = match group.commits.last() {
            Some((_, last)) => (last.last_position(), last.time, last.chain),
            None => (end.position, end.time, end.chain),
        };
        let time = self.time_after(time);
        let seal = Seal {
            first_position: position + 1,
            time,
            epoch: self.epoch,
        };
        let retired = retired_by(&encoded);
        let num_before = group.sequences_before.len();
        self.follow_fields(&encoded, group);
        let numbered = self.number(&mut encoded, &request.sequences, group);
        let numbered = numbered.and_then(|given| self.tell_counters(&mut encoded).map(|()| given));
        let sealed = numbered.and_then(|given| {
            let (bytes, commit) = codec::seal(encoded, seal, &chain).map_err(unencodable)?;
            Ok((given, bytes, commit))
        });
        let (given, bytes, commit) = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                let changed = group.sequences_before.drain(num_before..);
                self.take_back(changed);
                let _ = request.reply.send(Err(error));
                return;
            }
        };
        writes.extend(given);
        self.resolver.record(commit.last_position(), &writes);
        group.retired.extend(retired);
        group.bytes += bytes.len();
        group.commits.push((bytes, commit));
        group.waiting.push(Sealed {
            writes,
            reply: request.reply,
        });
    }

    /// Returns the time of the next commit: the clock's, but always after the last commit.
    ///
    /// Searches by time rely on that, so if the clock was ahead once, times follow the last commit
    /// until the clock catches up.
    fn time_after(&mut self, last: Timestamp) -> Timestamp {
        let now = (self.now)();
        let time = now.max(Timestamp::from_micros(last.micros() + 1));
        let ahead_micros = time.micros() - now.micros();
        let was_ahead = std::mem::replace(&mut self.is_ahead, ahead_micros > AHEAD_UNSAID_MICROS);
        if self.is_ahead && !was_ahead {
            tracing::warn!(
                seconds = ahead_micros / 1_000_000,
                "the log is ahead of the clock: until the clock catches up, commits get times \
                 after the last one"
            );
        }
        time
    }

    /// Returns whether all keys that the events are sealed with are still in use. A user who was
    /// erased meanwhile gets another key, and the decision is made again with that.
    fn are_in_use(&self, encoded: &EncodedEvents, group: &Group) -> bool {
        let Some(keyring) = &self.keyring else {
            return true;
        };
        let mut keys = encoded.keys();
        keys.all(|key| !keyring.is_retired(key) && !group.retired.contains(&key))
    }

    /// Moves the numbers of a renamed sequence field to its new name, and forgets those of a
    /// deleted one.
    fn follow_fields(&mut self, encoded: &EncodedEvents, group: &mut Group) {
        for event in &encoded.commit().events {
            let Stream::Type(name) = &event.stream else {
                continue;
            };
            let (field, new_name) = match &event.body {
                EventBody::TypeFieldRenamed(change) => (&change.from, Some(&change.to)),
                EventBody::TypeFieldDeleted(change) => (&change.field, None),
                _ => continue,
            };
            let old = (name.clone(), field.clone());
            let Some(number) = self.sequences.remove(&old) else {
                continue;
            };
            group.sequences_before.push((old, Some(number)));
            if let Some(new_name) = new_name {
                let new = (name.clone(), new_name.clone());
                let before = self.sequences.insert(new.clone(), number);
                group.sequences_before.push((new, before));
            }
        }
    }

    /// Assigns sequence fields their numbers. Returns these as values that are taken, so that a
    /// decision that found one of them free is made again. Each event is encoded once, with all of
    /// its numbers.
    fn number(
        &mut self,
        encoded: &mut EncodedEvents,
        requests: &[SequenceRequest],
        group: &mut Group,
    ) -> Result<Vec<ConflictKey>, AppendError> {
        let events = &encoded.commit().events;
        let named = requests.iter().filter_map(|request| {
            let event = events.get(request.event)?;
            let name = match &event.stream {
                Stream::Record(id) => &id.record_type,
                Stream::Type(name) if request.explicit.is_some() => name,
                _ => return None,
            };
            Some(((name.clone(), request.field.clone()), request))
        });
        let named: Vec<_> = named.collect();
        let explicit = named
            .iter()
            .filter_map(|(key, it)| Some((key, it.explicit?)));
        let explicit: HashSet<_> = explicit.collect();
        let mut numbered: BTreeMap<usize, EventBody> = BTreeMap::new();
        let mut given = Vec::new();
        for (key, request) in &named {
            let before = self.sequences.get(key).copied();
            let last = before.unwrap_or(0);
            let number = match request.explicit {
                Some(number) => last.max(number),
                None => {
                    let mut remaining = last.saturating_add(1)..=MAX_NUMBER;
                    let next = remaining.find(|number| !explicit.contains(&(key, *number)));
                    next.ok_or_else(|| AppendError::UsedUp {
                        field: request.field.clone(),
                        max: MAX_NUMBER,
                    })?
                }
            };
            group.sequences_before.push((key.clone(), before));
            self.sequences.insert(key.clone(), number);
            if request.explicit.is_none()
                && let Some(event) = events.get(request.event)
            {
                let body = numbered.entry(request.event);
                let body = body.or_insert_with(|| event.body.clone());
                put_number(body, &request.field, number);
                given.push(ConflictKey::number(&key.0, &key.1, number));
            }
        }
        for (index, body) in numbered {
            let replaced = encoded.replace_body(index, body, super::random_salt());
            replaced.map_err(unencodable)?;
        }
        Ok(given)
    }

    /// Adds to an erasure the last numbers that were given: it may take the events that carried
    /// them.
    fn tell_counters(&self, encoded: &mut EncodedEvents) -> Result<(), AppendError> {
        let events = encoded.commit().events.iter().enumerate();
        let erasures = events.filter_map(|(index, event)| match &event.body {
            EventBody::ErasureRequested(request) => Some((index, request.clone())),
            _ => None,
        });
        for (index, mut request) in erasures.collect::<Vec<_>>() {
            for ((name, field), last) in &self.sequences {
                let of_type = request.counters.entry(name.clone()).or_default();
                of_type.insert(field.clone(), *last);
            }
            let body = EventBody::ErasureRequested(request);
            let replaced = encoded.replace_body(index, body, super::random_salt());
            replaced.map_err(unencodable)?;
        }
        Ok(())
    }

    /// Makes a group durable and answers; an error says why the log is in doubt.
    fn commit(&mut self, group: Group) -> Result<(), String> {
        if group.commits.is_empty() {
            return Ok(());
        }
        let written = match self.journal.write_group(&group.commits) {
            Ok(written) => written,
            Err(error) if is_full(&error) || is_out_of_descriptors(&error) => {
                let is_full = is_full(&error);
                if let Some(reserve) = self.reserve.as_ref().filter(|_| is_full) {
                    reserve.give_up();
                }
                // Part of it may have been written. It has to go, because its writers are told that
                // it was refused.
                if let Err(error) = self.journal.take_back() {
                    self.give_up(group, &AppendError::Closed);
                    return Err(format!("undoing a refused write failed: {error}"));
                }
                let refused = if is_full {
                    AppendError::DiskFull
                } else {
                    AppendError::OutOfDescriptors
                };
                self.give_up(group, &refused);
                return Ok(());
            }
            Err(error) => {
                self.give_up(group, &AppendError::Closed);
                return Err(format!("writing the journal failed: {error}"));
            }
        };
        let begun = Instant::now();
        if let Err(error) = self.journal.sync(written) {
            self.give_up(group, &AppendError::Closed);
            return Err(format!("flushing the journal failed: {error}"));
        }
        if let Some(keyring) = &self.keyring {
            keyring.retire(&group.retired);
        }
        if let Some(reserve) = &self.reserve {
            reserve.found_space();
        }
        let flush = begun.elapsed().as_secs_f64();
        self.counters.flush_seconds.observe(flush);
        let num_commits = u32::try_from(group.commits.len()).unwrap_or(u32::MAX);
        self.counters.group_commits.observe(num_commits.into());
        let commits: Vec<_> = group
            .commits
            .into_iter()
            .map(|(_, commit)| Arc::new(commit))
            .collect();
        for observer in &self.observers {
            observer.committed(&commits);
        }
        self.recent.push(&commits);
        let end = self.journal.end();
        self.head.send_replace(end.position);
        self.counters
            .time_micros
            .store(end.time.micros(), Ordering::Relaxed);
        self.counters.num_groups.fetch_add(1, Ordering::Relaxed);
        for (commit, waiting) in commits.into_iter().zip(group.waiting) {
            let _ = waiting.reply.send(Ok(commit));
        }
        Ok(())
    }

    /// Seals the open segment if that was asked for; an error says why the log is in doubt.
    fn seal(&mut self, requested: Option<oneshot::Sender<io::Result<()>>>) -> Result<(), String> {
        let Some(reply) = requested else {
            return Ok(());
        };
        let sealed = self.journal.seal();
        let doubt = match &sealed {
            Err(error) if !is_full(error) && !is_out_of_descriptors(error) => {
                Err(format!("sealing a segment of the journal failed: {error}"))
            }
            _ => Ok(()),
        };
        let _ = reply.send(sealed);
        doubt
    }

    /// Restores sequence numbers from before they changed; `changed` is in the order of the
    /// changes.
    fn take_back(&mut self, changed: impl DoubleEndedIterator<Item = NumberBefore>) {
        for (key, before) in changed.rev() {
            match before {
                Some(number) => self.sequences.insert(key, number),
                None => self.sequences.remove(&key),
            };
        }
    }

    /// Takes back the positions and numbers of a group that is not in the log.
    fn give_up(&mut self, group: Group, error: &AppendError) {
        self.resolver.reset(self.journal.end().position);
        self.take_back(group.sequences_before.into_iter());
        let refused = group.waiting.len();
        let writes: usize = group
            .waiting
            .iter()
            .map(|waiting| waiting.writes.len())
            .sum();
        tracing::error!(%error, refused, writes, "a group of commits was not written");
        for waiting in group.waiting {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }
}

/// Returns the keys that erasures retire: nothing is sealed with them afterwards.
fn retired_by(encoded: &EncodedEvents) -> Vec<u64> {
    let bodies = encoded.commit().events.iter().map(|event| &event.body);
    let keys = bodies.filter_map(|body| match body {
        EventBody::ErasureRequested(request) => Some(request.keys.iter().copied()),
        _ => None,
    });
    keys.flatten().collect()
}

fn unencodable(error: CodecError) -> AppendError {
    tracing::error!(%error, "a decision could not be encoded");
    AppendError::Malformed
}

fn put_number(body: &mut EventBody, field: &str, number: i64) {
    let fields = match body {
        EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => &mut state.fields,
        EventBody::RecordChanged(patch) => &mut patch.set,
        _ => return,
    };
    fields.insert(field.to_owned(), number.into());
}
