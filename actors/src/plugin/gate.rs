//! The port towards the plugins: which points exist, and how to ask one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Actor, OnBehalf, Origin};
use skytrail_schema::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::errors::{Unavailable, late, unavailable};
use super::points::{ExtensionPoints, Readiness};
use super::settings::TransportKind;
use crate::context::{Cause, RequestContext};

/// What a plugin is told about the request that caused the request to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CallContext {
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// `client`, `master`, or `none` for a caller with no key or a wrong one. A caller with the
    /// master key and only a user's rights is told as `client`, so that no plugin grants it more.
    /// Left out when no caller asked: published plugins take that for the master key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_type: Option<KeyKind>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// The kind of action.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_tag: &'static str,
    /// Whether the plugin is only being tried: nothing that it does will be stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
    /// Whether the request showed the master key, whatever its rights; plugins are not told.
    #[serde(skip)]
    pub may_be_of_plugin: bool,
}

impl CallContext {
    /// Returns what plugins are told about a request.
    pub fn of(context: &RequestContext) -> Self {
        Self {
            request_id: Some(context.request.id()),
            request_tag: context.tag,
            ..Self::of_actor(&context.actor())
        }
    }

    /// Returns what plugins are told about the author of a commit whose request is over.
    pub fn of_actor(actor: &Actor) -> Self {
        let is_request = matches!(actor.origin, Origin::Api | Origin::Plugin);
        let is_authenticated = is_request || actor.key != KeyKind::None || actor.user.is_some();
        Self {
            user_id: actor.user.as_ref().map(ToString::to_string),
            access_key_type: is_authenticated.then_some(actor.rights.limit(actor.key)),
            may_be_of_plugin: actor.key == KeyKind::Master,
            ..Self::default()
        }
    }
}

/// A request to a plugin.
#[derive(Clone, Debug)]
pub struct PluginRequest {
    /// The plugin.
    pub plugin: Arc<str>,
    /// `op`, `hook`, `event`, …
    pub kind: &'static str,
    /// The point's name.
    pub name: String,
    /// The content; left out when null.
    pub param: Json,
    /// The circumstances; left out when unknown.
    pub context: Option<CallContext>,
    /// The point's own limit.
    pub timeout: Option<Duration>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The lineage of calls that are made while answering this request.
    pub lineage: Lineage,
}

impl PluginRequest {
    /// Records on whose behalf the plugin acts during this request, unless it is part of something
    /// already begun on somebody's behalf. A timer acts on nobody's behalf.
    pub(super) fn on_behalf(mut self) -> Self {
        if let Some(context) = &self.context {
            let kind = match self.kind {
                "op" => "lambda",
                kind => kind,
            };
            self.lineage.on_behalf.get_or_insert_with(|| {
                Box::new(OnBehalf {
                    user: context.user_id.as_deref().map(Into::into),
                    point: format!("{kind} {}/{}", self.plugin, self.name),
                })
            });
        }
        self
    }
}

/// What a call descends from: nested saves name their ancestors, and nesting is bounded.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// The saves in progress above it, outermost first.
    pub ancestors: Vec<Cause>,
    /// Its depth in calls of calls.
    pub depth: u32,
    /// The request that everything began with.
    pub request_id: Option<Uuid>,
    /// The user of that request, and what it asked of which plugin.
    pub on_behalf: Option<Box<OnBehalf>>,
    /// The workers' calls that it passed through, outermost first.
    pub via: Vec<Via>,
}

impl Lineage {
    /// Returns the lineage for requests that a request causes.
    pub fn of(context: &RequestContext) -> Self {
        Self {
            ancestors: context.ancestors.clone(),
            depth: context.depth,
            request_id: Some(context.request.id()),
            on_behalf: context.on_behalf.clone(),
            via: context.via.clone(),
        }
    }
}

/// A call by a worker. Requests that it causes go back to that worker, whatever its window: the
/// worker cannot finish its request before they are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The worker's connection.
    pub worker: WorkerId,
    /// The call's id at the worker.
    pub call: Arc<str>,
}

