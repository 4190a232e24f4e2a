//! Plugins: out-of-process programs that hook into the server.
//!
//! The rest of the server sees two ports. Towards the plugins: which extension
//! points there are ([`Points`], cheap to look at), and [`PluginGate::call`].
//! From them: [`ApiCaller`], which runs an action that a worker asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::TypeName;
use tokio::time::Instant;
use uuid::Uuid;

use crate::context::RequestContext;

/// When a database hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// Before a record is saved; may change or refuse it.
    BeforeSave,
    /// After it was saved.
    AfterSave,
    /// Before a record is deleted; may refuse.
    BeforeDelete,
    /// After it was deleted.
    AfterDelete,
}

/// A registered database hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The hook's name at the plugin.
    pub name: String,
    /// The record type.
    pub record_type: TypeName,
    /// When it runs.
    pub trigger: Trigger,
    /// Nobody waits for its answer.
    pub is_async: bool,
    /// Its own limit, if it has one.
    pub timeout: Option<Duration>,
}

/// A registered lambda.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lambda {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The action's name.
    pub name: String,
    /// A key or a token is needed.
    pub key_required: bool,
    /// A signed-in user is needed.
    pub user_required: bool,
    /// Its own limit, if it has one.
    pub timeout: Option<Duration>,
}

/// How far the plugins are, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Readiness {
    /// Some plugin has not been initialised yet.
    #[default]
    Unavailable,
    /// All are initialised; some still prepare.
    Initializing,
    /// Clients are served.
    Ready,
}

/// Everything that plugins have registered.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Hooks in the order in which they run.
    pub hooks: HashMap<(TypeName, Trigger), Vec<Hook>>,
    /// Lambdas by name.
    pub lambdas: HashMap<String, Lambda>,
    /// How far the plugins are.
    pub readiness: Readiness,
}

impl Points {
    /// Returns the hooks of a type for a trigger, in the order in which they run.
    pub fn hooks(&self, record_type: &TypeName, trigger: Trigger) -> &[Hook] {
        if self.hooks.is_empty() {
            return &[];
        }
        self.hooks
            .get(&(record_type.clone(), trigger))
            .map_or(&[], Vec::as_slice)
    }

    /// Returns the lambda of an action's name.
    pub fn lambda(&self, name: &str) -> Option<&Lambda> {
        self.lambdas.get(name)
    }
}

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
        Self {
            user_id: context.caller.user.as_ref().map(ToString::to_string),
            access_key_type: Some(context.caller.key),
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
}

/// An action that a plugin asks for.
#[derive(Clone, Debug)]
pub struct PluginCall {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The body of the action, `action` included. Rights follow its `api_key`; without one the call
    /// has the master key's.
    pub payload: Map<String, Json>,
    /// What it descends from, itself included.
    pub lineage: Lineage,
    /// When the plugin stops waiting.
    pub deadline: Option<Instant>,
}

/// What an action answered, as over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiReply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Json,
}

/// Runs the actions that plugins ask for, through the same router as clients' requests.
#[async_trait]
pub trait ApiCaller: Send + Sync + 'static {
    /// Runs an action. Errors are replies, too.
    async fn call(&self, call: PluginCall) -> ApiReply;
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
}
