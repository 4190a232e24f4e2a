//! The port from the plugins: running the actions that workers ask for.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value as Json};
use tokio::time::Instant;

use super::gate::Lineage;

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
