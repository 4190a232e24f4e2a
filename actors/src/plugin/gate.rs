//! The port towards the plugins: which points there are, and asking one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::ApiError;
use tokio::time::Instant;
use uuid::Uuid;

use super::points::{Points, Readiness};
use crate::context::RequestContext;

/// What a plugin is told about the request that caused its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CallContext {
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// `client`, `master`, or `none` for a caller with a token alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_type: Option<KeyKind>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// The kind of action.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_tag: &'static str,
}

impl CallContext {
    /// Tells what plugins are told of a request.
    pub fn of(context: &RequestContext) -> Self {
        let caller = &context.caller;
        let is_known = caller.key != KeyKind::None || caller.user.is_some();
        Self {
            user_id: caller.user.as_ref().map(ToString::to_string),
            access_key_type: is_known.then_some(caller.key),
            request_id: Some(context.request_id),
            request_tag: context.tag,
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

/// What a call descends from: nested saves name their ancestors, and nesting is bounded.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// The saves that are under way above it, the outermost first.
    pub ancestors: Vec<Uuid>,
    /// How deep in calls of calls it is.
    pub depth: u32,
    /// The request that it all began with.
    pub request_id: Option<Uuid>,
    /// The worker's call that it came through, if it did.
    pub via: Option<Via>,
}

impl Lineage {
    /// Returns the lineage of requests that a request causes.
    pub fn of(context: &RequestContext) -> Self {
        Self {
            ancestors: context.ancestors.clone(),
            depth: context.depth,
            request_id: Some(context.request_id),
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

/// The way to the plugins.
#[async_trait]
pub trait PluginGate: Send + Sync + 'static {
    /// Returns what is registered now.
    fn points(&self) -> Arc<Points>;

    /// Asks a plugin and waits for its answer's `result`.
    ///
    /// # Errors
    /// The plugin's own error; 118 without a worker, 119 after the deadline.
    async fn call(&self, request: PluginRequest) -> Result<Json, ApiError>;

    /// Tells every worker of every plugin an event, in the background; answers are ignored.
    fn announce(&self, name: &'static str, param: Json);
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

    async fn call(&self, request: PluginRequest) -> Result<Json, ApiError> {
        Err(ApiError::unexpected(format!(
            "no plugin named {}",
            request.plugin
        )))
    }

    fn announce(&self, _: &'static str, _: Json) {}
}
