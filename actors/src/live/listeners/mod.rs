//! Who listens to what: listeners, their subscriptions, and the views.

mod events;
mod refusal;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::TypeName;
use tokio::sync::OwnedMutexGuard;

use super::frame::Label;
use super::frame_sender::{EndReason, FrameSender, ListenerId};
use super::lens::{Audience, Credential};
use super::load::Loaded;
use super::matcher::{MatchRequest, Matchers};
use super::query::LiveQuery;
use super::replay::{PUT_BACK, Replayed};
use super::service::{LiveSettings, Subscribe};
use super::view::{Beginning, Change, MemberKey, Post, View, WIDE_PAUSE, Work};
use crate::log::Timeline;

/// How many jobs can wait in a connection's lines, in addition to a result and a replay for each
/// subscription. They are for queries that were ended, and begun anew, before their turn.
const SPARE_PLACES: usize = 100;

/// A view's number.
pub(super) type ViewId = u64;

/// Something that has to be looked up, and for which view.
#[derive(Debug)]
pub(super) struct Job {
    /// The view.
    pub(super) view: ViewId,
    /// What is looked up.
    pub(super) work: Work,
    /// How long it waits before that.
    pub(super) pause: Duration,
    /// The line in which it waits for its turn.
    line: Line,
}

/// A line of a connection's jobs, which run one after the other. So connections take turns, however
/// much one of them asks for.
pub(super) type Line = Arc<tokio::sync::Mutex<()>>;

/// What is asked, and as whom.
pub(super) type QueryAndAudience = (Arc<LiveQuery>, Audience);

impl Job {
    /// Waits for the connection's turn, and holds it.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.line).lock_owned().await
    }
}

/// Why an event of a record is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Nobody asks for the record.
    None,
    /// Some view needs the record as the event left it, with the field names that have been valid
    /// since this version of the type.
    Changes {
        /// See [`skytrail_schema::types::TypeDefinition::reshaped`].
        reshaped: u32,
    },
}

/// The figures of live queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LiveQueriesState {
    /// Connections.
    pub num_listeners: usize,
    /// Queries that the connections follow.
    pub num_subscriptions: usize,
    /// Different ones among them, by what is asked and as whom.
    pub num_views: usize,
    /// Results looked up since the start.
    pub num_loads: u64,
    /// Absences made up for from the log.
    pub num_replays: u64,
    /// Absences that could not be made up for, so that the result was told anew.
    pub num_resets: u64,
    /// Frames put into queues.
    pub num_frames: u64,
    /// Connections ended because they did not read their frames.
    pub num_slow: u64,
    /// Connections ended because their users may not listen any more.
    pub num_refused: u64,
    /// Changes that could not be read, so that the results were looked up again.
    pub num_failures: u64,
}

struct Listener {
    audience: Audience,
    credential: Credential,
    frame_sender: FrameSender,
    subscriptions: HashMap<Arc<str>, ViewId>,
    pending: Vec<super::Frame>,
    /// The bytes of `pending`.
    num_pending: usize,
    lines: Lines,
}

/// A connection's lines. A result does not wait for what was missed.
#[derive(Default)]
struct Lines {
    /// Every job that waits in a line holds a share of it.
    loads: Line,
    replays: Line,
}

impl Lines {
    fn of(&self, work: &Work) -> &Line {
        match work {
            Work::Load(_) => &self.loads,
            Work::Replay(..) => &self.replays,
        }
    }

    /// Returns how many jobs wait, or run.
    fn num_jobs(&self) -> usize {
        Arc::strong_count(&self.loads) + Arc::strong_count(&self.replays) - 2
    }
}

/// See the module's overview.
pub(super) struct Listeners {
    settings: LiveSettings,
    timeline: Timeline,
    /// The last event that the follower has shown.
    position: u64,
    /// The position up to which the first view needs no events.
    needless: u64,
    last_number: u64,
    listeners: HashMap<ListenerId, Listener>,
    views: HashMap<ViewId, View>,
    by_query: HashMap<(Arc<str>, Audience), ViewId>,
    /// Views that are kept up to date by events of their records.
    by_type: HashMap<TypeName, BTreeSet<ViewId>>,
    /// Views that are looked up again.
    wide: BTreeSet<ViewId>,
    /// Listeners with frames that are not in their queues yet.
    dirty: BTreeSet<ListenerId>,
    figures: LiveQueriesState,
}

