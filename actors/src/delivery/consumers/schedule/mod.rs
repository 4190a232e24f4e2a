//! Decides what is delivered next: pure, without a clock.
//!
//! 1. Events arrive in the log's order ([`Schedule::load`]), each with the hooks that it requires.
//!    A hook on an event is a *task*.
//! 2. [`Schedule::next`] returns the task to start. Events of one stream run one at a time and in
//!    order; the synchronous hooks of one event in their order, the others in any. Tasks of
//!    different streams run concurrently, as many as fit into the window, and half as many while
//!    the consumer catches up.
//! 3. A task ends ([`Schedule::finish`]) or fails ([`Schedule::fail`]). A failed task waits 1, 2, 4
//!    … 300 s and holds back only its stream; after the last attempt it is given up.
//! 4. [`Schedule::cursor`] tells at any time what is done and what is not.
//! 5. What follows a task that failed and is not done is *held back*, perhaps for minutes: nothing
//!    needs to wait for it ([`Schedule::take_held_back`]).
//!
//! What a delivery itself has caused need not wait for it: a hook can save its own record, and be
//! told of that before it answers. What precedes an urgent event of the same record is equally
//! urgent, and need not wait for the cause either.

mod load;
mod run;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::event::Stream;
use uuid::Uuid;

use crate::delivery::consumers::cursor::{Cursor, Open};

/// A point in time, counted from an arbitrary one.
pub(in crate::delivery::consumers) type Moment = Duration;

/// An event that requires hooks.
#[derive(Clone, Debug)]
pub(in crate::delivery::consumers) struct Arrival {
    /// Its position in the log.
    pub(in crate::delivery::consumers) position: u64,
    /// Its stream.
    pub(in crate::delivery::consumers) stream: Stream,
    /// Its commit.
    pub(in crate::delivery::consumers) commit: Uuid,
    /// The commits whose deliveries caused it, as far as known.
    pub(in crate::delivery::consumers) causes: Vec<Uuid>,
    /// The hooks in their order, and whether each is synchronous. Repeated names count once.
    pub(in crate::delivery::consumers) hooks: Vec<(Arc<str>, bool)>,
    /// Whether synchronous hooks wait for [`Schedule::release`].
    pub(in crate::delivery::consumers) is_held: bool,
    /// Whether the consumer itself waits for its waiter: it then does not wait for the window.
    pub(in crate::delivery::consumers) is_urgent: bool,
    /// Whether its waiter may be a running hook, which cannot be known: anything of its stream that
    /// is in progress may have caused it.
    pub(in crate::delivery::consumers) may_be_nested: bool,
}

/// Identifies a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::delivery::consumers) struct TaskId {
    /// The event's position in the log.
    pub(in crate::delivery::consumers) position: u64,
    /// The hook, by its index on that event.
    pub(in crate::delivery::consumers) hook: usize,
}

/// A task to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::delivery::consumers) struct Start {
    /// The task.
    pub(in crate::delivery::consumers) task: TaskId,
    /// The hook's name.
    pub(in crate::delivery::consumers) hook: Arc<str>,
    /// The number of the attempt, from 1.
    pub(in crate::delivery::consumers) attempt: u32,
    /// Whether its event is part of the past that the consumer is catching up with.
    pub(in crate::delivery::consumers) is_catching_up: bool,
    /// An urgent event that waits for this one.
    pub(in crate::delivery::consumers) expedited_by: Option<u64>,
}

/// What happens to a task that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::delivery::consumers) enum AfterFailure {
    /// It is retried after a pause.
    Again,
    /// That was the last attempt, or an operator gave it up.
    Dead,
    /// There is no such task.
    Unknown,
}

/// A task that ends without being done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::delivery::consumers) struct GivenUp {
    /// The event's position in the log.
    pub(in crate::delivery::consumers) position: u64,
    /// The event's stream.
    pub(in crate::delivery::consumers) stream: Stream,
    /// The hook's name.
    pub(in crate::delivery::consumers) hook: Arc<str>,
    /// Whether the hook is synchronous.
    pub(in crate::delivery::consumers) is_sync: bool,
    /// How many times it was tried.
    pub(in crate::delivery::consumers) attempts: u32,
}

