//! The gate: turns a caller's request into a job with a deadline, and returns its answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::dev::SendError;
use actix::{Actor, Addr, ArbiterHandle};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value as Json;
use serde_json::value::{RawValue, to_raw_value};
use skytrail_schema::code::ApiError;
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::actor::Plugins;
use super::deliver::classify;
use super::state::PluginsState;
use crate::plugin::caller::ApiCaller;
use crate::plugin::connection::PluginConnection;
use crate::plugin::errors::{Unavailable, response_timed_out, timed_out, unavailable};
use crate::plugin::figures::{RequestOutcome, RequestStats};
use crate::plugin::gate::{
    DeliveryNote, PluginCallError, PluginGate, PluginRequest, Presence, Urgency, WorkerId,
};
use crate::plugin::messages::{
    Abandon, Announce, Answer, Ask, GetState, InitialiseAnew, Job, Lane, Leave, Registered, Silence,
};
use crate::plugin::points::{ExtensionPoints, Readiness};
use crate::plugin::protocol::CancelReason;
use crate::plugin::recent::RecentCalls;
use crate::plugin::settings::PluginsSettings;
use crate::plugin::transport::OutgoingSender;

/// How long after a client's deadline its request still waits for the client to go away.
const DEADLINE_GRACE: Duration = Duration::from_millis(100);

/// The gate to all plugins and their workers. Cheap to clone.
#[derive(Clone)]
pub struct PluginBroker {
    shared: Arc<Shared>,
    settings: Arc<PluginsSettings>,
    pub(super) plugins: Addr<Plugins>,
}

/// What the actors publish, and the numbers that they assign.
#[derive(Debug, Default)]
pub(super) struct Shared {
    points: ArcSwap<ExtensionPoints>,
    changes: watch::Sender<()>,
    last_ticket: AtomicU64,
    last_worker: AtomicU64,
    num_connections: AtomicUsize,
    is_leaving: AtomicBool,
    figures: Mutex<HashMap<Arc<str>, Arc<RequestStats>>>,
    pub(super) recent: Arc<RecentCalls>,
    presences: Mutex<HashMap<Arc<str>, Presence>>,
    wishes: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
}

impl Shared {
    /// Wishes that a plugin be initialised anew. Nothing happens if the server does not reach it.
    pub(super) fn wish_for(&self, plugin: &str) {
        if let Some(wish) = self.wishes.lock().get(plugin) {
            wish.notify_one();
        }
    }

    /// Returns the last worker that has connected.
    pub(super) fn last_worker(&self) -> WorkerId {
        WorkerId(self.last_worker.load(Ordering::Relaxed))
    }

    pub(super) fn next_ticket(&self) -> u64 {
        self.last_ticket.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns a plugin's figures.
    pub(super) fn figures(&self, plugin: &Arc<str>) -> Arc<RequestStats> {
        let mut figures = self.figures.lock();
        Arc::clone(figures.entry(Arc::clone(plugin)).or_default())
    }

    pub(super) fn publish(&self, points: ExtensionPoints) {
        self.points.store(Arc::new(points));
        self.changes.send_replace(());
    }

    /// Records the presence of a plugin.
    pub(super) fn note_presence(&self, plugin: &Arc<str>, presence: Presence) {
        let before = self.presences.lock().insert(Arc::clone(plugin), presence);
        if before != Some(presence) {
            self.changes.send_replace(());
        }
    }

    pub(super) fn points(&self) -> Arc<ExtensionPoints> {
        self.points.load_full()
    }
}

/// A slot among the connections that the server accepts; freed when dropped.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<Shared>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.num_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PluginBroker {
    /// Starts the actor of all plugins on an arbiter.
    pub fn start(settings: PluginsSettings, arbiter: &ArbiterHandle) -> Self {
        let settings = Arc::new(settings);
        let shared = Arc::new(Shared::default());
        if settings.plugins.is_empty() {
            // There is nothing to wait for, not even the actor's own start.
            shared.publish(ExtensionPoints {
                readiness: Readiness::Ready,
                ..ExtensionPoints::default()
            });
        }
        let actor_parts = (Arc::clone(&settings), Arc::clone(&shared));
        let plugins = Plugins::start_in_arbiter(arbiter, move |_| {
            let (settings, shared) = actor_parts;
            Plugins::new(settings, shared)
        });
        Self {
            shared,
            settings,
            plugins,
        }
    }

    /// Asks for a slot for one more connection; `None` when there are too many already, or the
    /// server is stopping.
    pub fn admit(&self) -> Option<ConnectionPermit> {
        if self.is_leaving() {
            return None;
        }
        let permit = ConnectionPermit(Arc::clone(&self.shared));
        let before = self.shared.num_connections.fetch_add(1, Ordering::Relaxed);
        (before < self.settings.max_connections()).then_some(permit)
    }

