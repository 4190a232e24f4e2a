//! What is delivered next: pure, without a clock.
//!
//! 1. Events come in the log's order ([`Schedule::load`]), each with the hooks that it calls for.
//!    A hook on an event is a *task*.
//! 2. [`Schedule::next`] says which task to start. Events of one record come one at a time and in
//!    order; the synchronous hooks of one event in their order, the others as they come. Tasks of
//!    different records run side by side, as many as the window takes, and half as many while the
//!    consumer catches up.
//! 3. A task ends ([`Schedule::finish`]) or fails ([`Schedule::fail`]). One that failed waits 1, 2,
//!    4 … 300 s and holds back only its record; after the last attempt it is given up.
//! 4. [`Schedule::cursor`] says at any time what is over and what is not.
//!
//! What a delivery itself has caused need not wait for it: a hook may save its own record, and be
//! told of that before it answers. What is before an urgent event of the same record is as urgent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::id::RecordId;
use uuid::Uuid;

use super::cursor::{Cursor, Open};

/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A point in time, counted from any.
pub(super) type Moment = Duration;

/// An event that calls for hooks.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// Its place in the log.
    pub(super) position: u64,
    /// Its record.
    pub(super) record: RecordId,
    /// Its commit.
    pub(super) commit: Uuid,
    /// The commits whose deliveries caused it, as far as that is known.
    pub(super) causes: Vec<Uuid>,
    /// The hooks in their order, and whether each is synchronous. A name counts once.
    pub(super) hooks: Vec<(Arc<str>, bool)>,
    /// Whether synchronous hooks wait for [`Schedule::release`].
    pub(super) is_held: bool,
    /// Whether somebody whom the consumer waits for waits for it: it does not wait for the window.
    pub(super) is_urgent: bool,
}

/// Names a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TaskId {
    /// The event's place in the log.
    pub(super) position: u64,
    /// The hook, by its number on that event.
    pub(super) hook: usize,
}

/// A task to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The task.
    pub(super) task: TaskId,
    /// The hook's name.
    pub(super) hook: Arc<str>,
    /// The number of the attempt, from 1.
    pub(super) attempt: u32,
    /// Whether the consumer is still catching up with the past.
    pub(super) is_catching_up: bool,
    /// An urgent event that waits for this one.
    pub(super) hurried_by: Option<u64>,
}

/// What becomes of a task that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again after a pause.
    Again,
    /// That was the last attempt.
    Dead,
    /// There is no such task.
    Unknown,
}

/// How many of what there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Tasks that are not over.
    pub(super) open: usize,
    /// Tasks under way.
    pub(super) running: usize,
    /// Tasks that wait to be tried again.
    pub(super) waiting: usize,
}

#[derive(Debug)]
struct Entry {
    record: RecordId,
    commit: Uuid,
    causes: Vec<Uuid>,
    tasks: Vec<Task>,
    is_held: bool,
    is_urgent: bool,
    /// An urgent event of the record that comes after this one.
    hurried_by: Option<u64>,
}

#[derive(Debug)]
struct Task {
    hook: Arc<str>,
    is_sync: bool,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may start when its turn comes.
    Ready,
    /// It is under way.
    Running(Lane),
    /// It is tried again then.
    Waiting(Moment),
    /// It is over.
    Done,
}

/// What a task under way counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Nothing: whoever waits for it has a place in the window already.
    Urgent,
    /// The window.
    Present,
    /// The window, and the half of it that the past may take.
    Past,
}

/// The events of one record that are not over.
#[derive(Debug, Default)]
struct Queue {
    positions: BTreeSet<u64>,
    /// Those of them that have tasks under way.
    running: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Schedule {
    max_attempts: u32,
    read: u64,
    /// Up to here it is the past that the consumer catches up with.
    catch_up_until: u64,
    entries: BTreeMap<u64, Entry>,
    /// What is open and has to be read from the log first.
    unread: BTreeMap<u64, Vec<(Arc<str>, u32)>>,
    ahead: BTreeSet<u64>,
    queues: HashMap<RecordId, Queue>,
    ready: BTreeSet<TaskId>,
    urgent: BTreeSet<TaskId>,
    waiting: BTreeSet<(Moment, TaskId)>,
    num_open: usize,
    num_running: usize,
    num_urgent: usize,
    num_catching_up: usize,
}

impl Schedule {
    /// Goes on where a cursor stands. Tasks that were open are to be read again, see
    /// [`Schedule::next_unread`].
    pub(super) fn new(cursor: Cursor, max_attempts: u32) -> Self {
        let mut unread: BTreeMap<u64, Vec<(Arc<str>, u32)>> = BTreeMap::new();
        // What is beyond comes by itself.
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
            num_running: 0,
            num_urgent: 0,
            num_catching_up: 0,
        }
    }