/// Identifies a worker's connection; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct WorkerId(pub u64);

/// What a plugin is told about a delivery, in addition to its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeliveryNote {
    /// The delivery's id: the event's, and the hook. It is the same at every attempt, and never
    /// another delivery's, so a plugin can keep it for good.
    pub id: String,
    /// The event's position in the log.
    pub position: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// When the event was committed.
    pub at: Timestamp,
    /// Whether the event is from the past, because the plugin was away.
    pub catching_up: bool,
}

impl DeliveryNote {
    /// Returns the note for a hook that is only being tried, during `what`. No event has such an
    /// id, because theirs begin with a UUID.
    pub fn tried(what: &str, hook: &str, (position, at): (u64, Timestamp)) -> Self {
        Self {
            id: format!("{what}/{hook}"),
            position,
            attempt: 1,
            at,
            catching_up: false,
        }
    }
}

/// Changes when a delivery must not wait for its turn any more. The value is the calls that wait
/// for what is queued after it.
pub type Urgency = watch::Receiver<Vec<Via>>;

/// Returns a receiver that never changes, for a delivery that nothing else waits behind.
pub fn never_urgent() -> Urgency {
    watch::channel(Vec::new()).1
}

/// Why a delivery, or another request, failed.
#[derive(Clone, Debug, PartialEq)]
pub enum PluginCallError {
    /// The plugin received it and refused it.
    Refused(ApiError),
    /// The worker was lost with it.
    Lost(ApiError),
    /// It did not answer in time.
    Late(ApiError),
    /// The plugin never received it.
    Unready(ApiError),
}

impl PluginCallError {
    /// Returns the error itself.
    pub fn error(&self) -> &ApiError {
        match self {
            Self::Refused(error) | Self::Lost(error) | Self::Late(error) | Self::Unready(error) => {
                error
            }
        }
    }

    /// Returns error 118 or 119 for a plugin that did not answer, whatever error its transport
    /// reports; `None` if the plugin refused.
    pub fn outage(&self, plugin: &str) -> Option<ApiError> {
        match self {
            Self::Refused(_) => None,
            // An overload, or a request that is too large, is reported as it is.
            other if other.error().code != Code::UnexpectedError => Some(other.error().clone()),
            other if other.error().status() != 500 => Some(other.error().clone()),
            Self::Lost(_) => Some(unavailable(plugin, Unavailable::WorkerLost)),
            Self::Late(_) => Some(late(plugin)),
            Self::Unready(_) => Some(unavailable(plugin, Unavailable::NoWorker)),
        }
    }

    /// Drops the reason and returns the error.
    pub fn into_error(self) -> ApiError {
        match self {
            Self::Refused(error) | Self::Lost(error) | Self::Late(error) | Self::Unready(error) => {
                error
            }
        }
    }
}

/// The state of a plugin at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whether it has registered since the server started.
    pub is_registered: bool,
    /// How many workers serve.
    pub num_workers: usize,
    /// Whether they serve clients, too; while plugins prepare, they serve only each other.
    pub is_ready: bool,
    /// Whether a worker is connected that serves, or will serve once it is prepared.
    pub is_attended: bool,
    /// Whether a worker is leaving: it gets only what its own requests wait for.
    pub is_leaving: bool,
    /// The generation that serves.
    pub generation: Option<u64>,
    /// How many deliveries the workers take at once, in total.
    pub window: usize,
    /// How long one of its requests may take.
    pub limit: Duration,
    /// Its transport.
    pub transport: TransportKind,
    /// The position after which its workers want deliveries to start, and the worker that asked for
    /// it.
    pub from: Option<(WorkerId, u64)>,
}

impl Presence {
    /// Returns how many timer runs the workers take at once, in total.
    pub fn window_for_timers(&self) -> usize {
        window_for_timers(self.window)
    }
}