    /// Returns a receiver that fires when [`PluginGate::points`] may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    /// Returns whether the server is stopping.
    pub fn is_leaving(&self) -> bool {
        self.shared.is_leaving.load(Ordering::Relaxed)
    }

    /// Starts the actor of a new connection, on the caller's thread. `sender` takes what goes to
    /// the worker; `api` runs the actions that the worker asks for.
    pub fn connect(
        &self,
        sender: OutgoingSender,
        api: Arc<dyn ApiCaller>,
    ) -> Addr<PluginConnection> {
        let id = WorkerId(self.shared.last_worker.fetch_add(1, Ordering::Relaxed) + 1);
        let settings = Arc::clone(&self.settings);
        PluginConnection::begin(id, sender, settings, self.plugins.clone(), api)
    }

    /// Returns what is notified when a plugin should be initialised anew. For the one that reaches
    /// the plugin; other plugins connect when they want to be initialised.
    pub fn wishes(&self, plugin: &Arc<str>) -> Arc<Notify> {
        let mut wishes = self.shared.wishes.lock();
        Arc::clone(wishes.entry(Arc::clone(plugin)).or_default())
    }

    /// Has a plugin that the server reaches initialised anew. Returns how many points of each kind
    /// it registered, once they count, or why its registration was refused; `None` if the plugin is
    /// unknown, or the server is stopping.
    pub async fn initialise_anew(&self, plugin: &str) -> Option<Registered> {
        let asked = InitialiseAnew(plugin.to_owned());
        self.plugins.send(asked).await.ok().flatten()
    }

    /// Returns the last calls.
    pub fn recent(&self) -> &Arc<RecentCalls> {
        &self.shared.recent
    }

    /// Returns the limits.
    pub fn settings(&self) -> &PluginsSettings {
        &self.settings
    }

    /// Returns the state of all plugins; `None` when the actor is gone or too busy.
    pub async fn state(&self) -> Option<PluginsState> {
        const STATE_TIMEOUT: Duration = Duration::from_secs(2);
        timeout(STATE_TIMEOUT, self.plugins.send(GetState))
            .await
            .ok()?
            .ok()
    }

    /// Accepts no new workers and lets the connected ones finish their requests, for as long as
    /// `within` or a drain lasts at most. What is left then is cancelled. Returns when the last
    /// worker is gone.
    pub async fn leave(&self, within: Duration) {
        const MARGIN: Duration = Duration::from_millis(500);
        self.shared.is_leaving.store(true, Ordering::Relaxed);
        let within = within.min(self.settings.drain);
        let done = self.plugins.send(Leave { within });
        // A worker that has not left by then is cut off with the process.
        let _ = timeout(within + MARGIN, done).await;
    }

    pub(super) fn job(
        &self,
        request: PluginRequest,
        deadline: Instant,
    ) -> Result<Box<Job>, ApiError> {
        Ok(Box::new(Job {
            ticket: self.shared.next_ticket(),
            plugin: request.plugin,
            kind: request.kind,
            name: request.name,
            param: written(&request.param)?,
            context: request.context,
            lane: if request.lineage.via.is_empty() {
                Lane::Window
            } else {
                Lane::Nested
            },
            lineage: request.lineage,
            arrived: Instant::now(),
            deadline,
            is_idempotent: false,
            delivery: None,
            silence: Arc::default(),
            reply: None,
        }))
    }

    /// Sends a job off.
    pub(super) fn send(
        &self,
        mut job: Box<Job>,
    ) -> Result<(Guard<'_>, oneshot::Receiver<Answer>), ApiError> {
        let (sender, answer) = oneshot::channel();
        job.reply = Some(sender);
        let plugin = Arc::clone(&job.plugin);
        let mut guard = Guard {
            plugins: &self.plugins,
            figures: self.shared.figures(&plugin),
            ticket: job.ticket,
            arrived: job.arrived,
            deadline: job.deadline,
            silence: Arc::clone(&job.silence),
            ending: None,
        };
        match self.plugins.try_send(Ask(job)) {
            Ok(()) => Ok((guard, answer)),
            Err(SendError::Full(_)) => {
                guard.ending = Some(RequestOutcome::QueueFull);
                Err(ApiError::overloaded("the plugins' mailbox"))
            }
            Err(SendError::Closed(_)) => {
                guard.ending = Some(RequestOutcome::NoWorker);
                Err(unavailable(&plugin, Unavailable::NoWorker))
            }
        }
    }

