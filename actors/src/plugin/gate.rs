//! The port towards the plugins: which points there are, and asking one.

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
use super::points::{Points, Readiness};
use super::settings::TransportKind;
use crate::context::RequestContext;

/// What a plugin is told about the request that caused its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CallContext {
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// `client`, `master`, or `none` for a caller who showed none, or a wrong one. Left out of what
    /// nobody asked for: published plugins take that for the master key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_type: Option<KeyKind>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// The kind of action.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_tag: &'static str,
    /// Whether the plugin is only tried: nothing of it will be stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
}

impl CallContext {
    /// Tells what plugins are told of a request.
    pub fn of(context: &RequestContext) -> Self {
        Self {
            request_id: Some(context.request.id()),
            request_tag: context.tag,
            ..Self::of_actor(&context.actor())
        }
    }

    /// Tells what they are told of whoever caused a commit, when his request is over.
    pub fn of_actor(actor: &Actor) -> Self {
        let is_asked = matches!(actor.origin, Origin::Api | Origin::Plugin);
        let is_known = is_asked || actor.key != KeyKind::None || actor.user.is_some();
        Self {
            user_id: actor.user.as_ref().map(ToString::to_string),
            access_key_type: is_known.then_some(actor.key),
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
    /// The circumstances; left out when nothing is known.
    pub context: Option<CallContext>,
    /// The point's own limit.
    pub timeout: Option<Duration>,
    /// When whoever waits stops waiting.
    pub deadline: Option<Instant>,
    /// What calls made while answering this one descend from.
    pub lineage: Lineage,
}

impl PluginRequest {
    /// Notes on whose behalf the plugin acts in its course, unless it is a part of what somebody else
    /// has begun. What comes by itself, a timer, is on nobody's.
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
    /// The saves that are under way above it, the outermost first.
    pub ancestors: Vec<Uuid>,
    /// How deep in calls of calls it is.
    pub depth: u32,
    /// The request that it all began with.
    pub request_id: Option<Uuid>,
    /// Whose request that was, and what it asked of which plugin.
    pub on_behalf: Option<Box<OnBehalf>>,
    /// The workers' calls that it came through, the outermost first.
    pub via: Vec<Via>,
}

impl Lineage {
    /// Returns the lineage of requests that a request causes.
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

/// A call of a worker. Requests that it causes go back to that worker, whatever its window says:
/// it cannot finish what it has before they are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The worker's connection.
    pub worker: WorkerId,
    /// The call's id at the worker.
    pub call: Arc<str>,
}

/// Names a worker's connection; never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct WorkerId(pub u64);

/// What a plugin is told of a delivery, besides what is delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeliveryNote {
    /// The same at every attempt.
    pub id: String,
    /// The event's place in the log.
    pub position: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// When the event was committed.
    pub at: Timestamp,
    /// Whether it is of the past, because the plugin was away.
    pub catching_up: bool,
}

impl DeliveryNote {
    /// Returns what a hook is told that is only tried, in the course of `what`. Its id is no event's:
    /// theirs begin with a number.
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

/// Changes when a delivery is not to wait for its turn any more, to the calls of those who wait for
/// what is behind it.
pub type Hurry = watch::Receiver<Vec<Via>>;

/// Returns what never changes, for a delivery that nobody else waits behind.
pub fn no_hurry() -> Hurry {
    watch::channel(Vec::new()).1
}

/// Why a delivery, or another request, did not go well.
#[derive(Clone, Debug, PartialEq)]
pub enum Undelivered {
    /// The plugin had it and said no.
    Refused(ApiError),
    /// It was lost with it.
    Lost(ApiError),
    /// It did not answer in time.
    Late(ApiError),
    /// It never got it.
    Unready(ApiError),
}

impl Undelivered {
    /// Returns the error itself.
    pub fn error(&self) -> &ApiError {
        match self {
            Self::Refused(error) | Self::Lost(error) | Self::Late(error) | Self::Unready(error) => {
                error
            }
        }
    }

    /// Returns the 118 or 119 of a plugin that has said nothing, whatever its transport calls that;
    /// `None` when it has said no itself.
    pub fn outage(&self, plugin: &str) -> Option<ApiError> {
        match self {
            Self::Refused(_) => None,
            // Who is too busy, or has a request that is too large, is told so.
            other if other.error().code != Code::UnexpectedError => Some(other.error().clone()),
            other if other.error().status() != 500 => Some(other.error().clone()),
            Self::Lost(_) => Some(unavailable(plugin, Unavailable::WorkerLost)),
            Self::Late(_) => Some(late(plugin)),
            Self::Unready(_) => Some(unavailable(plugin, Unavailable::NoWorker)),
        }
    }

