//! Workers that join and take over, and the effects on readiness.

use std::sync::Arc;

use actix::fut::wrap_future;
use actix::{AsyncContext, Context, Handler, MessageResult};

use super::actor::{Phase, Plugins, SCHEMA_CHANGED, notify};
use super::lifecycle::{self, WorkerNotifier};
use super::plugin::{Plugin, Stage, Worker};
use crate::delivery::consumers::LOG_PREFIX;
use crate::plugin::figures::RequestStats;
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{Capacity, Configured, FindSession, Join, Notice, Prepared, Refusal};
use crate::plugin::protocol::CloseCode;
use crate::plugin::settings::TransportKind;

/// The maximum length of an unlisted plugin's name.
const MAX_NAME_BYTES: usize = 100;
/// Why a plugin with an unknown name is refused.
const UNLISTED: &str = "unknown plugin: its name is not in the server's PLUGINS";

impl Plugins {
    fn join(&mut self, join: Join, ctx: &mut Context<Self>) -> Result<Arc<RequestStats>, Refusal> {
        if self.is_leaving() {
            return Err(refusal(CloseCode::Restart, "the server stops"));
        }
        let index = self.home_for(&join.plugin)?;
        if self.settings.transport_of(&join.plugin) != join.transport {
            let reason = "the plugin is configured with another transport";
            return Err(refusal(CloseCode::UnknownPlugin, reason));
        }
        let Some(plugin) = self.plugins.get_mut(index) else {
            return Err(refusal(CloseCode::UnknownPlugin, UNLISTED));
        };
        if plugin.workers.len() >= self.settings.max_workers {
            return Err(refusal(CloseCode::TooManyWorkers, "too many workers"));
        }
        if let Some(newest) = plugin.newer_than(join.generation, self.settings.generation_memory) {
            let generation = join.generation;
            tracing::warn!(
                plugin = %plugin.name, worker = join.label, generation, newest,
                "a worker of an older generation is refused; to go back to its version, start it \
                 with a higher generation"
            );
            let reason = format!("older generation: {generation}, after {newest}");
            return Err(refusal(CloseCode::OlderGeneration, &reason));
        }
        // Other plugins do not connect: that one is asked says nothing about whether it is there.
        if join.transport == TransportKind::WebSocket {
            tracing::info!(plugin = %plugin.name, worker = join.label, "worker connected");
        }
        plugin.workers.push(Worker {
            id: join.worker,
            label: join.label,
            sdk: join.sdk,
            address: join.address.clone(),
            generation: join.generation,
            session: join.session,
            capacity: Capacity {
                window: join.window,
                ..Capacity::default()
            },
            in_use: 0,
            num_timers: 0,
            stage: Stage::Greeted,
            registration: None,
            from: join.from,
            is_draining: false,
        });
        plugin.note_home();
        let name = Arc::clone(&plugin.name);
        self.homes.insert(join.worker, index);
        self.note_presence(index);
        let notifier = self.notifier(&name, join.worker, &join.address);
        ctx.spawn(wrap_future(lifecycle::greet(
            notifier,
            ctx.address().downgrade(),
        )));
        Ok(self.shared.figures(&name))
    }

    fn home_for(&mut self, name: &str) -> Result<usize, Refusal> {
        if let Some(index) = self.index_of(name) {
            return Ok(index);
        }
        // The names of the log's consumers are not available to plugins.
        let is_name = !name.is_empty() && name.len() <= MAX_NAME_BYTES;
        let is_name = is_name && !name.starts_with(LOG_PREFIX);
        if !self.settings.allow_unlisted {
            return Err(refusal(CloseCode::UnknownPlugin, UNLISTED));
        }
        if !is_name {
            let reason = "this is not a valid plugin name";
            return Err(refusal(CloseCode::UnknownPlugin, reason));
        }
        self.plugins.push(Plugin::new(name.into(), false));
        Ok(self.plugins.len() - 1)
    }

