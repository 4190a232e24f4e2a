//! The entry point for listeners, and the tasks that look things up.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Event;
use skytrail_schema::id::{RecordId, TypeName};
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore, SemaphorePermit};
use tokio::time::error::Elapsed;

use super::frame_sender::{Ended, Inbox, ListenerId, frame_queue};
use super::lens::{Audience, Credential};
use super::listeners::{Interest, Job, Listeners, LiveQueriesState, QueryAndAudience, ViewId};
use super::load::{Loaded, MAX_ATTEMPTS, busy, caught_up, load};
use super::matcher::{Matcher, Matchers};
use super::query::LiveQuery;
use super::replay::{Replayed, TOO_LONG, replay};
use super::view::{Change, Work};
use crate::log::{Timeline, TimelinePosition};
use crate::record::env::RecordEnv;
use crate::spawn::spawn_named;
use crate::yield_budget::YieldBudget;

/// How long it can take to look up a result, or what was missed.
const LOOK_TIME: Duration = Duration::from_secs(60);

/// How often it is checked whether anybody still waits for it.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How many events of its type a listener that comes back is told, however small the result is.
///
/// To look at that many takes about 10 ms of CPU, to look up a small result 1 ms.
pub const ALWAYS_TOLD: usize = 500;

/// Returns how many results are looked up at once.
///
/// That is half the number of read connections to a file, so that other queries get their turn. It
/// is at least two, so that one connection does not hold up the others.
fn max_loads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

/// Returns how many listeners are told at once what they missed.
///
/// Many listeners can come back at the same time. New results, and what changes of rights make of
/// the old ones, must not wait for that, so replays have turns of their own and leave half the
/// cores to everything else.
fn max_replays() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSettings {
    /// Subscriptions of a connection.
    pub max_subscriptions: usize,
    /// Records of a result.
    pub max_records: usize,
    /// Frames that can wait for a connection.
    pub max_queue: usize,
    /// Bytes that can wait for a connection, and bytes of what was missed; a result can have more.
    pub max_queue_bytes: usize,
    /// How many events can lie between a position and the present if what was missed is to be told.
    pub max_missed: u64,
    /// How many of those can be about records of the type, whatever the size of the result.
    pub always_told: usize,
}

/// A listener's number, and where its frames arrive.
#[derive(Debug)]
pub struct Connected {
    /// The number.
    pub id: ListenerId,
    /// The frames.
    pub inbox: Inbox,
    /// Why no more frames follow.
    pub ended: Ended,
}

/// A query that a listener wants to follow.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The listener's name for it; empty for frames without a name.
    pub name: Arc<str>,
    /// The query.
    pub query: LiveQuery,
    /// The listener has received everything up to here.
    pub from: Option<TimelinePosition>,
}

/// Live queries; see the module's overview. Cheap to clone.
#[derive(Clone)]
pub struct LiveQueries(Arc<Shared>);

struct Shared {
    env: RecordEnv,
    settings: LiveSettings,
    listeners: Mutex<Listeners>,
    /// Notified when there is a view again.
    rouse: Notify,
    load_permits: Semaphore,
    replay_permits: Semaphore,
}

impl LiveQueries {
    /// Builds them. Nothing is told before a delivery has a [`LiveFollower`](super::LiveFollower).
    pub fn new(env: RecordEnv, settings: LiveSettings, timeline: Timeline) -> Self {
        Self(Arc::new(Shared {
            env,
            settings,
            listeners: Mutex::new(Listeners::new(settings, timeline)),
            rouse: Notify::new(),
            load_permits: Semaphore::new(max_loads()),
            replay_permits: Semaphore::new(max_replays()),
        }))
    }

    /// Adds a listener.
    pub fn connect(&self, audience: Audience, credential: Credential) -> Connected {
        let settings = self.0.settings;
        let (frame_sender, inbox, ended) =
            frame_queue(settings.max_queue, settings.max_queue_bytes);
        let id = self
            .0
            .listeners
            .lock()
            .connect(audience, credential, frame_sender);
        Connected { id, inbox, ended }
    }

    /// Removes a listener.
    pub fn disconnect(&self, id: ListenerId) {
        self.0.listeners.lock().disconnect(id);
    }

    /// Ends the connections that came with a token, which is no longer valid.
    pub fn forget_token(&self, token: &str) {
        self.0.listeners.lock().forget_token(token);
    }

    /// Lets a listener follow a query. If the query itself is wrong, the listener is told by a
    /// frame.
    ///
    /// # Errors
    /// 108: the listener has a subscription of that name already, or too many.
    pub fn subscribe(&self, id: ListenerId, subscription: Subscribe) -> Result<(), ApiError> {
        // Read first: what is committed from here on may be missing from what is looked up.
        let committed = self.0.env.model.position();
        let job = self
            .0
            .listeners
            .lock()
            .subscribe(id, subscription, committed)?;
        self.0.rouse.notify_one();
        self.begin(job);
        Ok(())
    }

    /// Ends a subscription; `false` if there is none of that name.
    pub fn unsubscribe(&self, id: ListenerId, name: &str) -> bool {
        self.0.listeners.lock().unsubscribe(id, name)
    }

    /// Returns the state.
    pub fn state(&self) -> LiveQueriesState {
        self.0.listeners.lock().state()
    }

