//! A request's way through the broker: picked, queued, sent, returned, freed.

use std::time::Duration;

use actix::dev::SendError;
use actix::{AsyncContext, Context};
use skytrail_schema::code::ApiError;
use tokio::time::Instant;

use super::actor::{Phase, Plugins, Running, notify};
use super::plugin::Stage;
use crate::plugin::errors::{Unavailable, unavailable};
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{Abandon, Capacity, Dispatch, Expedite, Job, Lane, Notice};

impl Plugins {
    pub(super) fn ask(&mut self, mut job: Box<Job>, ctx: &mut Context<Self>) {
        let Some(index) = self.index_of(&job.plugin) else {
            let error = format!("no plugin named {}", job.plugin);
            return job.answer(Err(ApiError::unexpected(error)));
        };
        if job.lane == Lane::Nested {
            return self.ask_nested(index, job, ctx);
        }
        self.enqueue(index, job, ctx);
    }

    /// Sends a nested request at once: to this plugin's worker that waits for it, or else to the
    /// one with the most room.
    ///
    /// Calls of other plugins may lie between the two.
    fn ask_nested(&mut self, index: usize, job: Box<Job>, ctx: &mut Context<Self>) {
        let stage = self.serving_stage();
        let Some(plugin) = self.plugins.get(index) else {
            return;
        };
        let mut waiting = job.lineage.via.iter().rev();
        let own = waiting.find_map(|via| plugin.worker_with(via.worker, job.kind, &job.name));
        let own = own.map(|worker| worker.id);
        match own.or_else(|| plugin.pick_any(stage)) {
            Some(worker) => {
                if let Err(job) = self.dispatch(index, worker, job, ctx) {
                    self.enqueue(index, job, ctx);
                }
            }
            None => self.enqueue(index, job, ctx),
        }
    }

    /// Returns the stage at which workers get requests. Before clients are served, plugins prepare
    /// with each other's hooks and lambdas.
    pub(super) fn serving_stage(&self) -> Stage {
        match self.phase {
            Phase::Ready => Stage::Ready,
            Phase::Starting | Phase::Preparing => Stage::Initialised,
        }
    }

    fn enqueue(&mut self, index: usize, job: Box<Job>, ctx: &mut Context<Self>) {
        let (max_len, max_bytes) = (self.settings.max_queue, self.settings.max_queue_bytes);
        let Some(plugin) = self.plugins.get_mut(index) else {
            return;
        };
        if let Err(mut job) = plugin.queue.push(job, max_len, max_bytes) {
            return job.answer(Err(unavailable(&plugin.name, Unavailable::QueueFull)));
        }
        self.pump(index, ctx);
    }

    /// Sends waiting requests to workers that have room.
    pub(super) fn pump(&mut self, index: usize, ctx: &mut Context<Self>) {
        let stage = self.serving_stage();
        while let Some(plugin) = self.plugins.get_mut(index) {
            if plugin.queue.is_empty() {
                return;
            }
            let Some(worker) = plugin.pick(stage) else {
                return self.watch_homeless(index, ctx);
            };
            let Some(job) = plugin.queue.pop(plugin.has_room_for_timer(stage)) else {
                return;
            };
            if let Err(job) = self.dispatch(index, worker, job, ctx) {
                return self.put_back(index, job);
            }
        }
    }

    pub(super) fn put_back(&mut self, index: usize, job: Box<Job>) {
        if let Some(plugin) = self.plugins.get_mut(index) {
            plugin.queue.push_front(job);
        }
    }

