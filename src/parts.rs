//! Gathers what all parts report about themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use serde::Serialize;
use skytrail_actors::accounts::AccountsState;
use skytrail_actors::capture::CaptureFigures;
use skytrail_actors::delivery::consumers::ConsumerState;
use skytrail_actors::delivery::{Delivery, DeliveryState, GetDeliveryState};
use skytrail_actors::erasure::EraserState;
use skytrail_actors::hub::{GetHubState, HubState};
use skytrail_actors::live::{LiveFollower, LiveQueriesState};
use skytrail_actors::log::{EmbeddedLog, LogState};
use skytrail_actors::plugin::{PluginState, PluginsState, Readiness, TransportKind};
use skytrail_actors::projector::{GetProjectorState, Projector, ProjectorState};
use skytrail_actors::push::PushState;
use skytrail_actors::record::actor::RecordActorState;
use skytrail_actors::record::write_model::CacheSizes;
use skytrail_actors::subscription::{MAX_NOTICE_LAG, Notices};
use skytrail_actors::task::{ListTasks, TaskReport};
use skytrail_schema::time::Timestamp;

use crate::audit::AuditState;
use crate::auth::refusals::Reason;
use crate::auth::throttle::ThrottleState;
use crate::backup::{BackupSchedule, BackupState};
use crate::http::counters::DoorState;
use crate::projection::index::IndexState;
use crate::projection::{QueryFigures, SqlStore};
use crate::proof::{CheckpointState, Checkpoints};
use crate::services::Services;

/// How long an actor may take to report its state before it counts as gone.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts that are only asked for their state: no action uses them.
pub struct Parts {
    /// The log.
    pub log: Arc<EmbeddedLog>,
    /// The record store.
    pub store: Arc<SqlStore>,
    /// Feeds the record store.
    pub projector: Addr<Projector>,
    /// Delivers changes to their subscribers.
    pub notices: Addr<Delivery<Notices>>,
    /// Keeps live queries up to date.
    pub live_follower: Addr<Delivery<LiveFollower>>,
    /// The backups that the server takes by itself.
    pub backups: Arc<BackupSchedule>,
    /// Signs the log.
    pub checkpoints: Arc<Checkpoints>,
}

/// The states of all parts; an actor that does not answer has none.
#[derive(Debug, Serialize)]
pub struct States {
    /// The log.
    pub log: LogState,
    /// The projector, which feeds the record store.
    pub projector: Option<ProjectorState>,
    /// Why the record store cannot be read at present.
    pub store_trouble: Option<String>,
    /// How queries of the record store wait for each other.
    pub queries: QueryFigures,
    /// The hub of `/pubsub`.
    pub hub: Option<HubState>,
    /// The hub of `/_/pubsub`.
    pub internal_hub: Option<HubState>,
    /// The delivery of changes to their subscribers.
    pub notices: Option<NoticeFigures>,
    /// What is sent to push services; empty if none is configured.
    pub push: Option<Vec<PushState>>,
    /// Live queries and their position.
    pub live: Option<LiveFigures>,
    /// How far each plugin is with its after-hooks.
    pub deliveries: Vec<ConsumerState>,
    /// Changes that others make by SQL; none if that is not possible, or if the database does not
    /// answer.
    pub captured: Option<CaptureFigures>,
    /// Why requests that wait for such changes are refused at present.
    pub captured_trouble: Option<String>,
    /// Erasures, and whether they make progress.
    pub erasures: EraserState,
    /// The number of clients that follow the log or work for a consumer of it.
    pub num_followers: usize,
    /// Plugins and their workers' connections.
    pub plugins: Option<PluginsState>,
    /// Scheduled tasks.
    pub tasks: Option<Vec<TaskReport>>,
    /// The record actors.
    pub records: Vec<RecordActorState>,
    /// Users, roles, relations.
    pub accounts: AccountsState,
    /// The sizes of the caches in memory.
    pub caches: CacheSizes,
    /// The indexes that the record store created for itself.
    pub indexes: Option<IndexFigures>,
    /// The HTTP door.
    pub door: DoorState,
    /// Throttling.
    pub throttle: ThrottleState,
    /// The number of refusals by reason.
    pub refusals: BTreeMap<Reason, u64>,
    /// The audit trail.
    pub audit: AuditState,
    /// The backups that the server takes by itself.
    pub backups: BackupState,
    /// The signing of the log.
    pub checkpoints: CheckpointState,
}

/// Live queries and their position.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LiveFigures {
    /// The last position that they were told.
    pub position: u64,
    /// Their own state.
    #[serde(flatten)]
    pub state: LiveQueriesState,
}

/// The delivery of changes to their subscribers, and how far it is behind.
#[derive(Clone, Debug, Serialize)]
pub struct NoticeFigures {
    /// Events of the log after the delivery's position.
    pub lag_events: u64,
    /// The age of the oldest commit whose subscribers have not been told; 0 if there is none.
    pub lag_seconds: u64,
    /// The delivery.
    #[serde(flatten)]
    pub delivery: DeliveryState,
}