/// Returns how much of a window timer runs can hold: half, to leave room for others, but at least
/// one. In a window of one, a timer run keeps others waiting.
pub(super) fn window_for_timers(window: usize) -> usize {
    (window / 2).max(1)
}

/// The gate to the plugins.
#[async_trait]
pub trait PluginGate: Send + Sync + 'static {
    /// Returns the points that are registered now.
    fn points(&self) -> Arc<ExtensionPoints>;

    /// Asks a plugin and waits for the `result` of its answer.
    ///
    /// # Errors
    /// The plugin's own error; 118 without a worker, 119 after the deadline.
    async fn call(&self, request: PluginRequest) -> Result<Json, ApiError> {
        let answer = self.ask(request).await;
        answer.map_err(PluginCallError::into_error)
    }

    /// Like [`PluginGate::call`], but the error tells whether the plugin received the request.
    ///
    /// # Errors
    /// See [`PluginCallError`].
    async fn ask(&self, request: PluginRequest) -> Result<Json, PluginCallError>;

    /// Announces an event to every worker of every plugin, in the background; answers are ignored.
    fn announce(&self, name: &'static str, param: Json);

    /// Like [`PluginGate::call`], for a delivery. Its limit is `request.timeout`, or the plugin's
    /// if there is none, and restarts when the worker reports progress.
    ///
    /// # Errors
    /// See [`PluginCallError`].
    async fn deliver(
        &self,
        request: PluginRequest,
        note: DeliveryNote,
        urgency: Urgency,
    ) -> Result<Json, PluginCallError>;

    /// Returns the state of a plugin.
    fn presence(&self, plugin: &str) -> Presence;

    /// Returns a receiver that changes whenever points or presences change.
    fn changes(&self) -> watch::Receiver<()>;
}

/// A gate without any plugins.
#[derive(Debug)]
pub struct NoPlugins(Arc<ExtensionPoints>);

impl Default for NoPlugins {
    fn default() -> Self {
        Self(Arc::new(ExtensionPoints {
            readiness: Readiness::Ready,
            ..ExtensionPoints::default()
        }))
    }
}

#[async_trait]
impl PluginGate for NoPlugins {
    fn points(&self) -> Arc<ExtensionPoints> {
        Arc::clone(&self.0)
    }

    async fn ask(&self, request: PluginRequest) -> Result<Json, PluginCallError> {
        let message = format!("no plugin named {}", request.plugin);
        Err(PluginCallError::Refused(ApiError::unexpected(message)))
    }

    fn announce(&self, _: &'static str, _: Json) {}

    async fn deliver(
        &self,
        request: PluginRequest,
        _: DeliveryNote,
        _: Urgency,
    ) -> Result<Json, PluginCallError> {
        self.ask(request).await
    }

    fn presence(&self, _: &str) -> Presence {
        Presence::default()
    }

    fn changes(&self) -> watch::Receiver<()> {
        watch::channel(()).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::errors::too_large;

    #[test]
    fn a_plugin_that_has_said_nothing_is_an_outage_over_every_transport() {
        let shown = |silent: PluginCallError| {
            let outage = silent.outage("P")?;
            Some((outage.code.number(), outage.status()))
        };
        // The one error that the transports of v1 use for everything.
        let plain = || ApiError::unexpected("Plugin time out");
        assert_eq!(shown(PluginCallError::Lost(plain())), Some((118, 503)));
        assert_eq!(shown(PluginCallError::Unready(plain())), Some((118, 503)));
        assert_eq!(shown(PluginCallError::Late(plain())), Some((119, 504)));
        let busy = ApiError::overloaded("the plugins' mailbox");
        assert_eq!(shown(PluginCallError::Unready(busy)), Some((10_000, 503)));
        let large = too_large(2, 1, 1);
        assert_eq!(shown(PluginCallError::Lost(large)), Some((107, 413)));
        let own = ApiError::new(Code::PluginUnavailable, "no");
        assert_eq!(shown(PluginCallError::Refused(own)), None);
    }
}