    /// Whether somebody holds the lock.
    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.0.listeners.is_locked()
    }

    pub(super) fn env(&self) -> &RecordEnv {
        &self.0.env
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.listeners.lock().is_idle()
    }

    /// Waits until events make a difference to somebody; returns the position up to which they make
    /// none.
    pub(super) async fn roused(&self) -> u64 {
        loop {
            let unchanged = self.0.listeners.lock().needless();
            if let Some(position) = unchanged {
                return position;
            }
            self.0.rouse.notified().await;
        }
    }

    pub(super) fn interest(&self, id: &RecordId, event: &Event) -> Interest {
        let mut listeners = self.0.listeners.lock();
        if self.0.env.model.requires_verification() {
            listeners.refuse_unverified(id, event);
        }
        let (interest, jobs) = listeners.interest(id, event);
        drop(listeners);
        self.begin(jobs);
        interest
    }

    pub(super) fn notice(&self, event: &Event) {
        let now = self.0.env.clock.now();
        let jobs = self.0.listeners.lock().notice(event, now);
        self.begin(jobs);
    }

    /// Shows a change to all views that ask for such records.
    pub(super) async fn see(&self, change: &Change) {
        let mut matcher = Matcher::new(&self.0.env);
        let mut yield_budget = YieldBudget::default();
        loop {
            let seen = self.0.listeners.lock().see(change, &mut matcher);
            match seen {
                Ok(jobs) => return self.begin(jobs),
                Err(open) => matcher.evaluate(open, change, &mut yield_budget).await,
            }
        }
    }

    pub(super) fn disturb(&self, name: &TypeName, position: u64) {
        let jobs = self.0.listeners.lock().disturb(name, position);
        self.begin(jobs);
    }

    pub(super) fn flush(&self) {
        self.0.listeners.lock().flush();
    }

    fn begin(&self, jobs: impl IntoIterator<Item = Job>) {
        for job in jobs {
            let this = self.clone();
            spawn_named("live query", async move { this.run(job).await });
        }
    }

    /// Runs `work` as long as somebody waits for it, and no longer than is allowed. Returns `None`
    /// if nobody waits any more.
    async fn while_waited_for<T>(
        &self,
        view: ViewId,
        work: impl Future<Output = T>,
    ) -> Option<Result<T, Elapsed>> {
        let gone = async {
            while self.0.listeners.lock().has(view) {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        tokio::select! {
            done = tokio::time::timeout(LOOK_TIME, work) => Some(done),
            () = gone => None,
        }
    }

    /// Looks something up when it is its turn, and hands over the outcome.
    async fn run(self, job: Job) {
        if !job.pause.is_zero() {
            tokio::time::sleep(job.pause).await;
        }
        let mut turn = Turn::of(&self, &job);
        turn.take().await;
        let begun = self.0.listeners.lock().begin(&job);
        let Some(asked) = begun else {
            return;
        };
        match &job.work {
            Work::Load(number) => {
                let looking = self.look_up(&asked, &mut turn);
                let Some(outcome) = self.while_waited_for(job.view, looking).await else {
                    return;
                };
                let outcome = outcome.unwrap_or_else(|_late| Err(busy()));
                self.loaded((job.view, *number), &outcome).await;
            }
            Work::Replay(_, missed) => {
                let shared = &self.0;
                let whose = (&*asked.0, &asked.1);
                let replaying = replay(&shared.env, whose, missed, shared.settings);
                let Some(replayed) = self.while_waited_for(job.view, replaying).await else {
                    return;
                };
                let replayed = replayed.unwrap_or(Replayed::Reset(TOO_LONG));
                let job = shared
                    .listeners
                    .lock()
                    .replayed(job.view, missed.number, &replayed);
                self.begin(job);
            }
        }
    }

    /// Looks up a result. Others have their turns while the log has to catch up with SQL.
    async fn look_up(
        &self,
        (query, audience): &QueryAndAudience,
        turn: &mut Turn<'_>,
    ) -> Result<Loaded, ApiError> {
        let Shared { env, settings, .. } = &*self.0;
        for _ in 0..MAX_ATTEMPTS {
            let loaded = load(env, query, audience, settings.max_records).await?;
            if let Some(loaded) = loaded {
                return Ok(loaded);
            }
            turn.give_back();
            caught_up(env, query).await?;
            turn.take().await;
        }
        Err(busy())
    }

    /// Hands over a result.
    async fn loaded(&self, place: (ViewId, u64), outcome: &Result<Loaded, ApiError>) {
        let Shared { env, listeners, .. } = &*self.0;
        let mut matchers = Matchers::new(env);
        let mut yield_budget = YieldBudget::default();
        loop {
            let taken = listeners.lock().loaded(place, outcome, &mut matchers);
            match taken {
                Ok(jobs) => return self.begin(jobs),
                Err(open) => matchers.evaluate(open, &mut yield_budget).await,
            }
        }
    }
}

/// What a job needs to look something up: the turn of its connection, and a permit.
struct Turn<'a> {
    job: &'a Job,
    permits: &'a Semaphore,
    taken: Option<(OwnedMutexGuard<()>, SemaphorePermit<'a>)>,
}

impl<'a> Turn<'a> {
    /// The turn is not taken yet.
    fn of(queries: &'a LiveQueries, job: &'a Job) -> Self {
        let permits = match job.work {
            Work::Load(_) => &queries.0.load_permits,
            Work::Replay(..) => &queries.0.replay_permits,
        };
        Self {
            job,
            permits,
            taken: None,
        }
    }

    /// Waits in line.
    async fn take(&mut self) {
        let turn = self.job.turn().await;
        // The semaphores are never closed.
        let permit = self.permits.acquire().await.ok();
        self.taken = permit.map(|permit| (turn, permit));
    }

    /// Lets others have it.
    fn give_back(&mut self) {
        self.taken = None;
    }
}
