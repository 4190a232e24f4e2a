//! Requests that wait for after-hooks.
//!
//! Who is about to commit what hooks are to be told of says so before, under the commit's id. The
//! consumer that meets the commit in the log finds here for whom it delivers, and what the records
//! were before, so that it need not read the past. Whoever does not wait any more just goes: his
//! seat is empty then, and the delivery is nobody's but the log's.

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

/// How many commits are remembered whose consumers have not met them yet.
const MAX_COMMITS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// How the synchronous hooks of one plugin on one event went.
pub(super) type Answer = Result<(), ApiError>;

/// The records as they were before a commit.
pub type Originals = HashMap<RecordId, Arc<Head>>;

/// All that are remembered.
pub(super) struct Attendances(Mutex<LruCache<Uuid, Arc<Attendance>>>);

impl Default for Attendances {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_COMMITS)))
    }
}

/// A request whose commit calls for hooks.
pub(super) struct Attendance {
    /// The request.
    pub(super) context: RequestContext,
    /// The records before the commit; one that is missing was not there.
    pub(super) originals: Originals,
    seats: Mutex<HashMap<(usize, Arc<str>), Seat>>,
    /// The plugins that have not met the commit yet.
    waiting: Mutex<Vec<Arc<str>>>,
}

/// The place of one who waits for a plugin's answer to one event.
pub(super) struct Seat {
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<Answer>,
    /// Answers when the plugins before have answered.
    pub(super) turn: Option<oneshot::Receiver<()>>,
}

impl Attendance {
    pub(super) fn new(context: RequestContext, originals: Originals) -> Self {
        Self {
            context,
            originals,
            seats: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// Expects a plugin's consumer to meet the commit.
    pub(super) fn expect(&self, plugin: &Arc<str>) {
        let mut waiting = self.waiting.lock();
        if !waiting.contains(plugin) {
            waiting.push(Arc::clone(plugin));
        }
    }

    /// Takes a seat for an event, by its index in the commit.
    pub(super) fn sit(
        &self,
        index: usize,
        plugin: &Arc<str>,
        turn: Option<oneshot::Receiver<()>>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let seat = Seat { answer, turn };
        self.seats.lock().insert((index, Arc::clone(plugin)), seat);
        answered
    }

    /// Returns the seat of whoever waits for a plugin's answer to an event.
    pub(super) fn take_seat(&self, index: usize, plugin: &Arc<str>) -> Option<Seat> {
        self.seats.lock().remove(&(index, Arc::clone(plugin)))
    }
}

impl Attendances {
    pub(super) fn put(&self, commit: Uuid, attendance: Arc<Attendance>) {
        self.0.lock().put(commit, attendance);
    }

    /// Forgets a commit that has not come, or for which somebody has waited and does not any more.
    fn leave(&self, commit: Uuid, is_committed: bool) {
        let mut known = self.0.lock();
        let is_left = |it: &Arc<Attendance>| !is_committed || !it.seats.lock().is_empty();
        if known.peek(&commit).is_some_and(is_left) {
            known.pop(&commit);
        }
    }

    /// Returns who attends a commit. Once every plugin that it was meant for has asked it is
    /// forgotten.
    pub(super) fn meet(&self, commit: Uuid, plugin: &Arc<str>) -> Option<Arc<Attendance>> {
        let mut known = self.0.lock();
        let attendance = Arc::clone(known.get(&commit)?);
        let mut waiting = attendance.waiting.lock();
        waiting.retain(|other| other != plugin);
        if waiting.is_empty() {
            known.pop(&commit);
        }
        drop(waiting);
        Some(attendance)
    }
}

/// The rows of places that a commit's author has, an event each. When it is dropped nobody waits.
#[derive(Default)]
pub struct Attending {
    rows: Vec<(RecordId, Row)>,
    entry: Option<(Arc<Attendances>, Uuid)>,
    is_committed: bool,
}

impl Drop for Attending {
    fn drop(&mut self) {
        if let Some((attendances, commit)) = &self.entry {
            attendances.leave(*commit, self.is_committed);
        }
    }
}

/// A plugin whose answer is waited for.
pub(super) struct Place {
    pub(super) plugin: Arc<str>,
    /// How long.
    pub(super) limit: Duration,
    /// What is said when it takes longer.
    pub(super) late: ApiError,
    /// Its answer, or why none comes.
    pub(super) answer: Result<oneshot::Receiver<Answer>, ApiError>,
    /// Dropped when it is the plugin's turn.
    pub(super) turn: Option<oneshot::Sender<()>>,
}

/// The plugins whose answers to one event are waited for, in order.
#[derive(Default)]
pub struct Row(pub(super) Vec<Place>);

impl Attending {
    pub(super) fn of(attendances: &Arc<Attendances>, commit: Uuid) -> Self {
        Self {
            rows: Vec::new(),
            entry: Some((Arc::clone(attendances), commit)),
            is_committed: false,
        }
    }

    /// Says that the commit is in the log.
    pub(super) fn settle(&mut self) {
        self.is_committed = true;
    }

    pub(super) fn add(&mut self, record: RecordId, row: Row) {
        if !row.0.is_empty() {
            self.rows.push((record, row));
        }
    }

    /// Takes the row of a record's first event that is left; an empty one when nobody need be
    /// waited for.
    pub fn take(&mut self, record: &RecordId) -> Row {
        let index = self.rows.iter().position(|(of, _)| of == record);
        index.map_or_else(Row::default, |index| self.rows.remove(index).1)
    }
}

impl Row {
    /// Whether nobody need be waited for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the first attempts, until one fails. Everything that is asked meanwhile finds
    /// what was committed up to `position`.
    ///
    /// # Errors
    /// The first hook's that failed; 118 or 119 for one that did not answer and will be tried
    /// again.
    pub async fn answered(self, applied: &Applied, position: u64) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        applied.wait_for(position).await?;
        for place in self.0 {
            drop(place.turn);
            match timeout(place.limit, place.answer?).await {
                Ok(Ok(answer)) => answer?,
                Ok(Err(_)) => return Err(unavailable(&place.plugin, Unavailable::WorkerLost)),
                Err(_) => return Err(place.late),
            }
        }
        Ok(())
    }
}
