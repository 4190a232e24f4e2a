//! Commits that requests have announced, and who waits for their after-hooks.
//!
//! Who is about to commit what hooks are to be told of says so before, under the commit's id. The
//! consumer that comes to the commit in the log finds here who waits for its answer, and what the
//! records were before, so that it need not read the past. Whoever does not wait any more just goes:
//! the delivery goes on without him.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use crate::context::RequestContext;
use crate::plugin::errors::{Unavailable, unavailable};
use crate::projector::Applied;

/// How many commits are remembered that not all of their consumers have read yet.
const MAX_COMMITS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// How the synchronous hooks of one plugin on one event went.
pub(super) type HookResult = Result<(), ApiError>;

/// The records as they were before a commit.
pub type Originals = HashMap<RecordId, Arc<Head>>;

/// All that are remembered, by their ids.
pub(super) struct AnnouncedCommits(Mutex<LruCache<Uuid, Arc<AnnouncedCommit>>>);

impl Default for AnnouncedCommits {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_COMMITS)))
    }
}

/// A commit that calls for hooks, and the request behind it.
pub(super) struct AnnouncedCommit {
    /// The request.
    pub(super) context: RequestContext,
    /// The records before the commit; one that is missing was not there.
    pub(super) originals: Originals,
    waiters: Mutex<HashMap<(usize, Arc<str>), Waiter>>,
    /// The plugins whose consumers have not read the commit yet.
    unread_by: Mutex<Vec<Arc<str>>>,
}

/// Somebody who waits for a plugin's answer to one event.
pub(super) struct Waiter {
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<HookResult>,
    /// Answers when the plugins before have answered.
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

    /// Waits for a plugin's answer to an event, by its index in the commit.
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

    /// Takes who waits for a plugin's answer to an event.
    pub(super) fn take_waiter(&self, index: usize, plugin: &Arc<str>) -> Option<Waiter> {
        self.waiters.lock().remove(&(index, Arc::clone(plugin)))
    }
}

impl AnnouncedCommits {
    pub(super) fn insert(&self, commit: Uuid, announced: Arc<AnnouncedCommit>) {
        self.0.lock().put(commit, announced);
    }

    /// Forgets a commit that has not come, or for which somebody has waited and does not any more.
    fn withdraw(&self, commit: Uuid, is_committed: bool) {
        let mut known = self.0.lock();
        let is_left = |it: &Arc<AnnouncedCommit>| !is_committed || !it.waiters.lock().is_empty();
        if known.peek(&commit).is_some_and(is_left) {
            known.pop(&commit);
        }
    }

    /// Returns a commit for a plugin's consumer that reads it. Once all have that it was meant for, it is
    /// forgotten.
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

/// Where the answers of the hooks on a commit's events will be. When it is dropped nobody waits.
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

/// A plugin whose answer is waited for.
pub(super) struct PluginAnswer {
    pub(super) plugin: Arc<str>,
    /// How long.
    pub(super) limit: Duration,
    /// What is said when it takes longer.
    pub(super) late: ApiError,
    /// Its answer, or why none comes.
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

    /// Says that the commit is in the log.
    pub(super) fn mark_committed(&mut self) {
        self.is_committed = true;
    }

    pub(super) fn add(&mut self, record: RecordId, answers: EventAnswers) {
        if !answers.0.is_empty() {
            self.events.push((record, answers));
        }
    }

    /// Takes the answers on a record's first event that is left; none when nobody need be waited for.
    pub fn take(&mut self, record: &RecordId) -> EventAnswers {
        let index = self.events.iter().position(|(of, _)| of == record);
        index.map_or_else(EventAnswers::default, |index| self.events.remove(index).1)
    }
}

impl EventAnswers {
    /// Returns whether nobody need be waited for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the first attempts, until one fails. Everything that is asked meanwhile finds
    /// what was committed up to `position`.
    ///
    /// # Errors
    /// The first hook's that failed; 118 or 119 for one that did not answer and will be tried
    /// again.
    pub async fn all_ok(self, applied: &Applied, position: u64) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        applied.wait_for(position).await?;
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
