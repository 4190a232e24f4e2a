//! One plugin: its workers, its registration and its waiting requests. Pure.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use rand::seq::IteratorRandom;
use tokio::time::Instant;

use super::anew::{Pace, Waiting};
use super::queue::Queue;
use super::registering::Refused;
use crate::plugin::connection::PluginConnection;
use crate::plugin::gate::{Presence, WorkerId, window_for_timers};
use crate::plugin::messages::Capacity;
use crate::plugin::protocol::Problem;
use crate::plugin::registration::Registration;
use crate::plugin::settings::TransportKind;

/// A plugin.
#[derive(Debug)]
pub(super) struct Plugin {
    pub(super) name: Arc<str>,
    /// Whether the server waits for it at start.
    pub(super) is_listed: bool,
    pub(super) workers: Vec<Worker>,
    pub(super) active: Option<Active>,
    /// The newest generation that was registered, and when it was last seen.
    pub(super) newest: Option<(u64, Instant)>,
    pub(super) queue: Queue,
    /// Since when no worker has been able to take requests.
    pub(super) homeless_since: Option<Instant>,
    /// Since when no worker with the active registration has been within reach.
    pub(super) missing_since: Option<Instant>,
    /// The absence for whose warning a timer is running, or was.
    pub(super) watched_absence: Option<Instant>,
    /// Whether a timer is running that refuses expired requests.
    pub(super) is_watched: bool,
    /// What was wrong with the last registration, until one is accepted.
    pub(super) problems: Vec<Problem>,
    /// How many times in a row it was refused for these problems.
    num_refused: u64,
    /// The plugins whose points are among the problems.
    pub(super) clashes: Vec<usize>,
    /// How often it is initialised anew because of clashes, once it has registered.
    pub(super) pace: Option<Pace>,
    /// The callers that wait for its initialisation.
    pub(super) waiting: Vec<Waiting>,
    pub(super) num_dispatched: u64,
    pub(super) num_lost: u64,
    pub(super) num_resumed: u64,
}

/// The active registration.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) generation: u64,
    pub(super) registration: Arc<Registration>,
    idempotent: HashSet<(&'static str, String)>,
}

/// A worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) label: String,
    pub(super) session: Arc<str>,
    pub(super) sdk: String,
    pub(super) address: Addr<PluginConnection>,
    pub(super) generation: u64,
    /// Its capacity, as last reported.
    pub(super) capacity: Capacity,
    pub(super) in_use: usize,
    /// How many of these are timer runs.
    pub(super) num_timers: usize,
    pub(super) stage: Stage,
    pub(super) registration: Option<Arc<Registration>>,
    /// The position after which it wants deliveries to start.
    pub(super) from: Option<u64>,
    pub(super) is_draining: bool,
}

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(super) enum Stage {
    /// It said `hello`.
    Greeted,
    /// Its registration was accepted.
    Initialised,
    /// It has finished `after-config`.
    Configured,
    /// It serves clients.
    Ready,
}

impl Active {
    pub(super) fn new(generation: u64, registration: Arc<Registration>) -> Self {
        Self {
            generation,
            idempotent: registration.idempotent_points(),
            registration,
        }
    }

    fn is_idempotent(&self, kind: &'static str, name: &str) -> bool {
        !self.idempotent.is_empty() && self.idempotent.contains(&(kind, name.to_owned()))
    }
}

impl Plugin {
    pub(super) fn new(name: Arc<str>, is_listed: bool) -> Self {
        Self {
            name,
            is_listed,
            workers: Vec::new(),
            active: None,
            newest: None,
            queue: Queue::default(),
            homeless_since: Some(Instant::now()),
            missing_since: Some(Instant::now()),
            watched_absence: None,
            is_watched: false,
            problems: Vec::new(),
            num_refused: 0,
            clashes: Vec::new(),
            pace: None,
            waiting: Vec::new(),
            num_dispatched: 0,
            num_lost: 0,
            num_resumed: 0,
        }
    }

