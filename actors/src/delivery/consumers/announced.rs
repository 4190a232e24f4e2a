//! Commits that requests have announced, and the waiters for their after-hooks.
//!
//! A writer announces every commit that hooks must hear of, under the commit's id, before it
//! commits. When a consumer reaches the commit in the log, it finds here who waits for its answer,
//! and the records as they were before, so it need not read the past. A waiter may leave at any
//! time: the delivery continues without it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use serde_json::json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use crate::context::RequestContext;
use crate::plugin::errors::{Unavailable, unavailable};
use crate::projector::Applied;

/// How many commits are remembered that some of their consumers have not read yet.
const MAX_COMMITS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// The result of one plugin's synchronous hooks on one event.
pub(super) type HookResult = Result<(), ApiError>;

/// The records as they were before a commit.
pub type Originals = HashMap<RecordId, Arc<Head>>;

/// All remembered commits, by id.
pub(super) struct AnnouncedCommits(Mutex<LruCache<Uuid, Arc<AnnouncedCommit>>>);

impl Default for AnnouncedCommits {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_COMMITS)))
    }
}

/// A commit that requires hooks, and the request behind it.
pub(super) struct AnnouncedCommit {
    /// The request.
    pub(super) context: RequestContext,
    /// The records before the commit; a missing one did not exist.
    pub(super) originals: Originals,
    waiters: Mutex<HashMap<(usize, Arc<str>), Waiter>>,
    /// The plugins whose consumers have not read the commit yet.
    unread_by: Mutex<Vec<Arc<str>>>,
}

/// A waiter for a plugin's answer to one event.
pub(super) struct Waiter {
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<HookResult>,
    /// Resolves when the plugins before this one have answered.
    pub(super) turn: Option<oneshot::Receiver<()>>,
}

impl AnnouncedCommit {
    pub(super) fn new(context: RequestContext, originals: Originals) -> Self {
        Self {
            context,
            originals,
            waiters: Mutex::default(),
            unread_by: Mutex::default(),
        }
    }

    /// Expects a plugin's consumer to read the commit.
    pub(super) fn expect(&self, plugin: &Arc<str>) {
        let mut unread_by = self.unread_by.lock();
        if !unread_by.contains(plugin) {
            unread_by.push(Arc::clone(plugin));
        }
    }

    /// Registers a waiter for a plugin's answer to an event, by the event's index in the commit.
    pub(super) fn add_waiter(
        &self,
        index: usize,
        plugin: &Arc<str>,
        turn: Option<oneshot::Receiver<()>>,
    ) -> oneshot::Receiver<HookResult> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { answer, turn };
        self.waiters
            .lock()
            .insert((index, Arc::clone(plugin)), waiter);
        answered
    }

    /// Removes and returns the waiter for a plugin's answer to an event.
    pub(super) fn take_waiter(&self, index: usize, plugin: &Arc<str>) -> Option<Waiter> {
        self.waiters.lock().remove(&(index, Arc::clone(plugin)))
    }
}

impl AnnouncedCommits {
    pub(super) fn insert(&self, commit: Uuid, announced: Arc<AnnouncedCommit>) {
        self.0.lock().put(commit, announced);
    }

    /// Forgets a commit that was not made, or whose waiters have stopped waiting.
    fn withdraw(&self, commit: Uuid, is_committed: bool) {
        let mut known = self.0.lock();
        let is_left = |it: &Arc<AnnouncedCommit>| !is_committed || !it.waiters.lock().is_empty();
        if known.peek(&commit).is_some_and(is_left) {
            known.pop(&commit);
        }
    }

    /// Returns a commit to a plugin's consumer that reads it, and forgets it once all expected
    /// consumers have read it.
    pub(super) fn take_for(&self, commit: Uuid, plugin: &Arc<str>) -> Option<Arc<AnnouncedCommit>> {
        let mut known = self.0.lock();
        let announced = Arc::clone(known.get(&commit)?);
        let mut unread_by = announced.unread_by.lock();
        unread_by.retain(|other| other != plugin);
        if unread_by.is_empty() {
            known.pop(&commit);
        }
        drop(unread_by);
        Some(announced)
    }
}