/// Numbers of tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::delivery::consumers) struct Counts {
    /// Tasks that are not done.
    pub(in crate::delivery::consumers) open: usize,
    /// Tasks in progress.
    pub(in crate::delivery::consumers) running: usize,
    /// Tasks that wait to be retried.
    pub(in crate::delivery::consumers) waiting: usize,
}

#[derive(Debug)]
struct Entry {
    stream: Stream,
    commit: Uuid,
    causes: Vec<Uuid>,
    tasks: Vec<Task>,
    is_held: bool,
    is_urgent: bool,
    /// An urgent event of the record that follows this one.
    expedited_by: Option<u64>,
}

impl Entry {
    /// Returns whether one of its tasks has failed and is not done.
    fn is_retried(&self) -> bool {
        self.tasks.iter().any(Task::is_retried)
    }
}

#[derive(Debug)]
struct Task {
    hook: Arc<str>,
    is_sync: bool,
    attempts: u32,
    /// Whether the attempt in progress is the last.
    is_given_up: bool,
    state: State,
}

impl Task {
    /// Returns whether it has failed and is not done.
    fn is_retried(&self) -> bool {
        match self.state {
            State::Ready => self.attempts > 0,
            State::Running(_) => self.attempts > 1,
            State::Waiting(_) => true,
            State::Done => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It can start when its turn comes.
    Ready,
    /// It is in progress.
    Running(Lane),
    /// It is retried at that time.
    Waiting(Moment),
    /// It is done.
    Done,
}

/// What a task in progress counts towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Nothing: its waiter already has a place in the window.
    Urgent,
    /// The window.
    Present,
    /// The window, and the half of it that is available to the past.
    Past,
}

/// The events of one stream that are not done.
#[derive(Debug, Default)]
struct Queue {
    positions: BTreeSet<u64>,
    /// Those with tasks in progress.
    running: Vec<u64>,
    /// Those with tasks that have failed.
    failed: BTreeSet<u64>,
}

/// See the module.
#[derive(Debug)]
pub(in crate::delivery::consumers) struct Schedule {
    max_attempts: u32,
    read: u64,
    /// Up to here, the log is the past that the consumer catches up with.
    catch_up_until: u64,
    entries: BTreeMap<u64, Entry>,
    /// What is open and must be read from the log first.
    unread: BTreeMap<u64, Vec<(Arc<str>, u32)>>,
    ahead: BTreeSet<u64>,
    queues: HashMap<Stream, Queue>,
    ready: BTreeSet<TaskId>,
    urgent: BTreeSet<TaskId>,
    waiting: BTreeSet<(Moment, TaskId)>,
    /// Tasks that became urgent while in progress, with the event that waits for them.
    expedited: Vec<(TaskId, u64)>,
    /// Events that have become held back.
    held_back: Vec<u64>,
    num_open: usize,
    num_running: usize,
    num_urgent: usize,
    num_catching_up: usize,
}

impl Schedule {
    /// Continues from a cursor. Tasks that were open must be read again, see
    /// [`Schedule::next_unread`].
    pub(in crate::delivery::consumers) fn new(cursor: Cursor, max_attempts: u32) -> Self {
        let mut unread: BTreeMap<u64, Vec<(Arc<str>, u32)>> = BTreeMap::new();
        // What is beyond will be read anyway.
        for open in cursor
            .open
            .into_iter()
            .filter(|it| it.position <= cursor.read)
        {
            let hooks = unread.entry(open.position).or_default();
            hooks.push((open.hook, open.attempts));
        }
        Self {
            max_attempts: max_attempts.max(1),
            read: cursor.read,
            catch_up_until: 0,
            entries: BTreeMap::new(),
            num_open: unread.values().map(Vec::len).sum(),
            unread,
            ahead: cursor.ahead,
            queues: HashMap::new(),
            ready: BTreeSet::new(),
            urgent: BTreeSet::new(),
            waiting: BTreeSet::new(),
            expedited: Vec::new(),
            held_back: Vec::new(),
            num_running: 0,
            num_urgent: 0,
            num_catching_up: 0,
        }
    }