    /// Handles a worker that is configured: prepares all plugins, or lets it serve with the others.
    fn configure(&mut self, id: WorkerId, ctx: &mut Context<Self>) {
        let phase = self.phase;
        let Some((index, plugin)) = self.home_of(id) else {
            return;
        };
        let Some(worker) = plugin.worker_mut(id) else {
            return;
        };
        worker.stage = Stage::Configured;
        let generation = worker.generation;
        match phase {
            Phase::Starting => self.prepare_all(ctx),
            Phase::Preparing => {}
            Phase::Ready if plugin.is_served_by(generation) => self.release(index, ctx),
            Phase::Ready => {
                let is_coming = |it: &&Worker| {
                    it.generation == generation && it.stage == Stage::Configured && !it.is_draining
                };
                if plugin.workers.iter().filter(is_coming).count() == 1 {
                    self.prepare_generation(index, id, ctx);
                }
            }
        }
    }

    /// Starts preparing all plugins once each has a configured worker.
    fn prepare_all(&mut self, ctx: &mut Context<Self>) {
        let mut listed = self.plugins.iter().filter(|plugin| plugin.is_listed);
        if listed.any(|plugin| plugin.first(Stage::Configured).is_none()) {
            return;
        }
        self.phase = Phase::Preparing;
        self.publish();
        let notifiers = self.notifiers();
        let plugins = ctx.address().downgrade();
        ctx.spawn(wrap_future(lifecycle::prepare(notifiers, None, plugins)));
    }

    /// Logs the plugins that the start still waits for: clients are told only that some are
    /// missing.
    pub(super) fn warn_of_missing(&self) {
        if self.phase != Phase::Starting {
            return;
        }
        let listed = self.plugins.iter().filter(|plugin| plugin.is_listed);
        let missing = listed.filter(|plugin| plugin.first(Stage::Configured).is_none());
        let missing: Vec<_> = missing.map(|plugin| &*plugin.name).collect();
        let missing = missing.join(", ");
        tracing::warn!(
            missing,
            "clients are not served until these plugins have registered"
        );
    }

    /// Has the loss of the last worker logged, once requests no longer wait for another. Plugins
    /// that the server asks are logged by whoever asks them.
    pub(super) fn watch_absence(&mut self, index: usize, ctx: &mut Context<Self>) {
        let Some(plugin) = self.plugins.get_mut(index) else {
            return;
        };
        let since = plugin.missing_since;
        let was_watched = std::mem::replace(&mut plugin.watched_absence, since) == since;
        let is_served = self.phase == Phase::Ready && plugin.is_listed;
        let connects = self.settings.transport_of(&plugin.name) == TransportKind::WebSocket;
        if since.is_none() || was_watched || !is_served || !connects {
            return;
        }
        ctx.run_later(self.settings.rejoin_wait, move |this, _| {
            let plugin = this.plugins.get(index);
            let still = plugin.filter(|plugin| plugin.missing_since == since);
            if let Some(plugin) = still.filter(|_| !this.is_leaving()) {
                tracing::warn!(
                    plugin = %plugin.name,
                    "no worker of the plugin is connected and registered: requests to it are \
                     refused"
                );
            }
        });
    }

    fn notifiers(&self) -> Vec<WorkerNotifier> {
        let notifier = |plugin: &Plugin| {
            let worker = plugin.first(Stage::Configured)?;
            Some(self.notifier(&plugin.name, worker.id, &worker.address))
        };
        self.plugins.iter().filter_map(notifier).collect()
    }

    /// Prepares a generation again when its first worker was lost before the generation served.
    pub(super) fn prepare_another(&mut self, index: usize, lost: &Worker, ctx: &mut Context<Self>) {
        let Some(plugin) = self.plugins.get(index) else {
            return;
        };
        let is_next = self.phase == Phase::Ready
            && lost.stage == Stage::Configured
            && !plugin.is_served_by(lost.generation);
        let mut others = plugin.workers.iter();
        let other = others.find(|other| {
            is_next && other.generation == lost.generation && other.stage == Stage::Configured
        });
        if let Some(id) = other.map(|other| other.id) {
            self.prepare_generation(index, id, ctx);
        }
    }

    fn prepare_generation(&mut self, index: usize, id: WorkerId, ctx: &mut Context<Self>) {
        let Some(plugin) = self.plugins.get(index) else {
            return;
        };
        let Some(worker) = plugin.worker(id) else {
            return;
        };
        let notifier = self.notifier(&plugin.name, id, &worker.address);
        let plugins = ctx.address().downgrade();
        let preparing = lifecycle::prepare(vec![notifier], Some(id), plugins);
        ctx.spawn(wrap_future(preparing));
    }