/// The answers of the hooks on a commit's events. Dropping it means that nothing waits for them.
#[derive(Default)]
pub struct CommitAnswers {
    events: Vec<(RecordId, EventAnswers)>,
    entry: Option<(Arc<AnnouncedCommits>, Uuid)>,
    is_committed: bool,
}

impl Drop for CommitAnswers {
    fn drop(&mut self) {
        if let Some((announced_commits, commit)) = &self.entry {
            announced_commits.withdraw(*commit, self.is_committed);
        }
    }
}

/// A plugin's answer that is waited for.
pub(super) struct PluginAnswer {
    pub(super) plugin: Arc<str>,
    /// How long to wait.
    pub(super) limit: Duration,
    /// The error when it takes longer.
    pub(super) late: ApiError,
    /// Its answer, or why none will arrive.
    pub(super) answer: Result<oneshot::Receiver<HookResult>, ApiError>,
    /// Dropped when it is the plugin's turn.
    pub(super) turn: Option<oneshot::Sender<()>>,
}

/// The plugins whose answers to one event are waited for, in order.
#[derive(Default)]
pub struct EventAnswers(pub(super) Vec<PluginAnswer>);

impl CommitAnswers {
    pub(super) fn of(announced_commits: &Arc<AnnouncedCommits>, commit: Uuid) -> Self {
        Self {
            events: Vec::new(),
            entry: Some((Arc::clone(announced_commits), commit)),
            is_committed: false,
        }
    }

    /// Records that the commit is in the log.
    pub(super) fn mark_committed(&mut self) {
        self.is_committed = true;
    }

    pub(super) fn add(&mut self, record: RecordId, answers: EventAnswers) {
        if !answers.0.is_empty() {
            self.events.push((record, answers));
        }
    }

    /// Takes the answers to a record's first remaining event; empty when there is nothing to wait
    /// for.
    pub fn take(&mut self, record: &RecordId) -> EventAnswers {
        let index = self.events.iter().position(|(of, _)| of == record);
        index.map_or_else(EventAnswers::default, |index| self.events.remove(index).1)
    }
}

impl EventAnswers {
    /// Returns whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the first attempts, until one fails. Waits for `position` to be applied first, so
    /// that queries made meanwhile find the commit.
    ///
    /// # Errors
    /// That of the first hook that failed; 118 or 119 for a hook that did not answer and will be
    /// retried; that of the store, if it does not catch up, and the hooks are called later.
    pub async fn all_ok(self, applied: &Applied, position: u64) -> Result<(), ApiError> {
        let answered = self.answered(applied, position).await;
        answered.map_err(|error| match error.code {
            // The same errors of a before-hook mean that nothing is.
            Code::PluginUnavailable | Code::PluginTimeout => is_stored(error),
            _ => error,
        })
    }

    async fn answered(self, applied: &Applied, position: u64) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let applied = applied.wait_for(position).await;
        applied.map_err(|error| put_off(&error))?;
        for awaited in self.0 {
            drop(awaited.turn);
            match timeout(awaited.limit, awaited.answer?).await {
                Ok(Ok(answer)) => answer?,
                Ok(Err(_)) => return Err(unavailable(&awaited.plugin, Unavailable::WorkerLost)),
                Err(_) => return Err(awaited.late),
            }
        }
        Ok(())
    }
}

/// Returns what a client gets in place of an error of the store that kept after-hooks from being
/// called in time. The error itself asks to try again, but the change is made.
pub(super) fn put_off(error: &ApiError) -> ApiError {
    let message = "the change is stored and must not be sent again; its after-hooks are called as \
                   soon as the record store has caught up";
    is_stored(ApiError::new(error.code, message).with_status(error.status()))
}

/// Says in an error that the change is made.
fn is_stored(error: ApiError) -> ApiError {
    error.with_info("stored", json!(true))
}
