//! The circumstances of a request, as the actors need them.

use std::sync::Arc;

use skytrail_schema::caller::Caller;
use skytrail_schema::event::{Actor, Origin};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use uuid::Uuid;

use crate::plugin::Via;

/// Who asks, through what, and what the request may do.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Who asks.
    pub caller: Caller,
    /// Also in the answer's `X-Skygear-Request-Id`.
    pub request_id: Uuid,
    /// The request's tag for plugins: `record`, `auth`, `plugin`, …
    pub tag: &'static str,
    /// Whether record types may get fields: development mode or the master key.
    pub may_migrate: bool,
    /// Through what the request came.
    pub origin: Origin,
    /// The plugin that called, if one did.
    pub plugin: Option<String>,
    /// The saves under way above this one, the outermost first, when a hook called back.
    pub ancestors: Vec<Uuid>,
    /// How deep in calls of calls this is; 0 for a client's request.
    pub depth: u32,
    /// The plugins' calls that it came through, the outermost first; the last is this one, if it is
    /// one.
    pub via: Vec<Via>,
    /// When the client stops waiting; plugins get no longer than that.
    pub deadline: Option<Instant>,
    /// Whether anything may still be stored.
    pub storing: Storing,
}

/// Whether anything may still be stored for a request: once its client was told that it took too
/// long, nothing is. Copies speak of the same request.
#[derive(Clone, Debug)]
pub struct Storing(Arc<Semaphore>);

/// How many commits of one request may be under way at once.
const MANY: u32 = 1 << 16;

impl Default for Storing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MANY as usize)))
    }
}

impl Storing {
    /// Begins to store, until what is returned is dropped; `None` when it is too late.
    pub async fn begin(&self) -> Option<SemaphorePermit<'_>> {
        self.0.acquire().await.ok()
    }

    /// Whether something is being stored.
    pub fn is_under_way(&self) -> bool {
        self.0.available_permits() < MANY as usize
    }

    /// Waits for what is being stored, after which nothing is. Says whether there was something.
    pub async fn end(&self) -> bool {
        let was_storing = self.is_under_way();
        let _all = self.0.acquire_many(MANY).await;
        self.0.close();
        was_storing
    }
}

impl RequestContext {
    /// Returns a context for work that the server does of its own accord.
    pub fn system() -> Self {
        Self {
            caller: Caller {
                key: skytrail_schema::caller::KeyKind::Master,
                ..Caller::default()
            },
            request_id: Uuid::now_v7(),
            tag: "",
            may_migrate: true,
            origin: Origin::System,
            plugin: None,
            ancestors: Vec::new(),
            depth: 0,
            via: Vec::new(),
            deadline: None,
            storing: Storing::default(),
        }
    }

    /// Returns the actor that commits name.
    pub fn actor(&self) -> Actor {
        Actor {
            user: self.caller.user.clone(),
            key: self.caller.key,
            origin: self.origin,
            plugin: self.plugin.clone(),
        }
    }
}
