//! The actor: receives requests and workers' reports, and sends requests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::dev::SendError;
use actix::{Actor, Addr, AsyncContext, Context, Handler, MessageResult, ResponseFuture};
use serde_json::Value as Json;
use tokio::sync::oneshot;

use super::gate::Shared;
use super::lifecycle::WorkerNotifier;
use super::plugin::{Plugin, Stage};
use super::state::{PluginState, PluginsState};
use crate::plugin::connection::PluginConnection;
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{
    Abandon, Announce, Ask, Expedite, FromWorker, GetState, Job, Leave, Notice, Report,
};
use crate::plugin::points::Hider;
use crate::plugin::settings::{PluginsSettings, TransportKind};
use crate::spawn::spawn_named;

/// The event that tells plugins about record types and their fields.
pub(super) const SCHEMA_CHANGED: &str = "schema-changed";

/// How long a start waits for plugins before the log names the missing ones.
const START_WARNING_DELAY: Duration = Duration::from_secs(10);

/// All plugins of an app. See the module.
pub struct Plugins {
    pub(super) settings: Arc<PluginsSettings>,
    pub(super) shared: Arc<Shared>,
    /// The listed plugins in their order, followed by the others.
    pub(super) plugins: Vec<Plugin>,
    pub(super) phase: Phase,
    /// Which actions handlers hide, as last reported.
    pub(super) hidden: BTreeMap<Hider, BTreeSet<String>>,
    /// The index of each worker's plugin.
    pub(super) homes: HashMap<WorkerId, usize>,
    pub(super) running: HashMap<u64, Running>,
    /// The schema as last announced, for workers that were away at that time.
    pub(super) schema: Option<Arc<Json>>,
    /// The callers that wait for the last worker to leave.
    leaving: Option<Vec<oneshot::Sender<()>>>,
}

/// How far the server's start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Some plugin is not configured yet.
    Starting,
    /// `before-plugins-ready` is being sent round.
    Preparing,
    /// Clients are served, from now on.
    Ready,
}

/// A request at a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) worker: WorkerId,
    pub(super) takes_slot: bool,
    pub(super) is_timer: bool,
}

impl Plugins {
    pub(super) fn new(settings: Arc<PluginsSettings>, shared: Arc<Shared>) -> Self {
        let listed = settings.plugins.iter();
        let plugins: Vec<_> = listed
            .map(|entry| Plugin::new(Arc::clone(&entry.name), true))
            .collect();
        let phase = if plugins.is_empty() {
            Phase::Ready
        } else {
            Phase::Starting
        };
        let mut this = Self {
            settings,
            shared,
            plugins,
            phase,
            hidden: BTreeMap::new(),
            homes: HashMap::new(),
            running: HashMap::new(),
            schema: None,
            leaving: None,
        };
        this.publish();
        this
    }

    pub(super) fn index_of(&self, plugin: &str) -> Option<usize> {
        self.plugins.iter().position(|known| &*known.name == plugin)
    }

    /// Returns a worker's plugin.
    pub(super) fn home_of(&mut self, worker: WorkerId) -> Option<(usize, &mut Plugin)> {
        let index = *self.homes.get(&worker)?;
        Some((index, self.plugins.get_mut(index)?))
    }

    fn hear(&mut self, worker: WorkerId, report: Report, ctx: &mut Context<Self>) {
        match report {
            Report::Freed { ticket } => {
                self.free(ticket);
            }
            Report::Returned { job, capacity } => {
                return self.take_back(worker, job, capacity, ctx);
            }
            Report::Capacity(capacity) => {
                self.update(worker, |entry| entry.note(capacity));
                self.note_attendance();
            }
            Report::Resumed => {
                if let Some((_, plugin)) = self.home_of(worker) {
                    plugin.num_resumed += 1;
                }
            }
            Report::Gone { retry } => return self.remove_worker(worker, retry, ctx),
        }
        if let Some((index, _)) = self.home_of(worker) {
            self.watch_absence(index, ctx);
            self.pump(index, ctx);
        }
    }

    pub(super) fn update(&mut self, id: WorkerId, change: impl FnOnce(&mut super::plugin::Worker)) {
        if let Some((_, plugin)) = self.home_of(id)
            && let Some(worker) = plugin.worker_mut(id)
        {
            change(worker);
            plugin.note_home();
        }
        if let Some(index) = self.homes.get(&id).copied() {
            self.note_presence(index);
        }
    }

    /// Publishes the presence of a plugin.
    pub(super) fn note_presence(&mut self, index: usize) {
        let stage = self.serving_stage();
        let Some(plugin) = self.plugins.get_mut(index) else {
            return;
        };
        plugin.note_reach();
        let limit = self.settings.timeout_of(&plugin.name);
        let transport = self.settings.transport_of(&plugin.name);
        let presence = plugin.presence(stage, (limit, transport));
        self.shared.note_presence(&plugin.name, presence);
    }