impl Listeners {
    pub(super) fn new(settings: LiveSettings, timeline: Timeline) -> Self {
        Self {
            settings,
            timeline,
            position: 0,
            needless: 0,
            last_number: 0,
            listeners: HashMap::new(),
            views: HashMap::new(),
            by_query: HashMap::new(),
            by_type: HashMap::new(),
            wide: BTreeSet::new(),
            dirty: BTreeSet::new(),
            figures: LiveQueriesState::default(),
        }
    }

    /// Whether events make no difference to anybody.
    pub(super) fn is_idle(&self) -> bool {
        self.views.is_empty()
    }

    /// Returns the position up to which events make no difference; `None` if no event makes one.
    pub(super) fn needless(&self) -> Option<u64> {
        (!self.is_idle()).then_some(self.needless)
    }

    pub(super) fn state(&self) -> LiveQueriesState {
        let subscriptions = self.listeners.values().map(|it| it.subscriptions.len());
        LiveQueriesState {
            num_listeners: self.listeners.len(),
            num_subscriptions: subscriptions.sum(),
            num_views: self.views.len(),
            ..self.figures
        }
    }

    /// Adds a listener.
    pub(super) fn connect(
        &mut self,
        audience: Audience,
        credential: Credential,
        frame_sender: FrameSender,
    ) -> ListenerId {
        self.last_number += 1;
        let listener = Listener {
            audience,
            credential,
            frame_sender,
            subscriptions: HashMap::new(),
            pending: Vec::new(),
            num_pending: 0,
            lines: Lines::default(),
        };
        self.listeners.insert(self.last_number, listener);
        self.last_number
    }

    /// Removes a listener.
    pub(super) fn disconnect(&mut self, id: ListenerId) {
        drop(self.remove(id));
    }

    /// Ends a listener's connection.
    pub(super) fn end(&mut self, id: ListenerId, ending: EndReason) {
        let count = match ending {
            EndReason::TooSlow => &mut self.figures.num_slow,
            EndReason::Refused(_) => &mut self.figures.num_refused,
            EndReason::Stopping => &mut 0,
        };
        *count += 1;
        if let Some(listener) = self.remove(id) {
            listener.frame_sender.end(ending);
        }
    }

    fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        let listener = self.listeners.remove(&id)?;
        for (name, view) in &listener.subscriptions {
            self.leave(*view, &(id, Arc::clone(name)));
        }
        self.dirty.remove(&id);
        Some(listener)
    }

    fn leave(&mut self, id: ViewId, key: &MemberKey) {
        let Some(view) = self.views.get_mut(&id) else {
            return;
        };
        view.leave(key);
        if view.is_empty() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ViewId) {
        let Some(view) = self.views.remove(&id) else {
            return;
        };
        let (text, name) = (&view.query.text, &view.query.query.record_type);
        self.by_query.remove(&(Arc::clone(text), view.audience));
        self.wide.remove(&id);
        if let Some(ids) = self.by_type.get_mut(name) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_type.remove(name);
            }
        }
    }

    /// Begins a subscription. Whatever is looked up for it from now on includes every commit up to
    /// `committed`.
    ///
    /// # Errors
    /// The listener has a subscription of that name already, or too many.
    pub(super) fn subscribe(
        &mut self,
        id: ListenerId,
        subscription: Subscribe,
        committed: u64,
    ) -> Result<Option<Job>, ApiError> {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return Ok(None);
        };
        let max = self.settings.max_subscriptions;
        if listener.subscriptions.contains_key(&subscription.name) {
            let text = format!("there is already a live query {:?}", &*subscription.name);
            return Err(ApiError::invalid_argument(text, &["id"]));
        }
        if listener.subscriptions.len() >= max {
            let text = format!("a connection has at most {max} live queries");
            let limit = serde_json::json!({"name": "LIVE_MAX_SUBSCRIPTIONS", "max": max});
            return Err(ApiError::invalid_argument(text, &["id"]).with_info("limit", limit));
        }
        // A job of a query that has been ended is dropped when its turn arrives.
        let max_waiting = max.saturating_mul(2).saturating_add(SPARE_PLACES);
        if listener.lines.num_jobs() >= max_waiting {
            return Err(ApiError::overloaded("the live queries of this connection"));
        }
        let key = (
            Arc::clone(&subscription.query.text),
            listener.audience.clone(),
        );
        let number = self.last_number + 1;
        let view_id = *self.by_query.entry(key).or_insert(number);
        let name = Arc::clone(&subscription.name);
        listener.subscriptions.insert(Arc::clone(&name), view_id);
        let label = Label::new(&name, self.timeline);
        let beginning = match subscription.from {
            None => Beginning::Anew,
            Some(place) if place.may_be_of(self.timeline) => Beginning::Behind(place.position),
            Some(_) => Beginning::Reset(PUT_BACK),
        };
        if view_id == number {
            if self.views.is_empty() {
                self.needless = committed;
            }
            self.last_number = number;
            let query = Arc::new(subscription.query);
            if query.is_wide {
                self.wide.insert(view_id);
            } else {
                let name = query.query.record_type.clone();
                self.by_type.entry(name).or_default().insert(view_id);
            }
            let max_bytes = self.settings.max_queue_bytes;
            let view = View::new(query, listener.audience.clone(), max_bytes);
            self.views.insert(view_id, view);
        }
        let position = self.position;
        let Some(view) = self.views.get_mut(&view_id) else {
            return Ok(None);
        };
        let work = view.join((id, name), label, beginning, position);
        Ok(work.map(|work| Job {
            view: view_id,
            // Whoever asks is answered at once, also if others wait because it has failed.
            pause: view.pause(&work).min(WIDE_PAUSE),
            line: Arc::clone(listener.lines.of(&work)),
            work,
        }))
    }

    /// Whether anybody still follows a query.
    pub(super) fn has(&self, id: ViewId) -> bool {
        self.views.contains_key(&id)
    }

    /// Begins a job whose turn it is; `None` if nobody waits for it any more.
    pub(super) fn begin(&mut self, job: &Job) -> Option<QueryAndAudience> {
        let view = self.views.get_mut(&job.view)?;
        let is_needed = view.begin(&job.work);
        is_needed.then(|| (Arc::clone(&view.query), view.audience.clone()))
    }

    /// Ends a subscription; `false` if there is none of that name.
    pub(super) fn unsubscribe(&mut self, id: ListenerId, name: &str) -> bool {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return false;
        };
        let Some((name, view)) = listener.subscriptions.remove_entry(name) else {
            return false;
        };
        self.leave(view, &(id, Arc::clone(&name)));
        self.deliver(vec![(id, Label::new(&name, self.timeline).end())]);
        self.flush();
        true
    }

    /// Handles the outcome of a load.
    ///
    /// # Errors
    /// The match requests about later changes that must be evaluated first; nothing has changed.
    pub(super) fn loaded(
        &mut self,
        (id, number): (ViewId, u64),
        outcome: &Result<Loaded, ApiError>,
        matchers: &mut Matchers<'_>,
    ) -> Result<Vec<Job>, Vec<(Change, MatchRequest)>> {
        let view = self.views.get_mut(&id);
        if let (Some(view), Ok(loaded)) = (&view, outcome) {
            let open = view.match_requests(id, loaded, matchers);
            if !open.is_empty() {
                return Err(open);
            }
        }
        self.figures.num_loads += 1;
        let Some(view) = view else {
            return Ok(Vec::new());
        };
        if let Err(error) = outcome
            && passes(error)
        {
            return Ok(self.load_failed((id, number), error).into_iter().collect());
        }
        let valid_since = outcome.as_ref().ok().and_then(|it| it.lens.valid_since);
        let limits = (self.position, self.settings.max_records);
        let mut post = Vec::new();
        let work = match outcome {
            Ok(loaded) => view.loaded((id, number), loaded, (matchers, &mut post), limits),
            Err(error) => Err(error.clone()),
        };
        Ok(match work {
            Ok(work) => {
                let listeners = &self.listeners;
                let jobs = work
                    .into_iter()
                    .filter_map(|work| job(listeners, (id, view), work));
                let jobs = jobs.collect();
                self.refuse_revoked(id, valid_since);
                self.deliver(post);
                self.flush();
                jobs
            }
            Err(error) => {
                self.deliver(post);
                self.fail(id, &error);
                self.flush();
                Vec::new()
            }
        })
    }

    /// Handles a load that failed for a reason that passes.
    fn load_failed(&mut self, (id, number): (ViewId, u64), error: &ApiError) -> Option<Job> {
        let view = self.views.get_mut(&id)?;
        let mut post = Vec::new();
        let (left, work) = view.load_failed(number, error, &mut post);
        let job = work.and_then(|work| job(&self.listeners, (id, view), work));
        if view.is_empty() {
            self.forget(id);
        }
        for (listener, name) in left {
            if let Some(listener) = self.listeners.get_mut(&listener) {
                listener.subscriptions.remove(&name);
            }
        }
        self.deliver(post);
        self.flush();
        job
    }

    /// Handles the outcome of a replay.
    pub(super) fn replayed(&mut self, id: ViewId, number: u64, replayed: &Replayed) -> Option<Job> {
        let view = self.views.get_mut(&id)?;
        let mut post = Vec::new();
        let work = view.replayed(number, replayed, (&mut self.figures, &mut post));
        let job = work.and_then(|work| job(&self.listeners, (id, view), work));
        self.deliver(post);
        self.flush();
        job
    }

    fn fail(&mut self, id: ViewId, error: &ApiError) {
        let Some(view) = self.views.get_mut(&id) else {
            return;
        };
        let mut post = Vec::new();
        view.fail(error, &mut post);
        for (listener, name) in view.members() {
            if let Some(listener) = self.listeners.get_mut(listener) {
                listener.subscriptions.remove(name);
            }
        }
        self.forget(id);
        self.deliver(post);
    }

    fn deliver(&mut self, post: Post) {
        let mut is_much = false;
        for (id, frame) in post {
            if let Some(listener) = self.listeners.get_mut(&id) {
                listener.num_pending += frame.num_bytes();
                listener.pending.push(frame);
                is_much |= listener.num_pending > self.settings.max_queue_bytes;
                self.dirty.insert(id);
            }
        }
        if is_much {
            self.flush();
        }
    }

    /// Puts pending frames into the queues, and ends the connections whose queues are full.
    pub(super) fn flush(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(listener) = self.listeners.get_mut(&id) else {
                continue;
            };
            let frames = std::mem::take(&mut listener.pending);
            listener.num_pending = 0;
            self.figures.num_frames += frames.len() as u64;
            if let Err(ending) = listener.frame_sender.put(frames) {
                tracing::warn!(
                    listener = id,
                    "a live query was ended: its client does not read"
                );
                self.end(id, ending);
            }
        }
    }
}

/// Whether what failed may succeed later: the error says when to try again.
fn passes(error: &ApiError) -> bool {
    error.info.contains_key("retry_after_ms")
}

/// Puts work into the line of the member that it is for. Work for all members goes into the line in
/// which the least is waiting.
fn job(
    listeners: &HashMap<ListenerId, Listener>,
    (id, view): (ViewId, &View),
    work: Work,
) -> Option<Job> {
    let line_of = |id: &ListenerId| Some(listeners.get(id)?.lines.of(&work));
    let line = match &work {
        Work::Load(_) => {
            let lines = view.members().filter_map(|(id, _)| line_of(id));
            lines.min_by_key(|line| Arc::strong_count(line))
        }
        Work::Replay(listener, _) => line_of(listener),
    };
    let line = Arc::clone(line?);
    Some(Job {
        view: id,
        pause: view.pause(&work),
        work,
        line,
    })
}