    pub(super) fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.id == id)
    }

    pub(super) fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.id == id)
    }

    /// Returns the workers at or beyond a stage that have the active registration.
    fn serving(&self, stage: Stage) -> impl Iterator<Item = &Worker> {
        let generation = self.active.as_ref().map(|active| active.generation);
        self.workers.iter().filter(move |worker| {
            worker.stage >= stage && Some(worker.generation) == generation && !worker.is_draining
        })
    }

    /// Chooses, before workers become ready, the worker whose start position counts.
    ///
    /// It is one that arrives while no other worker serves, and it counts once. The positions of
    /// the others are outdated by the time that they serve alone.
    pub(super) fn choose_starter(&mut self) {
        let generation = self.active.as_ref().map(|active| active.generation);
        let is_coming = |worker: &Worker| {
            worker.stage == Stage::Configured && Some(worker.generation) == generation
        };
        let is_present = |worker: &Worker| !worker.capacity.is_suspended;
        let is_served = self.serving(Stage::Ready).any(is_present);
        let may_start = |worker: &&Worker| !is_served && is_coming(worker) && worker.from.is_some();
        let starter = self.workers.iter().find(may_start).map(|worker| worker.id);
        for worker in &mut self.workers {
            if Some(worker.id) != starter && (starter.is_some() || is_coming(worker)) {
                worker.from = None;
            }
        }
    }

    /// Returns the plugin's presence, for deliveries.
    pub(super) fn presence(
        &self,
        stage: Stage,
        (limit, transport): (Duration, TransportKind),
    ) -> Presence {
        let is_here = |worker: &&Worker| !worker.capacity.is_suspended;
        let serving = || self.serving(stage).filter(is_here);
        Presence {
            is_registered: self.active.is_some(),
            // Suspended workers count: they may come back to their sessions, and their clients
            // should notice nothing.
            num_workers: self.serving(stage).count(),
            is_ready: serving().any(|worker| worker.stage == Stage::Ready),
            is_attended: self.workers.iter().any(Worker::is_present),
            is_leaving: self.workers.iter().any(|worker| worker.is_draining),
            generation: self.active.as_ref().map(|active| active.generation),
            window: serving().map(Worker::window_for_deliveries).sum(),
            limit,
            transport,
            from: serving().find_map(|worker| Some((worker.id, worker.from?))),
        }
    }

    /// Picks the worker with the smallest share of its window in use; at random among equals.
    pub(super) fn pick(&self, stage: Stage) -> Option<WorkerId> {
        let has_room = |worker: &&Worker| worker.has_room();
        least(self.serving(stage).filter(has_room))
    }

    /// Returns whether one more timer run can have a slot.
    ///
    /// Timer runs can hold half of the window, so hooks and lambdas continue however long these
    /// take. A window of one they can hold completely.
    pub(super) fn has_room_for_timer(&self, stage: Stage) -> bool {
        let is_here = |worker: &&Worker| !worker.capacity.is_suspended;
        let here = || self.serving(stage).filter(is_here);
        let window = here().map(Worker::window_for_deliveries).sum();
        let num_timers: usize = here().map(|worker| worker.num_timers).sum();
        num_timers < window_for_timers(window)
    }

    /// Picks a worker for a request that does not wait for a window.
    pub(super) fn pick_any(&self, stage: Stage) -> Option<WorkerId> {
        let is_here = |worker: &&Worker| !worker.capacity.is_suspended;
        least(self.serving(stage).filter(is_here))
    }

    /// Returns the first worker at or beyond a stage with the active registration; a suspended one
    /// only if all are.
    pub(super) fn first(&self, stage: Stage) -> Option<&Worker> {
        let serving = self.serving(stage);
        serving.min_by_key(|worker| worker.capacity.is_suspended)
    }

    /// Returns whether a worker with the active registration is connected, and serves now or once
    /// the server does.
    pub(super) fn is_attended(&self) -> bool {
        self.serving(Stage::Initialised).any(Worker::is_present)
    }

    /// Returns the number of workers that are connected, as far as the server knows. Of a plugin
    /// that the server asks, the workers are those behind the session whose registration is active;
    /// without a crew it counts as one.
    pub(super) fn num_connected(&self, transport: TransportKind) -> usize {
        if transport == TransportKind::WebSocket {
            let is_here = |worker: &&Worker| !worker.capacity.is_suspended;
            return self.workers.iter().filter(is_here).count();
        }
        let reached = self
            .serving(Stage::Initialised)
            .filter(|it| it.is_reached());
        let crews = reached.map(|worker| worker.capacity.crew.unwrap_or(1));
        crews.max().unwrap_or(0)
    }

    /// Records whether a worker with the active registration is within reach.
    pub(super) fn note_reach(&mut self) {
        if self.serving(Stage::Initialised).any(Worker::is_reached) {
            self.missing_since = None;
        } else {
            self.missing_since.get_or_insert_with(Instant::now);
        }
    }

    /// Returns whether the plugin has been out of reach for longer than its requests wait for a
    /// worker.
    pub(super) fn is_missing(&self, wait: Duration) -> bool {
        let since = self.missing_since;
        self.is_listed && since.is_some_and(|since| since.elapsed() >= wait)
    }

    /// Returns whether a connected worker of a generation serves clients.
    pub(super) fn is_served_by(&self, generation: u64) -> bool {
        let is_its = |worker: &Worker| worker.generation == generation && worker.is_present();
        self.serving(Stage::Ready).any(is_its)
    }

    /// Returns whether a request can be sent again after a loss.
    pub(super) fn is_idempotent(&self, kind: &'static str, name: &str) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| active.is_idempotent(kind, name))
    }

    /// Returns a newer generation that is connected, or was last seen within `memory`. One from
    /// before that no longer counts.
    pub(super) fn newer_than(&mut self, generation: u64, memory: Duration) -> Option<u64> {
        let (newest, seen) = self.newest.filter(|(newest, _)| generation < *newest)?;
        let mut workers = self.workers.iter();
        let is_known = seen.elapsed() < memory || workers.any(|it| it.generation == newest);
        if !is_known {
            self.newest = None;
        }
        is_known.then_some(newest)
    }

    /// Records why a registration is refused.
    ///
    /// A plugin that the server asks is asked again and again: new reasons are logged at once,
    /// repeated ones ever more rarely.
    pub(super) fn note_refusal(&mut self, refused: &Refused) {
        let (plugin, problems) = (&self.name, &refused.problems);
        self.clashes.clone_from(&refused.clashes);
        if self.problems != *problems {
            self.problems.clone_from(problems);
            self.num_refused = 0;
        }
        if refused.is_unreached {
            // The one that reaches the plugin logs it, and when it tries again.
            return;
        }
        if self.num_refused == 0 {
            for problem in problems {
                tracing::warn!(%plugin, %problem, "registration refused");
            }
        }
        self.num_refused += 1;
        let num_times = self.num_refused;
        if num_times > 2 && num_times.is_power_of_two() {
            tracing::warn!(%plugin, num_times, "registration refused again, for the same reasons");
        }
    }

    /// Records that a registration is accepted.
    pub(super) fn note_registration(&mut self) {
        self.problems.clear();
        self.clashes.clear();
        self.num_refused = 0;
        self.pace.get_or_insert_with(|| Pace::begin(Instant::now()));
    }

    /// Records that a worker is gone.
    pub(super) fn note_lost(&mut self, worker: &Worker) {
        self.num_lost += u64::from(!worker.is_draining);
        if let Some((newest, seen)) = &mut self.newest
            && *newest == worker.generation
        {
            *seen = Instant::now();
        }
        self.note_home();
    }

    /// Returns a worker, if it has a point: a worker of another generation may lack it.
    pub(super) fn worker_with(&self, id: WorkerId, kind: &str, name: &str) -> Option<&Worker> {
        let active = self.active.as_ref().map(|active| active.generation);
        let has_point = |worker: &&Worker| {
            let registration = worker.registration.as_ref();
            Some(worker.generation) == active
                || registration.is_some_and(|registration| registration.has(kind, name))
        };
        self.worker(id).filter(has_point)
    }

    /// Records whether any worker can get requests, now or soon.
    pub(super) fn note_home(&mut self) {
        let has_home = self.workers.iter().any(Worker::is_present);
        if has_home {
            self.homeless_since = None;
        } else {
            self.homeless_since.get_or_insert_with(Instant::now);
        }
    }

    /// Returns when the request at the head of the queue has waited long enough for a worker.
    pub(super) fn next_expiry(&self, wait: Duration) -> Option<Instant> {
        let since = self.homeless_since?;
        let head = self.queue.head()?;
        Some(since.max(head.arrived) + wait)
    }
}

