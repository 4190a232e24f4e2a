//! The circumstances of a request, as the actors need them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skytrail_schema::caller::Caller;
use skytrail_schema::event::{Actor, OnBehalf, Origin};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::plugin::Via;

/// Who asks, through what, and what the request may do.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Who asks.
    pub caller: Caller,
    /// Its id, also in the answer's `X-Skygear-Request-Id`.
    pub request: RequestId,
    /// The request's tag for plugins: `record`, `auth`, `plugin`, …
    pub tag: &'static str,
    /// Whether record types may get fields: development mode or the master key.
    pub may_migrate: bool,
    /// Through what the request came.
    pub origin: Origin,
    /// The plugin that called, if one did.
    pub plugin: Option<String>,
    /// What had the plugin call.
    pub on_behalf: Option<Box<OnBehalf>>,
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
    /// Whether it comes of a plugin that is only tried: nothing may be stored at all.
    pub is_sandboxed: bool,
}

/// The id of a request, which the first commit that is tried has, too: the log need not store both.
/// Copies speak of the same request.
#[derive(Clone, Debug)]
pub struct RequestId {
    id: Uuid,
    is_taken: Arc<AtomicBool>,
}

impl RequestId {
    /// The id of a request that has no other part.
    pub fn own(id: Uuid) -> Self {
        Self::new(id, false)
    }

    /// The id of a request that this one is a part of: the commits of that are no business of ours.
    pub fn shared(id: Uuid) -> Self {
        Self::new(id, true)
    }

    fn new(id: Uuid, is_taken: bool) -> Self {
        let is_taken = Arc::new(AtomicBool::new(is_taken));
        Self { id, is_taken }
    }

    /// Returns the id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Returns an id for a commit, another one each time.
    pub fn next_commit(&self) -> Uuid {
        if self.is_taken.swap(true, Ordering::Relaxed) {
            Uuid::now_v7()
        } else {
            self.id
        }
    }
}

/// Whether anything may still be stored for a request: once its client was told that it took too
/// long, or is gone, nothing is. Copies speak of the same request.
#[derive(Clone, Debug)]
pub struct Storing {
    commits: Arc<Semaphore>,
    given_up: CancellationToken,
}

/// How many commits of one request may be under way at once.
const MANY: u32 = 1 << 16;

impl Default for Storing {
    fn default() -> Self {
        Self {
            commits: Arc::new(Semaphore::new(MANY as usize)),
            given_up: CancellationToken::new(),
        }
    }
}

impl Storing {
    /// Begins to store, until what is returned is dropped; `None` when it is too late.
    pub async fn begin(&self) -> Option<SemaphorePermit<'_>> {
        self.commits.acquire().await.ok()
    }

    /// Whether something is being stored.
    pub fn is_under_way(&self) -> bool {
        self.commits.available_permits() < MANY as usize
    }

    /// Waits for what is being stored, after which nothing is. Says whether there was something.
    pub async fn end(&self) -> bool {
        let was_storing = self.is_under_way();
        let _all = self.commits.acquire_many(MANY).await;
        self.commits.close();
        was_storing
    }

    /// Nobody waits for the request any more: what is being stored just now is, and nothing else.
    pub fn give_up(&self) {
        self.commits.close();
        self.given_up.cancel();
    }

    /// Waits until nobody waits for the request any more.
    pub async fn given_up(&self) {
        self.given_up.cancelled().await;
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
            request: RequestId::own(Uuid::now_v7()),
            tag: "",
            may_migrate: true,
            origin: Origin::System,
            plugin: None,
            on_behalf: None,
            ancestors: Vec::new(),
            depth: 0,
            via: Vec::new(),
            deadline: None,
            storing: Storing::default(),
            is_sandboxed: false,
        }
    }

    /// Returns the actor that commits name.
    pub fn actor(&self) -> Actor {
        Actor {
            user: self.caller.user.clone(),
            key: self.caller.key,
            origin: self.origin,
            plugin: self.plugin.clone(),
            on_behalf: self.on_behalf.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_commit_of_a_request_has_its_id() {
        let id = Uuid::now_v7();
        let own = RequestId::own(id);
        let copy = own.clone();
        let ids = [copy.next_commit(), own.next_commit(), copy.next_commit()];
        assert_eq!(ids[0], id);
        let [_, second, third] = ids;
        assert!(second != id && third != id && second != third);
        let shared = RequestId::shared(id);
        assert_eq!(shared.id(), id);
        assert_ne!(shared.next_commit(), id);
    }
}