    /// Returns how far the consumer has come.
    pub(in crate::delivery::consumers) fn cursor(&self) -> Cursor {
        let is_open = |task: &&Task| task.state != State::Done;
        let loaded = self.entries.iter().flat_map(|(position, entry)| {
            let open = entry.tasks.iter().filter(is_open);
            open.map(|task| (*position, Arc::clone(&task.hook), task.attempts))
        });
        let unread = self.unread.iter().flat_map(|(position, hooks)| {
            hooks
                .iter()
                .map(|(hook, attempts)| (*position, Arc::clone(hook), *attempts))
        });
        let mut open: Vec<Open> = loaded
            .chain(unread)
            .map(|(position, hook, attempts)| Open {
                position,
                hook,
                attempts,
            })
            .collect();
        open.sort();
        Cursor {
            read: self.read,
            open,
            ahead: self.ahead.clone(),
        }
    }

    /// Returns how far the log has been read.
    pub(in crate::delivery::consumers) fn read(&self) -> u64 {
        self.read
    }

    /// Returns the first position with something that is not done; `None` when everything is done.
    pub(in crate::delivery::consumers) fn first_open(&self) -> Option<u64> {
        let loaded = self.entries.keys().next();
        let unread = self.unread.keys().next();
        loaded.into_iter().chain(unread).min().copied()
    }

    /// Returns the numbers of tasks.
    pub(in crate::delivery::consumers) fn counts(&self) -> Counts {
        Counts {
            open: self.num_open,
            running: self.num_running + self.num_urgent,
            waiting: self.waiting.len(),
        }
    }

    /// Marks everything up to `position` as the past, which gets at most half of the window.
    pub(in crate::delivery::consumers) fn catch_up_until(&mut self, position: u64) {
        self.catch_up_until = self.catch_up_until.max(position);
    }

    /// Returns the end of the past.
    pub(in crate::delivery::consumers) fn past(&self) -> u64 {
        self.catch_up_until
    }

    /// Returns how many events are done beyond what has been read.
    pub(in crate::delivery::consumers) fn num_ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Returns whether anything of an event is in progress.
    pub(in crate::delivery::consumers) fn is_in_progress(&self, position: u64) -> bool {
        let is_running = |task: &Task| matches!(task.state, State::Running(_));
        let entry = self.entries.get(&position);
        entry.is_some_and(|entry| entry.tasks.iter().any(is_running))
    }

    /// Returns whether anything of an event is not done.
    pub(in crate::delivery::consumers) fn has_entry(&self, position: u64) -> bool {
        self.entries.contains_key(&position)
    }

    /// Returns whether an event's tasks must wait for others that have failed and will be retried.
    fn is_held_back(&self, position: u64) -> bool {
        let Some(entry) = self.entries.get(&position) else {
            return false;
        };
        let failed = self.queues.get(&entry.stream).map(|queue| &queue.failed);
        let mut before = failed.into_iter().flat_map(|it| it.range(..position));
        before.any(|other| {
            let other = self.entries.get(other);
            other.is_some_and(|other| other.is_retried() && !entry.causes.contains(&other.commit))
        })
    }

    /// Returns whether an event is part of the past that is being caught up with.
    fn is_past(&self, position: u64) -> bool {
        position <= self.catch_up_until
    }

    /// Returns whether any event of a stream is not done.
    pub(in crate::delivery::consumers) fn has_open(&self, stream: &Stream) -> bool {
        self.queues.contains_key(stream)
    }
}

#[cfg(test)]
mod tests;