    /// Sends a job off and waits. Whatever happens to the job, this returns by the deadline, or
    /// `DEADLINE_GRACE` after a client's.
    async fn wait_for(&self, job: Box<Job>, is_clients: bool) -> Result<Json, PluginCallError> {
        let (plugin, deadline) = (Arc::clone(&job.plugin), job.deadline);
        let (mut guard, answer) = self.send(job).map_err(PluginCallError::Unready)?;
        let silence = Arc::clone(&guard.silence);
        // A client with its own deadline should hear that the whole request timed out, not one hook
        // in it.
        let grace = if is_clients {
            DEADLINE_GRACE
        } else {
            Duration::ZERO
        };
        let late = match timeout_at(deadline + grace, answer).await {
            Ok(answer) => {
                let answer = guard.take(answer, &plugin);
                return answer.map_err(|error| classify(error, &plugin, silence.get()));
            }
            Err(_) if is_clients => response_timed_out(),
            Err(_) => timed_out(&plugin, self.settings.transport_of(&plugin)),
        };
        Err(PluginCallError::Late(late))
    }
}

#[async_trait]
impl PluginGate for PluginBroker {
    fn points(&self) -> Arc<ExtensionPoints> {
        self.shared.points()
    }

    async fn ask(&self, request: PluginRequest) -> Result<Json, PluginCallError> {
        let limit = self.settings.timeout_of(&request.plugin);
        let limit = match (request.kind, request.timeout) {
            // No caller waits for a timer, so it may take longer than a request that somebody waits
            // for.
            ("timer", Some(own)) => own,
            (_, own) => own.map_or(limit, |own| own.min(limit)),
        };
        let own = Instant::now() + limit;
        let clients = request.deadline.filter(|deadline| *deadline <= own);
        let plugin = Arc::clone(&request.plugin);
        let (kind, name) = (request.kind, request.name.clone());
        let began = Instant::now();
        let job = self.job(request.on_behalf(), clients.unwrap_or(own));
        let job = job.map_err(PluginCallError::Refused)?;
        let answer = self.wait_for(job, clients.is_some()).await;
        let point = (&plugin, kind, name.as_str());
        let error = answer.as_ref().err().map(PluginCallError::error);
        self.shared.recent.note(point, began, error);
        answer
    }

    async fn deliver(
        &self,
        request: PluginRequest,
        note: DeliveryNote,
        urgency: Urgency,
    ) -> Result<Json, PluginCallError> {
        let (plugin, kind) = (Arc::clone(&request.plugin), request.kind);
        let (name, began) = (request.name.clone(), Instant::now());
        let answer = self.deliver_job(request, note, urgency).await;
        let error = answer.as_ref().err().map(PluginCallError::error);
        let point = (&plugin, kind, name.as_str());
        self.shared.recent.note(point, began, error);
        answer
    }

    fn presence(&self, plugin: &str) -> Presence {
        let presences = self.shared.presences.lock();
        presences.get(plugin).copied().unwrap_or_default()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    fn announce(&self, name: &'static str, param: Json) {
        if self.plugins.try_send(Announce { name, param }).is_err() {
            tracing::warn!(name, "the plugins are too busy for an announcement");
        }
    }
}

/// Counts how a request ended. When dropped, even with its future, it also reports that no caller
/// waits any more.
pub(super) struct Guard<'a> {
    plugins: &'a Addr<Plugins>,
    figures: Arc<RequestStats>,
    ticket: u64,
    arrived: Instant,
    deadline: Instant,
    /// Why the plugin did not answer.
    silence: Arc<OnceLock<Silence>>,
    /// How it ended; `None` when no caller waits any more.
    ending: Option<RequestOutcome>,
}

impl Guard<'_> {
    /// Takes the answer. A dropped job means that its connection died with it.
    pub(super) fn take(&mut self, answer: Result<Answer, RecvError>, plugin: &str) -> Answer {
        let lost = |_| Err(unavailable(plugin, Unavailable::WorkerLost));
        let answer = answer.unwrap_or_else(lost);
        self.ending = Some(RequestOutcome::of(&answer, self.silence.get().copied()));
        answer
    }

    /// Records that the time is over, at a deadline that may have moved since the start.
    pub(super) fn pass(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let elapsed = self.arrived.elapsed().as_secs_f64();
        if let Some(ending) = self.ending {
            return self.figures.count(ending, elapsed);
        }
        let (reason, ending) = if Instant::now() >= self.deadline {
            (CancelReason::Deadline, RequestOutcome::Deadline)
        } else {
            (CancelReason::ClientGone, RequestOutcome::ClientGone)
        };
        self.figures.count(ending, elapsed);
        let ticket = self.ticket;
        // If the mailbox is full, the connection notices by itself, a little later.
        let _ = self.plugins.try_send(Abandon { ticket, reason });
    }
}

/// Serializes a request's content, on the caller's thread rather than the actors'.
pub(super) fn written(param: &Json) -> Result<Option<Box<RawValue>>, ApiError> {
    if param.is_null() {
        return Ok(None);
    }
    to_raw_value(param)
        .map(Some)
        .map_err(|error| ApiError::unexpected(format!("cannot write a request: {error}")))
}