impl Worker {
    /// Applies a worker's report about itself, unless a later one is known.
    pub(super) fn note(&mut self, capacity: Capacity) {
        if capacity.number > self.capacity.number {
            self.capacity = capacity;
            self.is_draining |= capacity.is_draining;
        }
    }

    fn has_room(&self) -> bool {
        let capacity = self.capacity;
        !capacity.is_choked && !capacity.is_suspended && self.in_use < capacity.window
    }

    /// Returns how many deliveries it takes at once. When its crew is empty, one is tried.
    fn window_for_deliveries(&self) -> usize {
        let Capacity { window, crew, .. } = self.capacity;
        crew.map_or(window, |crew| window.min(crew.max(1)))
    }

    /// Returns whether it can get requests, now or soon.
    fn is_present(&self) -> bool {
        !self.is_draining && !self.capacity.is_suspended
    }

    /// Returns whether requests reach it, or somebody behind it.
    fn is_reached(&self) -> bool {
        let Capacity {
            crew,
            is_unreachable,
            ..
        } = self.capacity;
        self.is_present() && !is_unreachable && crew != Some(0)
    }
}

/// Picks the worker with the smallest share in use. Shares are compared as fractions of integers.
fn least<'a>(workers: impl Iterator<Item = &'a Worker>) -> Option<WorkerId> {
    let mut best: Vec<&Worker> = Vec::new();
    for worker in workers {
        let share = |other: &&Worker| {
            let (ours, theirs) = (worker.capacity.window.max(1), other.capacity.window.max(1));
            (worker.in_use * theirs).cmp(&(other.in_use * ours))
        };
        match best.first().map(share) {
            Some(std::cmp::Ordering::Greater) => continue,
            Some(std::cmp::Ordering::Less) => best.clear(),
            _ => {}
        }
        best.push(worker);
    }
    best.iter().choose(&mut rand::rng()).map(|worker| worker.id)
}
