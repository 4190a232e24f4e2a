//! What is started, how it ends, and what may start after that.

use std::sync::Arc;
use std::time::Duration;

use super::{AfterFailure, GivenUp, Lane, Moment, Schedule, Start, State, Task, TaskId};
use crate::pauses::pause_after;

impl Schedule {
    /// Returns a task to start, if there is one and `window` has room for it.
    pub(in crate::delivery::consumers) fn next(
        &mut self,
        now: Moment,
        window: usize,
    ) -> Option<Start> {
        self.wake(now);
        loop {
            let (task, lane) = self.pick(window)?;
            self.ready.remove(&task);
            self.urgent.remove(&task);
            // A later arrival may be in its way; the task is listed again when that is done.
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
            expedited_by: entry.expedited_by,
        };
        if let Some(queue) = self.queues.get_mut(&entry.stream)
            && !queue.running.contains(&id.position)
        {
            queue.running.push(id.position);
        }
        self.count_running(lane, 1);
        Some(start)
    }

    /// Ends a task for good: acknowledged, skipped, or finally refused.
    pub(in crate::delivery::consumers) fn finish(&mut self, id: TaskId) {
        if self.stop(id, State::Done) {
            self.num_open -= 1;
            self.update(id.position);
        }
    }

    /// Ends an attempt that failed. The pause is `pause`, or else depends on the number of
    /// attempts.
    pub(in crate::delivery::consumers) fn fail(
        &mut self,
        id: TaskId,
        now: Moment,
        pause: Option<Duration>,
    ) -> AfterFailure {
        let Some(attempts) = self.attempts(id) else {
            return AfterFailure::Unknown;
        };
        if attempts >= self.max_attempts || self.is_given_up(id) {
            self.finish(id);
            return AfterFailure::Dead;
        }
        self.wait(id, now + pause.unwrap_or_else(|| pause_after(attempts)));
        AfterFailure::Again
    }

    /// Ends an attempt that never reached the consumer: it does not count.
    pub(in crate::delivery::consumers) fn postpone(
        &mut self,
        id: TaskId,
        now: Moment,
        pause: Duration,
    ) -> AfterFailure {
        if self.attempts(id).is_none() {
            return AfterFailure::Unknown;
        }
        if self.is_given_up(id) {
            self.finish(id);
            return AfterFailure::Dead;
        }
        self.wait(id, now + pause);
        if let Some(task) = self.task_mut(id) {
            task.attempts = task.attempts.saturating_sub(1);
        }
        AfterFailure::Again
    }

    /// Ends the tasks of hooks that no longer exist, except those in progress; returns them in the
    /// log's order.
    pub(in crate::delivery::consumers) fn retain(
        &mut self,
        is_kept: impl Fn(&str) -> bool,
    ) -> Vec<GivenUp> {
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
        let gone = gone.into_iter();
        gone.filter_map(|id| self.end_undone(id)).collect()
    }

    /// Returns whether a task has failed and is not done.
    pub(in crate::delivery::consumers) fn is_retried(&self, position: u64, hook: &str) -> bool {
        let entry = self.entries.get(&position);
        let mut tasks = entry.into_iter().flat_map(|entry| &entry.tasks);
        tasks.any(|task| &*task.hook == hook && task.is_retried())
    }

    /// Gives up a task that has failed, and returns it. A task in progress is given up if that
    /// attempt fails, too.
    pub(in crate::delivery::consumers) fn give_up(
        &mut self,
        position: u64,
        hook: &str,
    ) -> Option<GivenUp> {
        let mut tasks = self.entries.get(&position)?.tasks.iter();
        let number = tasks.position(|task| &*task.hook == hook && task.is_retried())?;
        let id = TaskId {
            position,
            hook: number,
        };
        let task = self.task_mut(id)?;
        if matches!(task.state, State::Running(_)) {
            task.is_given_up = true;
            return None;
        }
        self.end_undone(id)
    }

    /// Ends an attempt for a hook that turned out not to exist any more; the attempt does not
    /// count.
    pub(in crate::delivery::consumers) fn disown(&mut self, id: TaskId) -> Option<GivenUp> {
        self.attempts(id)?;
        let given_up = self.end_undone(id)?;
        let attempts = given_up.attempts.saturating_sub(1);
        Some(GivenUp {
            attempts,
            ..given_up
        })
    }

