//! The port from the plugins: runs the actions that workers ask for.

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
    /// The body of the action, `action` included. Its `api_key` decides the rights; a call without
    /// one has the rights of the master key.
    pub payload: Map<String, Json>,
    /// What the call descends from, itself included.
    pub lineage: Lineage,
    /// When the plugin stops waiting.
    pub deadline: Option<Instant>,
}

/// The answer of an action, as over HTTP.
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
    /// Runs an action. Errors are returned as replies, too.
    async fn call(&self, call: PluginCall) -> ApiReply;
}