impl NoticeFigures {
    fn new(delivery: DeliveryState, head: u64, now: Timestamp) -> Self {
        let age = delivery.oldest.map(|oldest| now.micros() - oldest.micros());
        Self {
            lag_events: head.saturating_sub(delivery.position),
            lag_seconds: age.and_then(|it| u64::try_from(it).ok()).unwrap_or(0) / 1_000_000,
            delivery,
        }
    }

    fn trouble(&self) -> Option<String> {
        let (seconds, events) = (self.lag_seconds, self.lag_events);
        (seconds > MAX_NOTICE_LAG.as_secs()).then(|| {
            format!("subscribers are told of changes {seconds} s late: {events} events wait")
        })
    }
}

/// Totals over the record store's own indexes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct IndexFigures {
    /// The number of indexes that are built.
    pub num_built: usize,
    /// The number of indexes that are yet to be built.
    pub num_wanted: usize,
    /// The number of queries that used one.
    pub num_uses: u64,
    /// Their total size.
    pub num_bytes: u64,
}

impl States {
    /// Returns what is wrong, one sentence each; nothing if all is well. A missing actor of a record
    /// type does not count: it is started again when it is needed.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = self.silent_parts();
        self.add_log_troubles(&mut troubles);
        self.add_store_troubles(&mut troubles);
        self.add_door_troubles(&mut troubles);
        troubles.extend(self.notices.as_ref().and_then(NoticeFigures::trouble));
        for consumer in self.deliveries.iter().filter(|it| it.is_failing) {
            let name = &consumer.name;
            troubles.push(format!(
                "the position of {name} cannot be written to ops.sqlite"
            ));
        }
        let readiness = self.plugins.as_ref().map(|it| it.readiness);
        if readiness == Some(Readiness::Initializing) {
            let trouble = "plugins have not answered before-plugins-ready: clients are not served";
            troubles.push(trouble.to_owned());
        }
        let plugins = self.plugins.iter().flat_map(|it| &it.plugins);
        troubles.extend(plugins.filter_map(plugin_trouble));
        self.add_duty_troubles(&mut troubles);
        troubles
    }

    /// Names the parts that did not answer, as they are called among the states.
    fn silent_parts(&self) -> Vec<String> {
        let parts = [
            ("projector", self.projector.is_some()),
            ("hub", self.hub.is_some()),
            ("internal_hub", self.internal_hub.is_some()),
            ("notices", self.notices.is_some()),
            ("push", self.push.is_some()),
            ("live", self.live.is_some()),
            ("plugins", self.plugins.is_some()),
            ("tasks", self.tasks.is_some()),
            ("indexes", self.indexes.is_some()),
        ];
        let silent = parts.iter().filter(|(_, has_answered)| !has_answered);
        silent
            .map(|(name, _)| format!("a part of the server does not answer: {name}"))
            .collect()
    }

    fn add_log_troubles(&self, troubles: &mut Vec<String>) {
        if self.log.lacks_inodes {
            let trouble = "the file system has no inodes left (df -i): writes are refused";
            troubles.push(trouble.to_owned());
        } else if self.log.is_disk_full {
            troubles.push("the disk is full: writes are refused".to_owned());
        }
        if self.log.is_store_behind {
            let trouble = "the record store is too far behind the log: writes are refused";
            troubles.push(trouble.to_owned());
        }
    }

    fn add_store_troubles(&self, troubles: &mut Vec<String>) {
        const SEE_LOG: &str = "the server's own log says why";
        if let Some(projector) = self.projector.as_ref().filter(|it| it.is_failing) {
            let reason = projector.reason.as_deref().unwrap_or(SEE_LOG);
            troubles.push(format!("the record store applies no events: {reason}"));
        }
        let num_faults = self.projector.as_ref().map_or(0, |it| it.num_faults);
        if num_faults > 0 {
            troubles.push(format!(
                "the record store has skipped events that it could not apply: {num_faults}, see \
                 its table _faults"
            ));
        }
        if let Some(reason) = &self.store_trouble {
            troubles.push(format!("the record store cannot be read: {reason}"));
        }
        let captured = self.captured.as_ref().map(|captured| &captured.state);
        if let Some(captured) = captured.filter(|it| it.is_failing) {
            let reason = captured.reason.as_deref().unwrap_or(SEE_LOG);
            troubles.push(format!(
                "changes made by SQL cannot be appended to the log: {reason}"
            ));
        }
        troubles.extend(self.captured_trouble.clone());
    }

    fn add_door_troubles(&self, troubles: &mut Vec<String>) {
        if self.door.is_refusing_connections {
            let trouble = "connections are closed for lack of file descriptors (ulimit -n)";
            troubles.push(trouble.to_owned());
        }
    }

    /// Adds what the server should have done, besides serving, and has not.
    fn add_duty_troubles(&self, troubles: &mut Vec<String>) {
        if let Some(reason) = &self.erasures.reason {
            troubles.push(format!("an erasure is not finished yet: {reason}"));
        }
        if let Some(error) = &self.backups.last_error {
            troubles.push(format!("the last backup failed: {error}"));
        }
        if let Some(reason) = &self.backups.missing_keys {
            troubles.push(format!(
                "the last backup lacks the current keys of subjects: {reason}"
            ));
        }
        if let Some(error) = &self.audit.trouble {
            troubles.push(format!("the audit trail cannot be written: {error}"));
        }
    }
}

