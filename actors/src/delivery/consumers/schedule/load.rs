//! What enters the schedule.

use std::sync::Arc;

use super::{Arrival, Entry, Lane, Schedule, State, Task, TaskId};

impl Schedule {
    /// Returns whether an event needs nothing more: it is done, or already loaded.
    pub(in crate::delivery::consumers) fn has(&self, position: u64) -> bool {
        self.entries.contains_key(&position) || self.ahead.contains(&position)
    }

    /// Records that the log has been read up to `position`.
    pub(in crate::delivery::consumers) fn advance(&mut self, position: u64) {
        self.read = self.read.max(position);
        self.ahead = self.ahead.split_off(&(self.read + 1));
    }

    /// Returns the first open position that must be read from the log.
    pub(in crate::delivery::consumers) fn next_unread(&self) -> Option<u64> {
        self.unread.keys().next().copied()
    }

    /// Gives up what was open at a position that cannot be read or no longer requires anything.
    pub(in crate::delivery::consumers) fn forget_unread(&mut self, position: u64) {
        let forgotten = self.unread.remove(&position).unwrap_or_default();
        self.num_open -= forgotten.len();
    }

    /// Gives up what is open at an unread position, except for these hooks; returns the others and
    /// how many times each was tried.
    pub(in crate::delivery::consumers) fn retain_unread(
        &mut self,
        position: u64,
        hooks: &[(Arc<str>, bool)],
    ) -> Vec<(Arc<str>, u32)> {
        let Some(open) = self.unread.get_mut(&position) else {
            return Vec::new();
        };
        let is_kept = |it: &(Arc<str>, u32)| hooks.iter().any(|(hook, _)| *hook == it.0);
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(open).into_iter().partition(is_kept);
        *open = kept;
        self.num_open -= gone.len();
        gone
    }

    /// Reopens tasks that may be done; they must be read from the log.
    pub(in crate::delivery::consumers) fn reopen(
        &mut self,
        position: u64,
        hooks: impl IntoIterator<Item = Arc<str>>,
    ) {
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

    /// Adds an event. At an open position, only the tasks that were open there are added; an event
    /// that is loaded or done adds nothing.
    pub(in crate::delivery::consumers) fn load(&mut self, arrival: Arrival) {
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
                    is_given_up: false,
                    state: State::Ready,
                });
            }
        }
        if let Some(entry) = self.entries.get_mut(&position) {
            // It was reopened while others of its tasks are not done.
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
        let queue = self.queues.entry(arrival.stream.clone()).or_default();
        queue.positions.insert(position);
        let entry = Entry {
            stream: arrival.stream,
            commit: arrival.commit,
            causes: arrival.causes,
            tasks,
            is_held: arrival.is_held,
            is_urgent: arrival.is_urgent,
            expedited_by: None,
        };
        let (is_urgent, is_retried) = (entry.is_urgent, entry.is_retried());
        self.entries.insert(position, entry);
        if is_retried {
            self.hold_back(position);
        }
        if is_urgent || arrival.may_be_nested {
            self.pass_causes(position, arrival.may_be_nested);
        }
        if self.is_held_back(position) {
            self.note_held_back(position);
        } else if is_urgent {
            self.expedite(position);
        }
        self.enlist(position);
    }

    /// Records that an event is held back. Nothing waits for it any more, so it is not urgent.
    pub(super) fn note_held_back(&mut self, position: u64) {
        if let Some(entry) = self.entries.get_mut(&position) {
            entry.is_urgent = false;
            self.held_back.push(position);
        }
    }

    /// Takes the events that have become held back.
    pub(in crate::delivery::consumers) fn take_held_back(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.held_back)
    }

    /// Lets an event that its cause may be waiting for, and what precedes it, run concurrently with
    /// the cause.
    fn pass_causes(&mut self, position: u64, may_be_any: bool) {
        let Some(entry) = self.entries.get(&position) else {
            return;
        };
        let Some(queue) = self.queues.get(&entry.stream) else {
            return;
        };
        let mut causes = entry.causes.clone();
        if may_be_any {
            let running = queue.running.iter();
            causes.extend(running.filter_map(|it| Some(self.entries.get(it)?.commit)));
        }
        let until: Vec<u64> = queue.positions.range(..=position).copied().collect();
        for position in until {
            if let Some(entry) = self.entries.get_mut(&position) {
                for cause in &causes {
                    if !entry.causes.contains(cause) {
                        entry.causes.push(*cause);
                    }
                }
            }
            self.enlist(position);
        }
    }

    /// Makes what an urgent event waits for equally urgent.
    fn expedite(&mut self, by: u64) {
        let record = self.entries.get(&by).map(|entry| &entry.stream);
        let Some(queue) = record.and_then(|record| self.queues.get(record)) else {
            return;
        };
        let before: Vec<u64> = queue.positions.range(..by).copied().collect();
        for position in before {
            if let Some(entry) = self.entries.get_mut(&position) {
                entry.expedited_by.get_or_insert(by);
                for (hook, task) in entry.tasks.iter().enumerate() {
                    if matches!(task.state, State::Running(Lane::Present | Lane::Past)) {
                        self.expedited.push((TaskId { position, hook }, by));
                    }
                }
            }
            self.enlist(position);
        }
    }

    /// Takes the tasks that became urgent while in progress, each with an event that waits for it.
    pub(in crate::delivery::consumers) fn take_expedited(&mut self) -> Vec<(TaskId, u64)> {
        std::mem::take(&mut self.expedited)
    }

    /// Lets the synchronous hooks of an event run, because their turn has come.
    pub(in crate::delivery::consumers) fn release(&mut self, position: u64) {
        if let Some(entry) = self.entries.get_mut(&position) {
            entry.is_held = false;
            self.enlist(position);
        }
    }
}