    /// Returns how far the consumer is.
    pub(super) fn cursor(&self) -> Cursor {
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

    /// Returns how far the log has been looked at.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Returns the first position at which something is not over; `None` when all is.
    pub(super) fn first_open(&self) -> Option<u64> {
        let loaded = self.entries.keys().next();
        let unread = self.unread.keys().next();
        loaded.into_iter().chain(unread).min().copied()
    }

    /// Returns how many of what there are.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            open: self.num_open,
            running: self.num_running + self.num_urgent,
            waiting: self.waiting.len(),
        }
    }

    /// Says that everything up to `position` is the past: at most half the window is used for it.
    pub(super) fn catch_up_until(&mut self, position: u64) {
        self.catch_up_until = self.catch_up_until.max(position);
    }

    /// Returns up to where it is the past.
    pub(super) fn past(&self) -> u64 {
        self.catch_up_until
    }

    /// Returns how many events are over beyond what has been read.
    pub(super) fn num_ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Whether anything of an event is under way.
    pub(super) fn is_under_way(&self, position: u64) -> bool {
        let is_running = |task: &Task| matches!(task.state, State::Running(_));
        let entry = self.entries.get(&position);
        entry.is_some_and(|entry| entry.tasks.iter().any(is_running))
    }

    /// Whether anything of an event is not over.
    pub(super) fn has_entry(&self, position: u64) -> bool {
        self.entries.contains_key(&position)
    }

    /// Whether an event is the past that is being caught up with.
    fn is_past(&self, position: u64) -> bool {
        position <= self.catch_up_until
    }

    /// Whether any event of a record is not over.
    pub(super) fn has_open(&self, record: &RecordId) -> bool {
        self.queues.contains_key(record)
    }

    /// Whether nothing need be done with an event any more: it is over, or here already.
    pub(super) fn has(&self, position: u64) -> bool {
        self.entries.contains_key(&position) || self.ahead.contains(&position)
    }

    /// Says that the log has been looked at up to `position`.
    pub(super) fn advance(&mut self, position: u64) {
        self.read = self.read.max(position);
        self.ahead = self.ahead.split_off(&(self.read + 1));
    }

    /// Returns the first of the open positions that have to be read from the log.
    pub(super) fn next_unread(&self) -> Option<u64> {
        self.unread.keys().next().copied()
    }

    /// Gives up what was open at a position that cannot be read or calls for nothing any more.
    pub(super) fn forget_unread(&mut self, position: u64) {
        let forgotten = self.unread.remove(&position).unwrap_or_default();
        self.num_open -= forgotten.len();
    }

    /// Opens tasks again that may be over; they have to be read from the log. Without hooks, all
    /// that the event calls for.
    pub(super) fn reopen(&mut self, position: u64, hooks: impl IntoIterator<Item = Arc<str>>) {
        let loaded = self.entries.get(&position);
        for hook in hooks {
            let is_known = |task: &Task| task.hook == hook && task.state != State::Done;
            if loaded.is_some_and(|entry| entry.tasks.iter().any(is_known)) {
                continue;
            }
            let hooks = self.unread.entry(position).or_default();
            if hooks.iter().all(|(known, _)| *known != hook) {
                hooks.push((hook, 0));
                self.num_open += 1;
            }
        }
    }

    /// Takes an event in. One at an open position brings only the tasks that were open there; one
    /// that is here or over already brings nothing.
    pub(super) fn load(&mut self, arrival: Arrival) {
        let position = arrival.position;
        let reopened = self.unread.remove(&position);
        if reopened.is_none() && self.has(position) {
            return;
        }
        let known = reopened.as_deref().unwrap_or_default();
        self.num_open -= known.len();
        let mut tasks: Vec<Task> = Vec::with_capacity(arrival.hooks.len());
        for (hook, is_sync) in arrival.hooks {
            let attempts = match &reopened {
                None => Some(0),
                Some(open) => open
                    .iter()
                    .find(|(name, _)| *name == hook)
                    .map(|(_, attempts)| *attempts),
            };
            if let Some(attempts) = attempts
                && tasks.iter().all(|task| task.hook != hook)
            {
                tasks.push(Task {
                    hook,
                    is_sync,
                    attempts: attempts.min(self.max_attempts - 1),
                    state: State::Ready,
                });
            }
        }
        if let Some(entry) = self.entries.get_mut(&position) {
            // Reopened while others of its tasks are not over.
            tasks.retain(|new| {
                let mut known = entry.tasks.iter();
                known.all(|task| task.hook != new.hook || task.state == State::Done)
            });
            self.num_open += tasks.len();
            entry.tasks.extend(tasks);
            return self.enlist(position);
        }
        if tasks.is_empty() {
            return;
        }
        self.num_open += tasks.len();
        let queue = self.queues.entry(arrival.record.clone()).or_default();
        queue.positions.insert(position);
        let entry = Entry {
            record: arrival.record,
            commit: arrival.commit,
            causes: arrival.causes,
            tasks,
            is_held: arrival.is_held,
            is_urgent: arrival.is_urgent,
            hurried_by: None,
        };
        let is_urgent = entry.is_urgent;
        self.entries.insert(position, entry);
        if is_urgent {
            self.hurry(position);
        }
        self.enlist(position);
    }

    /// Makes what an urgent event waits for as urgent as itself.
    fn hurry(&mut self, by: u64) {
        let record = self.entries.get(&by).map(|entry| &entry.record);
        let Some(queue) = record.and_then(|record| self.queues.get(record)) else {
            return;
        };
        let before: Vec<u64> = queue.positions.range(..by).copied().collect();
        for position in before {
            if let Some(entry) = self.entries.get_mut(&position) {
                entry.hurried_by.get_or_insert(by);
            }
            self.enlist(position);
        }
    }

    /// Lets the synchronous hooks of an event run whose turn it was not yet.
    pub(super) fn release(&mut self, position: u64) {
        if let Some(entry) = self.entries.get_mut(&position) {
            entry.is_held = false;
            self.enlist(position);
        }
    }

    /// Returns a task to start, if there is one and `window` has room for it.
    pub(super) fn next(&mut self, now: Moment, window: usize) -> Option<Start> {
        self.wake(now);
        loop {
            let (task, lane) = self.pick(window)?;
            self.ready.remove(&task);
            self.urgent.remove(&task);
            // What has come meanwhile may be in its way; it is listed again when that is over.
            if self.may_run(task.position) {
                return self.start(task, lane);
            }
        }
    }

    fn pick(&self, window: usize) -> Option<(TaskId, Lane)> {
        if let Some(task) = self.urgent.first() {
            return Some((*task, Lane::Urgent));
        }
        if self.num_running >= window {
            return None;
        }
        let half = (window / 2).max(1);
        let first = self.ready.first()?;
        if !self.is_past(first.position) {
            return Some((*first, Lane::Present));
        }
        if self.num_catching_up < half {
            return Some((*first, Lane::Past));
        }
        let present = TaskId {
            position: self.catch_up_until + 1,
            hook: 0,
        };
        let mut later = self.ready.range(present..);
        later.next().map(|task| (*task, Lane::Present))
    }

    fn start(&mut self, id: TaskId, lane: Lane) -> Option<Start> {
        let is_catching_up = self.is_past(id.position);
        let entry = self.entries.get_mut(&id.position)?;
        let task = entry.tasks.get_mut(id.hook)?;
        task.state = State::Running(lane);
        task.attempts += 1;
        let start = Start {
            task: id,
            hook: Arc::clone(&task.hook),
            attempt: task.attempts,
            is_catching_up,
            hurried_by: entry.hurried_by,
        };
        if let Some(queue) = self.queues.get_mut(&entry.record)
            && !queue.running.contains(&id.position)
        {
            queue.running.push(id.position);
        }
        self.count_running(lane, 1);
        Some(start)
    }

    /// Ends a task for good: acknowledged, skipped, or refused for good.
    pub(super) fn finish(&mut self, id: TaskId) {
        if self.stop(id, State::Done) {
            self.num_open -= 1;
            self.settle(id.position);
        }
    }

    /// Ends an attempt that failed. The pause is `pause`, or what follows from the number of
    /// attempts.
    pub(super) fn fail(&mut self, id: TaskId, now: Moment, pause: Option<Duration>) -> Verdict {
        let Some(attempts) = self.attempts(id) else {
            return Verdict::Unknown;
        };
        if attempts >= self.max_attempts {
            self.finish(id);
            return Verdict::Dead;
        }
        self.wait(id, now + pause.unwrap_or_else(|| pause_after(attempts)));
        Verdict::Again
    }

    /// Ends an attempt that never reached the consumer: it does not count.
    pub(super) fn postpone(&mut self, id: TaskId, now: Moment, pause: Duration) {
        if self.attempts(id).is_some() {
            self.wait(id, now + pause);
            if let Some(task) = self.task_mut(id) {
                task.attempts = task.attempts.saturating_sub(1);
            }
        }
    }

    /// Ends the tasks, other than those under way, of hooks that are not any more.
    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        let mut gone = Vec::new();
        for (position, entry) in &self.entries {
            for (hook, task) in entry.tasks.iter().enumerate() {
                let is_idle = matches!(task.state, State::Ready | State::Waiting(_));
                if is_idle && !is_kept(&task.hook) {
                    let position = *position;
                    gone.push(TaskId { position, hook });
                }
            }
        }
        for id in gone {
            self.finish(id);
        }
    }

    /// Returns when the next task that waits may be tried again.
    pub(super) fn next_wake(&self) -> Option<Moment> {
        self.waiting.first().map(|(due, _)| *due)
    }

    fn attempts(&self, id: TaskId) -> Option<u32> {
        let task = self.entries.get(&id.position)?.tasks.get(id.hook)?;
        matches!(task.state, State::Running(_)).then_some(task.attempts)
    }

    fn task_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.entries.get_mut(&id.position)?.tasks.get_mut(id.hook)
    }

    fn wait(&mut self, id: TaskId, due: Moment) {
        if self.stop(id, State::Waiting(due)) {
            self.waiting.insert((due, id));
            // Whoever waited for it no longer does.
            if let Some(entry) = self.entries.get_mut(&id.position) {
                entry.is_urgent = false;
            }
            self.settle(id.position);
        }
    }

    /// Takes a task out of where it is; says whether it was not over yet.
    fn stop(&mut self, id: TaskId, next: State) -> bool {
        let Some(task) = self.task_mut(id) else {
            return false;
        };
        let before = std::mem::replace(&mut task.state, next);
        match before {
            State::Done => {
                if let Some(task) = self.task_mut(id) {
                    task.state = State::Done;
                }
                return false;
            }
            State::Running(lane) => self.count_running(lane, -1),
            State::Waiting(due) => {
                self.waiting.remove(&(due, id));
            }
            State::Ready => {}
        }
        self.ready.remove(&id);
        self.urgent.remove(&id);
        true
    }

    fn count_running(&mut self, lane: Lane, change: isize) {
        let counted = match lane {
            Lane::Urgent => &mut self.num_urgent,
            Lane::Present | Lane::Past => &mut self.num_running,
        };
        *counted = counted.saturating_add_signed(change);
        if lane == Lane::Past {
            self.num_catching_up = self.num_catching_up.saturating_add_signed(change);
        }
    }

    /// After a change of an event's tasks: forgets it when all are over, and lists what may run now.
    fn settle(&mut self, position: u64) {
        let Some(entry) = self.entries.get(&position) else {
            return;
        };
        let is_over = entry.tasks.iter().all(|task| task.state == State::Done);
        let is_running = |task: &Task| matches!(task.state, State::Running(_));
        let is_running = entry.tasks.iter().any(is_running);
        let record = entry.record.clone();
        if is_over {
            self.entries.remove(&position);
            if position > self.read {
                self.ahead.insert(position);
            }
        }
        let Some(queue) = self.queues.get_mut(&record) else {
            return;
        };
        if !is_running {
            queue.running.retain(|running| *running != position);
        }
        if is_over {
            queue.positions.remove(&position);
        }
        let Some(first) = queue.positions.first().copied() else {
            self.queues.remove(&record);
            return;
        };
        self.enlist(first);
        if !is_over && first != position {
            self.enlist(position);
        }
    }

    /// Lists those of an event's tasks that may run.
    fn enlist(&mut self, position: u64) {
        if !self.may_run(position) {
            return;
        }
        let Some(entry) = self.entries.get(&position) else {
            return;
        };
        let mut is_sync_free = !entry.is_held;
        for (hook, task) in entry.tasks.iter().enumerate() {
            if task.state == State::Ready && (is_sync_free || !task.is_sync) {
                let id = TaskId { position, hook };
                if entry.hurried_by.is_some() || (entry.is_urgent && task.is_sync) {
                    self.urgent.insert(id);
                } else {
                    self.ready.insert(id);
                }
            }
            is_sync_free &= !task.is_sync || task.state == State::Done;
        }
    }

    /// Whether an event's turn has come: nothing of its record is before it or under way, but for
    /// what caused it.
    fn may_run(&self, position: u64) -> bool {
        let Some(entry) = self.entries.get(&position) else {
            return false;
        };
        let Some(queue) = self.queues.get(&entry.record) else {
            return false;
        };
        let is_cause = |other: &u64| {
            let other = self.entries.get(other);
            other.is_some_and(|other| entry.causes.contains(&other.commit))
        };
        let mut running = queue.running.iter().filter(|other| **other != position);
        running.all(is_cause) && queue.positions.range(..position).all(is_cause)
    }

    fn wake(&mut self, now: Moment) {
        while let Some((due, id)) = self.waiting.first().copied() {
            if due > now {
                return;
            }
            self.waiting.remove(&(due, id));
            if let Some(task) = self.task_mut(id) {
                task.state = State::Ready;
            }
            self.enlist(id.position);
        }
    }
}

/// Returns the pause after so many attempts: 1, 2, 4 … 300 s.
fn pause_after(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    Duration::from_secs(1 << doublings).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
