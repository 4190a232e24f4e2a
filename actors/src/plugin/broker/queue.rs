//! A plugin's requests that wait for a slot. Pure.

use std::collections::VecDeque;

use crate::plugin::messages::Job;

/// Waiting requests, first in, first out.
///
/// Timer runs have a line of their own, because other requests overtake them while timers hold
/// their share of the window. Each line has its own bounds.
#[derive(Debug, Default)]
pub(super) struct Queue {
    requests: Line,
    timers: Line,
}

#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Box<Job>>,
    num_bytes: usize,
}

impl Queue {
    /// Appends a request, or gives it back when there is no room.
    pub(super) fn push(
        &mut self,
        job: Box<Job>,
        max_len: usize,
        max_bytes: usize,
    ) -> Result<(), Box<Job>> {
        let line = self.line_of(&job);
        if line.jobs.len() >= max_len || line.num_bytes + job.size() > max_bytes {
            return Err(job);
        }
        line.num_bytes += job.size();
        line.jobs.push_back(job);
        Ok(())
    }

    /// Puts a request back at the head.
    pub(super) fn push_front(&mut self, job: Box<Job>) {
        let line = self.line_of(&job);
        line.num_bytes += job.size();
        line.jobs.push_front(job);
    }

    /// Takes the next request that a caller waits for; a timer run only if there is room for one.
    pub(super) fn pop(&mut self, has_room_for_timer: bool) -> Option<Box<Job>> {
        loop {
            let is_timers_turn = has_room_for_timer
                && match (self.timers.jobs.front(), self.requests.jobs.front()) {
                    (Some(timer), Some(request)) => timer.ticket < request.ticket,
                    (timer, _) => timer.is_some(),
                };
            let line = if is_timers_turn {
                &mut self.timers
            } else {
                &mut self.requests
            };
            let job = line.jobs.pop_front()?;
            line.num_bytes -= job.size();
            if !job.is_abandoned() {
                return Some(job);
            }
        }
    }

    /// Removes a request.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<Box<Job>> {
        let mut lines = [&mut self.requests, &mut self.timers].into_iter();
        lines.find_map(|line| line.remove(ticket))
    }

    /// Returns the oldest request.
    pub(super) fn head(&self) -> Option<&Job> {
        let heads = [&self.requests, &self.timers].map(|line| line.jobs.front());
        let heads = heads.into_iter().flatten().map(|job| &**job);
        heads.min_by_key(|job| job.ticket)
    }

    pub(super) fn len(&self) -> usize {
        self.requests.jobs.len() + self.timers.jobs.len()
    }

    pub(super) fn num_timers(&self) -> usize {
        self.timers.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn line_of(&mut self, job: &Job) -> &mut Line {
        if job.is_timer() {
            &mut self.timers
        } else {
            &mut self.requests
        }
    }
}

impl Line {
    fn remove(&mut self, ticket: u64) -> Option<Box<Job>> {
        let index = self.jobs.iter().position(|job| job.ticket == ticket)?;
        let job = self.jobs.remove(index)?;
        self.num_bytes -= job.size();
        Some(job)
    }
}
