//! The state of the plugins, as seen from outside.

use serde::Serialize;
use serde_json::Value as Json;

use super::plugin::{Plugin, Worker};
use crate::plugin::figures::RequestStatsState;
use crate::plugin::points::Readiness;
use crate::plugin::protocol::Problem;
use crate::plugin::settings::TransportKind;

/// All plugins.
#[derive(Clone, Debug, Serialize)]
pub struct PluginsState {
    /// How far they are, as a whole.
    pub readiness: Readiness,
    /// Requests at workers.
    pub in_flight: usize,
    /// The plugins, in order.
    pub plugins: Vec<PluginState>,
}

/// One plugin.
#[derive(Clone, Debug, Serialize)]
pub struct PluginState {
    /// Its name.
    pub name: String,
    /// Its transport.
    pub transport: TransportKind,
    /// Whether the server waits for it at start.
    pub is_listed: bool,
    /// Whether the server waits for it at start and has been unable to reach it, or any worker of
    /// it, for longer than requests wait for a worker.
    pub is_missing: bool,
    /// The active generation.
    pub generation: Option<u64>,
    /// How many points of each kind it has.
    pub points: Option<Json>,
    /// What was wrong with the last registration, until one is accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// Requests that are queued for a worker.
    pub queued: usize,
    /// How many of these are timer runs.
    pub queued_timers: usize,
    /// Requests that were answered or given up, since the start.
    pub calls: u64,
    /// How many of these failed, for whatever reason.
    pub errors: u64,
    /// How requests ended, and how long answers took.
    pub figures: RequestStatsState,
    /// Requests at workers.
    pub in_flight: usize,
    /// Requests that were sent to workers, since the start.
    pub dispatched: u64,
    /// Workers that were lost, since the start.
    pub lost: u64,
    /// Workers that came back to their sessions, since the start.
    pub resumed: u64,
    /// Workers that are connected. A plugin over http or exec counts as one while the server
    /// reaches it.
    pub connected: usize,
    /// The connected workers, and the suspended ones.
    pub workers: Vec<WorkerState>,
}

/// One worker.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerState {
    /// The connection's number.
    pub id: u64,
    /// Its own name for itself.
    pub label: String,
    /// Its library.
    pub sdk: String,
    /// Its generation.
    pub generation: u64,
    /// `Greeted`, `Initialised`, `Configured` or `Ready`.
    pub stage: String,
    /// How many requests it takes at once.
    pub window: usize,
    /// How many requests it has.
    pub in_use: usize,
    /// Whether it wants no new requests.
    pub is_draining: bool,
    /// Whether its connection is too congested for more requests at the moment.
    pub is_choked: bool,
    /// Whether its connection is lost and the server waits for it.
    pub is_suspended: bool,
    /// Whether the plugin behind it did not accept the last request.
    pub is_unreachable: bool,
}

impl PluginState {
    pub(super) fn of(
        plugin: &Plugin,
        transport: TransportKind,
        figures: RequestStatsState,
    ) -> Self {
        let active = plugin.active.as_ref();
        let (calls, errors) = figures.totals();
        Self {
            name: plugin.name.to_string(),
            transport,
            is_listed: plugin.is_listed,
            is_missing: false,
            generation: active.map(|active| active.generation),
            points: active.map(|active| active.registration.counts()),
            problems: plugin.problems.clone(),
            queued: plugin.queue.len(),
            queued_timers: plugin.queue.num_timers(),
            calls,
            errors,
            figures,
            in_flight: plugin.workers.iter().map(|worker| worker.in_use).sum(),
            dispatched: plugin.num_dispatched,
            lost: plugin.num_lost,
            resumed: plugin.num_resumed,
            connected: plugin.num_connected(transport),
            workers: plugin.workers.iter().map(WorkerState::of).collect(),
        }
    }
}

impl WorkerState {
    fn of(worker: &Worker) -> Self {
        Self {
            id: worker.id.0,
            label: worker.label.clone(),
            sdk: worker.sdk.clone(),
            generation: worker.generation,
            stage: format!("{:?}", worker.stage),
            window: worker.capacity.window,
            in_use: worker.in_use,
            is_draining: worker.is_draining,
            is_choked: worker.capacity.is_choked,
            is_suspended: worker.capacity.is_suspended,
            is_unreachable: worker.capacity.is_unreachable,
        }
    }
}