/// Says that a plugin is missing, if it is.
fn plugin_trouble(plugin: &PluginState) -> Option<String> {
    let name = plugin.is_missing.then_some(&plugin.name)?;
    Some(if plugin.generation.is_none() {
        format!("the plugin {name} has not registered: clients are not served")
    } else if plugin.transport == TransportKind::WebSocket {
        format!(
            "no worker of the plugin {name} is connected and registered: requests to it are refused"
        )
    } else {
        format!("the plugin {name} cannot be reached: requests to it fail")
    })
}

impl Services {
    /// Returns the states of all parts; one that does not answer has none.
    pub async fn states(&self) -> States {
        let (projector, hub, internal_hub, notices, push, live, plugins, tasks, indexes, captured) = tokio::join!(
            ask(&self.parts.projector, GetProjectorState),
            ask(&self.hub, GetHubState),
            ask(&self.internal_hub, GetHubState),
            ask(&self.parts.notices, GetDeliveryState),
            self.push.states(),
            ask(&self.parts.live_follower, GetDeliveryState),
            self.broker.state(),
            ask(&self.tasks, ListTasks),
            self.indexes(),
            self.captured(),
        );
        let log = self.parts.log.state();
        let now = self.records.env().clock.now();
        States {
            projector: projector.flatten(),
            // Listing the indexes has just tried to read.
            store_trouble: self.parts.store.read_trouble(),
            queries: self.parts.store.query_figures(),
            hub: hub.map(|reported| reported.0),
            internal_hub: internal_hub.map(|reported| reported.0),
            notices: notices
                .flatten()
                .map(|delivery| NoticeFigures::new(delivery, log.head, now)),
            push,
            live: live.flatten().map(|delivery| LiveFigures {
                position: delivery.position,
                state: self.live.state(),
            }),
            deliveries: self.consumers.states(),
            captured,
            captured_trouble: self.records.env().captured.refusal_trouble(),
            erasures: self.eraser.state(),
            num_followers: self.followers.count(),
            plugins,
            tasks,
            records: self.records.states(),
            accounts: self.accounts.state(),
            caches: self.records.env().model.sizes(),
            indexes,
            door: self.door.state(self.running.len()),
            throttle: self.throttle.state(),
            refusals: self.refusals.totals(),
            audit: self.audit.state(),
            backups: self.parts.backups.state(),
            checkpoints: self.parts.checkpoints.state(),
            log,
        }
    }

    async fn captured(&self) -> Option<CaptureFigures> {
        let figures = tokio::time::timeout(STATE_TIMEOUT, self.captured.figures());
        figures.await.ok()?.ok()?
    }

    async fn indexes(&self) -> Option<IndexFigures> {
        let listed = tokio::time::timeout(STATE_TIMEOUT, self.parts.store.list_indexes());
        let listed = listed.await.ok()?.ok()?;
        let mut figures = IndexFigures::default();
        for entry in listed {
            figures.num_built += usize::from(entry.state == IndexState::Built);
            figures.num_wanted += usize::from(entry.state == IndexState::Wanted);
            figures.num_uses += entry.num_uses;
            figures.num_bytes += entry.num_bytes;
        }
        Some(figures)
    }
}

async fn ask<A, M>(actor: &Addr<A>, message: M) -> Option<M::Result>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    let answer = tokio::time::timeout(STATE_TIMEOUT, actor.send(message)).await;
    answer.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    #[test]
    fn notices_are_in_trouble_when_they_are_late_not_when_they_are_many() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let figures = |oldest: Option<i64>| {
            let delivery = DeliveryState {
                position: 1000,
                oldest: oldest.map(at),
                consumer: Json::Null,
            };
            NoticeFigures::new(delivery, 51_000, at(500))
        };
        for (oldest, lag) in [(None, 0), (Some(440), 60), (Some(600), 0)] {
            let figures = figures(oldest);
            assert_eq!((figures.lag_events, figures.lag_seconds), (50_000, lag));
            assert_eq!(figures.trouble(), None);
        }
        let trouble = figures(Some(430)).trouble().unwrap();
        assert!(trouble.contains("70 s late: 50000 events"), "{trouble}");
    }
}