    fn finish_preparing(&mut self, generation_of: Option<WorkerId>, ctx: &mut Context<Self>) {
        match generation_of {
            None => self.open(ctx),
            Some(worker) => self.switch(worker, ctx),
        }
    }

    /// Opens the server to clients, if every plugin still has a worker.
    fn open(&mut self, ctx: &mut Context<Self>) {
        let mut listed = self.plugins.iter().filter(|plugin| plugin.is_listed);
        if listed.any(|plugin| plugin.first(Stage::Initialised).is_none()) {
            self.phase = Phase::Starting;
            self.publish();
            // One may have been lost and have come back meanwhile.
            return self.prepare_all(ctx);
        }
        self.phase = Phase::Ready;
        self.publish();
        for index in 0..self.plugins.len() {
            self.release(index, ctx);
        }
        tracing::info!("plugins are ready");
        let notifiers = self.notifiers();
        ctx.spawn(wrap_future(lifecycle::proclaim(notifiers)));
    }

    /// Lets a generation serve that is prepared, if its first worker is still connected. A new one
    /// takes over; one that was only absent has its points already.
    fn switch(&mut self, id: WorkerId, ctx: &mut Context<Self>) {
        let Some((index, plugin)) = self.home_of(id) else {
            return;
        };
        let name = Arc::clone(&plugin.name);
        let Some(worker) = plugin.worker(id) else {
            return;
        };
        let (generation, address) = (worker.generation, worker.address.clone());
        let Some(registration) = worker.registration.clone() else {
            return;
        };
        let active = plugin.active.as_ref().map(|active| active.generation);
        if active == Some(generation) {
            return self.release(index, ctx);
        }
        if plugin.newest.is_some_and(|(newest, _)| newest > generation) {
            return;
        }
        tracing::info!(plugin = %name, generation, "a new generation takes over");
        self.activate(index, generation, registration, ctx);
        self.release(index, ctx);
        let notifier = self.notifier(&name, id, &address);
        ctx.spawn(wrap_future(lifecycle::proclaim(vec![notifier])));
    }

    /// Lets the configured workers of the active generation serve.
    fn release(&mut self, index: usize, ctx: &mut Context<Self>) {
        let Some(plugin) = self.plugins.get_mut(index) else {
            return;
        };
        plugin.choose_starter();
        let active = plugin.active.as_ref().map(|active| active.generation);
        let mut released = Vec::new();
        for worker in &mut plugin.workers {
            if worker.stage == Stage::Configured && Some(worker.generation) == active {
                worker.stage = Stage::Ready;
                notify(&worker.address, Notice::Ready);
                released.push((worker.id, worker.address.clone()));
            }
        }
        let name = Arc::clone(&plugin.name);
        if let Some(schema) = &self.schema {
            // The schema may have changed while they were away.
            for (id, address) in released {
                let notifier = self.notifier(&name, id, &address);
                notifier.tell_beside(SCHEMA_CHANGED, Arc::clone(schema), ctx);
            }
        }
        self.note_presence(index);
        self.pump(index, ctx);
    }
}

fn refusal(code: CloseCode, reason: &str) -> Refusal {
    Refusal {
        code,
        reason: reason.to_owned(),
    }
}

impl Handler<Join> for Plugins {
    type Result = Result<Arc<RequestStats>, Refusal>;

    fn handle(&mut self, join: Join, ctx: &mut Context<Self>) -> Self::Result {
        Self::join(self, join, ctx)
    }
}

impl Handler<FindSession> for Plugins {
    type Result = MessageResult<FindSession>;

    fn handle(&mut self, find: FindSession, _: &mut Context<Self>) -> Self::Result {
        let plugin = self.index_of(&find.plugin);
        let plugin = plugin.and_then(|index| self.plugins.get(index));
        let mut workers = plugin.into_iter().flat_map(|plugin| &plugin.workers);
        let worker = workers.find(|worker| *worker.session == *find.session);
        MessageResult(worker.map(|worker| worker.address.clone()))
    }
}

impl Handler<Configured> for Plugins {
    type Result = ();

    fn handle(&mut self, message: Configured, ctx: &mut Context<Self>) {
        self.configure(message.0, ctx);
    }
}

impl Handler<Prepared> for Plugins {
    type Result = ();

    fn handle(&mut self, message: Prepared, ctx: &mut Context<Self>) {
        self.finish_preparing(message.generation_of, ctx);
    }
}