    /// Forgets why.
    pub fn into_error(self) -> ApiError {
        match self {
            Self::Refused(error) | Self::Lost(error) | Self::Late(error) | Self::Unready(error) => {
                error
            }
        }
    }
}

/// What there is of a plugin at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whether it has registered since the server's start.
    pub is_registered: bool,
    /// How many workers serve.
    pub num_workers: usize,
    /// Whether that is all the world; while plugins prepare they serve only each other.
    pub is_ready: bool,
    /// How many deliveries they take at once, all together.
    pub window: usize,
    /// How long one of its requests may take.
    pub limit: Duration,
    /// How it is reached.
    pub transport: TransportKind,
    /// The position behind which its workers want deliveries to start, and the one that said so.
    pub from: Option<(WorkerId, u64)>,
}

impl Presence {
    /// Returns how many timers' runs they take at once, all together.
    pub fn window_for_timers(&self) -> usize {
        window_for_timers(self.window)
    }
}

/// Returns how much of a window timers may hold: half, so that others find some of it, but one at least. In
/// a window of one a timer's run keeps others waiting.
pub(super) fn window_for_timers(window: usize) -> usize {
    (window / 2).max(1)
}

/// The way to the plugins.
#[async_trait]
pub trait PluginGate: Send + Sync + 'static {
    /// Returns what is registered now.
    fn points(&self) -> Arc<Points>;

    /// Asks a plugin and waits for its answer's `result`.
    ///
    /// # Errors
    /// The plugin's own error; 118 without a worker, 119 after the deadline.
    async fn call(&self, request: PluginRequest) -> Result<Json, ApiError> {
        let answer = self.ask(request).await;
        answer.map_err(Undelivered::into_error)
    }

    /// As [`PluginGate::call`], but says whether the plugin has had the request.
    ///
    /// # Errors
    /// See [`Undelivered`].
    async fn ask(&self, request: PluginRequest) -> Result<Json, Undelivered>;

    /// Tells every worker of every plugin an event, in the background; answers are ignored.
    fn announce(&self, name: &'static str, param: Json);

    /// As [`PluginGate::call`], for a delivery: its limit is `request.timeout` alone, and starts
    /// anew when the worker says that it still works on it.
    ///
    /// # Errors
    /// See [`Undelivered`].
    async fn deliver(
        &self,
        request: PluginRequest,
        note: DeliveryNote,
        hurry: Hurry,
    ) -> Result<Json, Undelivered>;

    /// Returns what there is of a plugin.
    fn presence(&self, plugin: &str) -> Presence;

    /// Returns what changes whenever points or presences do.
    fn changes(&self) -> watch::Receiver<()>;
}

/// No plugins at all.
#[derive(Debug)]
pub struct NoPlugins(Arc<Points>);

impl Default for NoPlugins {
    fn default() -> Self {
        Self(Arc::new(Points {
            readiness: Readiness::Ready,
            ..Points::default()
        }))
    }
}

#[async_trait]
impl PluginGate for NoPlugins {
    fn points(&self) -> Arc<Points> {
        Arc::clone(&self.0)
    }

    async fn ask(&self, request: PluginRequest) -> Result<Json, Undelivered> {
        let message = format!("no plugin named {}", request.plugin);
        Err(Undelivered::Refused(ApiError::unexpected(message)))
    }

    fn announce(&self, _: &'static str, _: Json) {}

    async fn deliver(
        &self,
        request: PluginRequest,
        _: DeliveryNote,
        _: Hurry,
    ) -> Result<Json, Undelivered> {
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
        let shown = |silent: Undelivered| {
            let outage = silent.outage("P")?;
            Some((outage.code.number(), outage.status()))
        };
        // What the transports of v1 call everything.
        let plain = || ApiError::unexpected("Plugin time out");
        assert_eq!(shown(Undelivered::Lost(plain())), Some((118, 503)));
        assert_eq!(shown(Undelivered::Unready(plain())), Some((118, 503)));
        assert_eq!(shown(Undelivered::Late(plain())), Some((119, 504)));
        let busy = ApiError::overloaded("the plugins' mailbox");
        assert_eq!(shown(Undelivered::Unready(busy)), Some((10_000, 503)));
        let large = too_large(2, 1, 1);
        assert_eq!(shown(Undelivered::Lost(large)), Some((107, 413)));
        let own = ApiError::new(Code::PluginUnavailable, "no");
        assert_eq!(shown(Undelivered::Refused(own)), None);
    }
}