    /// Hands a request to a connection, or gives it back when the mailbox is full. If the
    /// connection is gone, the request waits for another one.
    fn dispatch(
        &mut self,
        index: usize,
        worker: WorkerId,
        mut job: Box<Job>,
        ctx: &mut Context<Self>,
    ) -> Result<(), Box<Job>> {
        /// The pause before the next try after a full mailbox.
        const PAUSE: Duration = Duration::from_millis(10);
        let Some(plugin) = self.plugins.get_mut(index) else {
            return Err(job);
        };
        job.is_idempotent = plugin.is_idempotent(job.kind, &job.name);
        let ticket = job.ticket;
        let running = Running {
            worker,
            takes_slot: job.lane == Lane::Window,
            is_timer: job.is_timer(),
        };
        let Some(target) = plugin.worker_mut(worker) else {
            return Err(job);
        };
        match target.address.try_send(Dispatch(job)) {
            Ok(()) => {
                target.in_use += usize::from(running.takes_slot);
                target.num_timers += usize::from(running.is_timer);
                plugin.num_dispatched += 1;
                self.running.insert(ticket, running);
                Ok(())
            }
            Err(SendError::Full(Dispatch(job))) => {
                ctx.run_later(PAUSE, move |this, ctx| this.pump(index, ctx));
                Err(job)
            }
            Err(SendError::Closed(Dispatch(job))) => {
                // The actor died without a report. The callers of its requests know by now.
                self.remove_worker(worker, vec![*job], ctx);
                Ok(())
            }
        }
    }

    /// Ensures that requests do not wait too long while there is no worker.
    pub(super) fn watch_homeless(&mut self, index: usize, ctx: &mut Context<Self>) {
        let wait = self.settings.rejoin_wait;
        let Some(plugin) = self.plugins.get_mut(index) else {
            return;
        };
        let Some(expiry) = plugin.next_expiry(wait).filter(|_| !plugin.is_watched) else {
            return;
        };
        plugin.is_watched = true;
        let pause = expiry.saturating_duration_since(Instant::now());
        ctx.run_later(pause, move |this, ctx| this.refuse_homeless(index, ctx));
    }

    fn refuse_homeless(&mut self, index: usize, ctx: &mut Context<Self>) {
        let wait = self.settings.rejoin_wait;
        let now = Instant::now();
        let Some(plugin) = self.plugins.get_mut(index) else {
            return;
        };
        plugin.is_watched = false;
        while plugin.next_expiry(wait).is_some_and(|expiry| expiry <= now) {
            if let Some(mut job) = plugin.queue.pop(true) {
                job.answer(Err(unavailable(&plugin.name, Unavailable::NoWorker)));
            }
        }
        self.watch_homeless(index, ctx);
    }

    /// Sends a queued request as a nested one. A request that a worker already has will be answered
    /// without this.
    pub(super) fn expedite(&mut self, expedite: Expedite, ctx: &mut Context<Self>) {
        for index in 0..self.plugins.len() {
            let plugin = self.plugins.get_mut(index);
            if let Some(mut job) = plugin.and_then(|it| it.queue.remove(expedite.ticket)) {
                job.lane = Lane::Nested;
                job.lineage.via = expedite.via;
                return self.ask_nested(index, job, ctx);
            }
        }
    }

    pub(super) fn abandon(&mut self, abandon: Abandon) {
        let running = self.running.get(&abandon.ticket).copied();
        let Some(running) = running else {
            let mut queues = self.plugins.iter_mut().map(|plugin| &mut plugin.queue);
            queues.any(|queue| queue.remove(abandon.ticket).is_some());
            return;
        };
        if let Some((_, plugin)) = self.home_of(running.worker)
            && let Some(worker) = plugin.worker(running.worker)
        {
            notify(&worker.address, Notice::Cancel(abandon));
        }
    }

    /// Frees a slot; returns whether the request had been counted.
    pub(super) fn free(&mut self, ticket: u64) -> bool {
        let Some(running) = self.running.remove(&ticket) else {
            return false;
        };
        if running.takes_slot {
            self.update(running.worker, |worker| {
                worker.in_use = worker.in_use.saturating_sub(1);
                let num_timers = usize::from(running.is_timer);
                worker.num_timers = worker.num_timers.saturating_sub(num_timers);
            });
        }
        true
    }

    /// Takes a request back from a connection without room, and puts it at the head of the queue.
    pub(super) fn take_back(
        &mut self,
        worker: WorkerId,
        job: Box<Job>,
        capacity: Capacity,
        ctx: &mut Context<Self>,
    ) {
        self.free(job.ticket);
        self.update(worker, |known| known.note(capacity));
        let index = self.index_of(&job.plugin);
        match (job.lane, index) {
            (Lane::Lifecycle, _) | (_, None) => {}
            (Lane::Nested, Some(index)) => self.ask_nested(index, job, ctx),
            (Lane::Window, Some(index)) => {
                self.put_back(index, job);
                self.pump(index, ctx);
            }
        }
    }
}