    /// Forgets a worker. Its requests that can be repeated go to the head of the queue.
    pub(super) fn remove_worker(&mut self, id: WorkerId, retry: Vec<Job>, ctx: &mut Context<Self>) {
        let Some((index, plugin)) = self.home_of(id) else {
            return;
        };
        let position = plugin.workers.iter().position(|worker| worker.id == id);
        let Some(worker) = position.map(|position| plugin.workers.remove(position)) else {
            return;
        };
        plugin.note_lost(&worker);
        plugin.settle_lost(&worker);
        let plugin = Arc::clone(&plugin.name);
        if self.settings.transport_of(&plugin) == TransportKind::WebSocket {
            tracing::info!(%plugin, worker = worker.label, "worker disconnected");
        }
        self.homes.remove(&id);
        self.running.retain(|_, running| running.worker != id);
        for job in retry {
            self.put_back(index, Box::new(job));
        }
        notify(&worker.address, Notice::Stop);
        self.prepare_another(index, &worker, ctx);
        self.publish();
        self.watch_absence(index, ctx);
        self.pump(index, ctx);
        if self.homes.is_empty() {
            // The callers may have stopped waiting.
            for waiting in self.leaving.iter_mut().flat_map(std::mem::take) {
                let _ = waiting.send(());
            }
        }
    }

    fn announce(&mut self, announce: Announce, ctx: &mut Context<Self>) {
        let Announce { name, param } = announce;
        let param = Arc::new(param);
        if name == SCHEMA_CHANGED {
            self.schema = Some(Arc::clone(&param));
        }
        for plugin in &self.plugins {
            let ready = plugin.workers.iter().filter(|w| w.stage == Stage::Ready);
            for worker in ready {
                let notifier = self.notifier(&plugin.name, worker.id, &worker.address);
                notifier.tell_beside(name, Arc::clone(&param), ctx);
            }
        }
    }

    pub(super) fn notifier(
        &self,
        plugin: &Arc<str>,
        worker: WorkerId,
        address: &Addr<PluginConnection>,
    ) -> WorkerNotifier {
        WorkerNotifier {
            worker,
            plugin: Arc::clone(plugin),
            address: address.clone(),
            shared: Arc::clone(&self.shared),
            settings: Arc::clone(&self.settings),
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    fn leave(&mut self, within: Duration) -> ResponseFuture<()> {
        let (sender, done) = oneshot::channel();
        let leaving = self.leaving.get_or_insert_default();
        leaving.push(sender);
        if self.homes.is_empty() {
            leaving.clear();
        }
        let num_workers = self.homes.len();
        for worker in self.plugins.iter().flat_map(|plugin| &plugin.workers) {
            let notice = Notice::Drain {
                reason: "shutdown",
                reconnect: Some(num_workers),
                within: Some(within),
            };
            notify(&worker.address, notice);
        }
        Box::pin(async move {
            // Either the last worker left, or there was none to wait for.
            let _ = done.await;
        })
    }
}

/// Sends a notice to a connection; a full mailbox delays it but does not lose it.
pub(super) fn notify(address: &Addr<PluginConnection>, notice: Notice) {
    if let Err(SendError::Full(notice)) = address.try_send(notice) {
        let address = address.clone();
        spawn_named("plugin notice", async move {
            let _ = address.send(notice).await;
        });
    }
}

impl Actor for Plugins {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        /// A full mailbox is reported as an overload; one slot takes about a quarter of a kilobyte.
        const MAILBOX: usize = 8192;
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_later(START_WARNING_DELAY, |this, _| this.warn_of_missing());
    }
}

impl Handler<Ask> for Plugins {
    type Result = ();

    fn handle(&mut self, ask: Ask, ctx: &mut Context<Self>) {
        self.ask(ask.0, ctx);
    }
}

impl Handler<Abandon> for Plugins {
    type Result = ();

    fn handle(&mut self, abandon: Abandon, _: &mut Context<Self>) {
        self.abandon(abandon);
    }
}

impl Handler<Expedite> for Plugins {
    type Result = ();

    fn handle(&mut self, expedite: Expedite, ctx: &mut Context<Self>) {
        Self::expedite(self, expedite, ctx);
    }
}

impl Handler<FromWorker> for Plugins {
    type Result = ();

    fn handle(&mut self, message: FromWorker, ctx: &mut Context<Self>) {
        self.hear(message.worker, message.report, ctx);
    }
}

impl Handler<Announce> for Plugins {
    type Result = ();

    fn handle(&mut self, announce: Announce, ctx: &mut Context<Self>) {
        Self::announce(self, announce, ctx);
    }
}

impl Handler<Leave> for Plugins {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, leave: Leave, _: &mut Context<Self>) -> ResponseFuture<()> {
        self.leave(leave.within)
    }
}

impl Handler<GetState> for Plugins {
    type Result = MessageResult<GetState>;

    fn handle(&mut self, _: GetState, _: &mut Context<Self>) -> Self::Result {
        MessageResult(PluginsState {
            readiness: self.readiness(),
            in_flight: self.running.len(),
            plugins: self
                .plugins
                .iter()
                .map(|plugin| {
                    let transport = self.settings.transport_of(&plugin.name);
                    let figures = self.shared.figures(&plugin.name).state();
                    PluginState {
                        is_missing: plugin.is_missing(self.settings.rejoin_wait),
                        ..PluginState::of(plugin, transport, figures)
                    }
                })
                .collect(),
        })
    }
}