    fn end_undone(&mut self, id: TaskId) -> Option<GivenUp> {
        let entry = self.entries.get(&id.position)?;
        let task = entry.tasks.get(id.hook)?;
        let given_up = GivenUp {
            position: id.position,
            stream: entry.stream.clone(),
            hook: Arc::clone(&task.hook),
            is_sync: task.is_sync,
            attempts: task.attempts,
        };
        self.finish(id);
        Some(given_up)
    }

    /// Returns when the next waiting task can be retried.
    pub(in crate::delivery::consumers) fn next_wake(&self) -> Option<Moment> {
        self.waiting.first().map(|(due, _)| *due)
    }

    fn attempts(&self, id: TaskId) -> Option<u32> {
        let task = self.entries.get(&id.position)?.tasks.get(id.hook)?;
        matches!(task.state, State::Running(_)).then_some(task.attempts)
    }

    fn is_given_up(&self, id: TaskId) -> bool {
        let task = self.entries.get(&id.position);
        let task = task.and_then(|entry| entry.tasks.get(id.hook));
        task.is_some_and(|task| task.is_given_up)
    }

    fn task_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.entries.get_mut(&id.position)?.tasks.get_mut(id.hook)
    }

    fn wait(&mut self, id: TaskId, due: Moment) {
        if self.stop(id, State::Waiting(due)) {
            self.waiting.insert((due, id));
            // Its waiter no longer waits.
            if let Some(entry) = self.entries.get_mut(&id.position) {
                entry.is_urgent = false;
            }
            self.hold_back(id.position);
            self.update(id.position);
        }
    }

    /// Records that an event has failed, which holds back what follows it.
    pub(super) fn hold_back(&mut self, by: u64) {
        let stream = self.entries.get(&by).map(|entry| entry.stream.clone());
        let queue = stream.as_ref().and_then(|it| self.queues.get_mut(it));
        let Some(queue) = queue else { return };
        queue.failed.insert(by);
        let all: Vec<u64> = queue.positions.iter().copied().collect();
        let mut urgent = None;
        for position in all.into_iter().rev() {
            if self.is_held_back(position) && !self.is_in_progress(position) {
                self.note_held_back(position);
            }
            if let Some(entry) = self.entries.get_mut(&position) {
                // One of these may be what expedited it.
                entry.expedited_by = entry.expedited_by.and(urgent);
                urgent = entry.is_urgent.then_some(position).or(urgent);
            }
        }
    }

    /// Moves a task from its state to another; returns whether it was not done yet.
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

    /// Handles a change of an event's tasks: forgets the event when all are done, and lists what
    /// can run now.
    fn update(&mut self, position: u64) {
        let Some(entry) = self.entries.get(&position) else {
            return;
        };
        let is_over = entry.tasks.iter().all(|task| task.state == State::Done);
        let is_running = |task: &Task| matches!(task.state, State::Running(_));
        let is_running = entry.tasks.iter().any(is_running);
        let stream = entry.stream.clone();
        if is_over {
            self.entries.remove(&position);
            if position > self.read {
                self.ahead.insert(position);
            }
        }
        let Some(queue) = self.queues.get_mut(&stream) else {
            return;
        };
        if !is_running {
            queue.running.retain(|running| *running != position);
        }
        if is_over {
            queue.positions.remove(&position);
            queue.failed.remove(&position);
        }
        let Some(first) = queue.positions.first().copied() else {
            self.queues.remove(&stream);
            return;
        };
        // The next event may be allowed to run next to those in progress.
        let is_idle = |other: &u64| !queue.running.contains(other);
        let next = queue.positions.range(position + 1..).copied().find(is_idle);
        self.enlist(first);
        if !is_over && first != position {
            self.enlist(position);
        }
        if let Some(next) = next.filter(|next| is_over && *next != first) {
            self.enlist(next);
        }
    }

    /// Lists those of an event's tasks that can run.
    pub(super) fn enlist(&mut self, position: u64) {
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
                if entry.expedited_by.is_some() || (entry.is_urgent && task.is_sync) {
                    self.urgent.insert(id);
                } else {
                    self.ready.insert(id);
                }
            }
            is_sync_free &= !task.is_sync || task.state == State::Done;
        }
    }

    /// Returns whether an event's turn has come: nothing of its stream is before it or in progress,
    /// except for its causes.
    fn may_run(&self, position: u64) -> bool {
        let Some(entry) = self.entries.get(&position) else {
            return false;
        };
        let Some(queue) = self.queues.get(&entry.stream) else {
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
