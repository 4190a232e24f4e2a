//! The circumstances of a request, as the actors need them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use skytrail_schema::caller::Caller;
use skytrail_schema::event::{Actor, OnBehalf, Origin};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::plugin::Via;

/// Who makes the request, through what, and what it may do.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The caller.
    pub caller: Caller,
    /// The request's id, also in the answer's `X-Skygear-Request-Id`.
    pub request: RequestId,
    /// The request's tag for plugins: `record`, `auth`, `plugin`, …
    pub tag: &'static str,
    /// Whether record types can get new fields: in development mode or with the master key.
    pub may_migrate: bool,
    /// The way that the request arrived by.
    pub origin: Origin,
    /// The plugin that called, if any.
    pub plugin: Option<String>,
    /// What the plugin called on behalf of.
    pub on_behalf: Option<Box<OnBehalf>>,
    /// The saves in progress above this one, the outermost first, if a hook called back.
    pub ancestors: Vec<Cause>,
    /// How deeply calls are nested here; 0 for a client's request.
    pub depth: u32,
    /// The plugin calls that the request came through, the outermost first; the last one is this
    /// request, if it is such a call.
    pub via: Vec<Via>,
    /// When the client stops waiting; plugins get no more time than that.
    pub deadline: Option<Instant>,
    /// Whether anything may still be stored.
    pub commit_gate: CommitGate,
    /// Whether the request belongs to a plugin on trial: nothing at all may be stored.
    pub is_sandboxed: bool,
}

/// Something whose hooks can store more: a save or deletion in progress, or a commit. Clones are
/// for the same.
#[derive(Clone, Debug)]
pub struct Cause {
    id: Uuid,
    /// What was decided because of it, directly or not. The log has only the last cause of a
    /// commit, so it cannot tell what the hooks of one save caused from what those of another did.
    commits: Arc<Mutex<HashSet<Uuid>>>,
}

impl Cause {
    /// Creates the cause that commits name by an id.
    pub fn new(id: Uuid) -> Self {
        Self {
            id,
            commits: Arc::default(),
        }
    }

    /// Creates the cause for a save or deletion that begins.
    pub fn begin() -> Self {
        Self::new(Uuid::now_v7())
    }

    /// Returns its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Notes a commit that it causes, before the commit is appended.
    pub fn note(&self, commit: Uuid) {
        self.commits.lock().insert(commit);
    }

    /// Returns whether it has caused a commit, directly or not.
    pub fn has_caused(&self, commit: Uuid) -> bool {
        self.commits.lock().contains(&commit)
    }
}

/// The id of a request. The first commit that it attempts gets the same id, so that the log need
/// not store both. Clones are for the same request.
#[derive(Clone, Debug)]
pub struct RequestId {
    id: Uuid,
    is_taken: Arc<AtomicBool>,
}

impl RequestId {
    /// Creates the id of a request that is complete in itself.
    pub fn own(id: Uuid) -> Self {
        Self::new(id, false)
    }

    /// Creates the id of a request of which this is a part: no commit of this part gets it.
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

    /// Returns an id for a commit, a different one each time.
    pub fn next_commit(&self) -> Uuid {
        if self.is_taken.swap(true, Ordering::Relaxed) {
            Uuid::now_v7()
        } else {
            self.id
        }
    }
}

/// Whether anything may still be stored for a request: nothing is after its client was told that it
/// took too long, or has gone. Clones are for the same request.
#[derive(Clone, Debug)]
pub struct CommitGate {
    commits: Arc<Semaphore>,
    given_up: CancellationToken,
}

/// How many commits of one request can be in progress at once.
const MANY: u32 = 1 << 16;

impl Default for CommitGate {
    fn default() -> Self {
        Self {
            commits: Arc::new(Semaphore::new(MANY as usize)),
            given_up: CancellationToken::new(),
        }
    }
}

impl CommitGate {
    /// Begins to store, until the permit is dropped; `None` when it is too late.
    pub async fn begin(&self) -> Option<SemaphorePermit<'_>> {
        self.commits.acquire().await.ok()
    }

    /// Returns whether something is being stored.
    pub fn is_in_progress(&self) -> bool {
        self.commits.available_permits() < MANY as usize
    }

    /// Waits for what is being stored; nothing is stored after that. Returns whether there was
    /// something.
    pub async fn end(&self) -> bool {
        let was_storing = self.is_in_progress();
        let _all = self.commits.acquire_many(MANY).await;
        self.commits.close();
        was_storing
    }

    /// Notes that nobody waits for the request any more: what is being stored is completed, and
    /// nothing else is stored.
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
    /// Returns a context for work that the server does on its own.
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
            commit_gate: CommitGate::default(),
            is_sandboxed: false,
        }
    }

    /// Returns the actor for commits.
    pub fn actor(&self) -> Actor {
        Actor {
            user: self.caller.user.clone(),
            key: self.caller.key,
            rights: self.caller.rights,
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
