//! All consumers: one actor each, started when its plugin has after-hooks for the first time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use parking_lot::{Mutex, RwLock};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, NewEvent};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::actor::ConsumerHandle;
use super::announced::{
    AnnouncedCommit, AnnouncedCommits, CommitAnswers, EventAnswers, Originals, PluginAnswer,
};
use super::hook_events;
use super::log_consumers::LOG_PREFIX;
use super::messages::{Command, ConsumerState, Order};
use super::parts::{ConsumerParts, DeliverySettings, Recipient};
use super::store::{
    ConsumerChange, ConsumerCheckpoint, ConsumerStore, DeadLetterId, ListedDeadLetter,
    StoredConsumers,
};
use crate::context::RequestContext;
use crate::ops_store::OpsStoreError;
use crate::plugin::Hook;
use crate::plugin::errors::{Unavailable, timed_out, unavailable};
use crate::record::env::RecordEnv;
use crate::spawn::{run_to_completion, spawn_named};

/// How long a commit can wait for the promise to deliver it.
const PROMISE_DEADLINE: Duration = Duration::from_secs(5);

/// How much longer than the hooks may take a caller waits, to allow for their turn.
const MARGIN: Duration = Duration::from_secs(1);

/// The handle to all consumers: plugins with after-hooks, and consumers of the log. Cheap to clone.
#[derive(Clone, Default)]
pub struct Consumers {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    announced_commits: Arc<AnnouncedCommits>,
    consumers: Mutex<HashMap<Arc<str>, ConsumerHandle>>,
    started: RwLock<Option<Arc<Started>>>,
    ending: CancellationToken,
    /// Held while a consumer of the log is created or deleted.
    changing: tokio::sync::Mutex<()>,
}

/// What exists once deliveries have begun.
struct Started {
    env: RecordEnv,
    store: Arc<dyn ConsumerStore>,
    settings: DeliverySettings,
    arbiter: ArbiterHandle,
    /// The stored checkpoints of consumers whose actors have not started.
    stored: Mutex<BTreeMap<String, ConsumerCheckpoint>>,
    /// Where consumers continue if the stored checkpoints are lost.
    lost_at: Option<u64>,
}

impl Consumers {
    /// Starts delivering.
    ///
    /// # Errors
    /// The ops store cannot be read.
    pub async fn begin(
        &self,
        env: RecordEnv,
        store: Arc<dyn ConsumerStore>,
        settings: DeliverySettings,
        arbiter: ArbiterHandle,
    ) -> Result<(), OpsStoreError> {
        let StoredConsumers {
            mut consumers,
            damaged,
            is_lost,
        } = store.load().await?;
        let head = env.log.head();
        // A consumer of the log is nothing without its options: it must be created anew.
        let damaged = damaged.into_iter().filter(|it| !it.starts_with(LOG_PREFIX));
        consumers.extend(damaged.map(|name| (name, ConsumerCheckpoint::lost(head))));
        let changes = env.plugins.changes();
        let names: Vec<Arc<str>> = consumers.keys().map(|name| name.as_str().into()).collect();
        let started = Started {
            lost_at: is_lost.then_some(head),
            env,
            store,
            settings,
            arbiter,
            stored: Mutex::new(consumers),
        };
        *self.inner.started.write() = Some(Arc::new(started));
        for name in &names {
            self.consumer(name);
        }
        spawn_named("start consumers", self.clone().start_for_plugins(changes));
        Ok(())
    }

    fn started(&self) -> Option<Arc<Started>> {
        self.inner.started.read().clone()
    }

    /// Starts an actor for every plugin as it gets after-hooks.
    async fn start_for_plugins(self, mut changes: tokio::sync::watch::Receiver<()>) {
        loop {
            if let Some(started) = self.started() {
                for plugin in hook_events::plugins(&started.env.plugins.points()) {
                    self.consumer(&plugin);
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.inner.ending.cancelled() => return,
            }
        }
    }

    /// Returns a consumer's actor, and starts it if necessary. The replacement for a lost actor
    /// continues from its checkpoint.
    pub(super) fn consumer(&self, name: &Arc<str>) -> Option<ConsumerHandle> {
        let started = self.started()?;
        let mut consumers = self.inner.consumers.lock();
        let checkpoint = match consumers.get(name) {
            Some(handle) if handle.is_alive() => return Some(handle.clone()),
            Some(lost) => {
                tracing::error!(consumer = %name, "deliveries had stopped; they are started again");
                lost.take_saved()
            }
            None => started.stored.lock().remove(&**name),
        };
        let log = checkpoint.as_ref().and_then(|it| it.log.clone());
        let is_plugin = log.is_none();
        if is_plugin && name.starts_with(LOG_PREFIX) {
            return None;
        }
        let checkpoint = checkpoint.or_else(|| started.lost_at.map(ConsumerCheckpoint::lost));
        let mut settings = started.settings;
        settings.max_attempts = log
            .as_ref()
            .map_or(settings.max_attempts, |it| it.max_attempts);
        let parts = ConsumerParts {
            name: Arc::clone(name),
            recipient: Recipient::of(log),
            env: started.env.clone(),
            store: Arc::clone(&started.store),
            announced_commits: Arc::clone(&self.inner.announced_commits),
            settings,
            ending: self.inner.ending.clone(),
        };
        let handle = ConsumerHandle::start(parts, checkpoint, &started.arbiter);
        consumers.insert(Arc::clone(name), handle.clone());
        Some(handle)
    }

    /// Announces that events are about to be committed under this id. Returns the future answers of
    /// synchronous after-hooks.
    ///
    /// From here on, whatever the events require is delivered.
    ///
    /// # Errors
    /// Overload, when that cannot be promised.
    pub async fn announce(
        &self,
        commit: Uuid,
        events: &[NewEvent],
        originals: Originals,
        context: &RequestContext,
    ) -> Result<CommitAnswers, ApiError> {
        let Some(started) = self.started() else {
            return Ok(CommitAnswers::default());
        };
        let points = started.env.plugins.points();
        if points.hooks.is_empty() {
            return Ok(CommitAnswers::default());
        }
        let announced = Arc::new(AnnouncedCommit::new(context.clone(), originals));
        let mut commit_answers = CommitAnswers::of(&self.inner.announced_commits, commit);
        let mut is_expected = false;
        for (index, id, trigger) in hook_events::of_planned(events) {
            let mut answers = EventAnswers::default();
            let hooks = points.hooks(&id.record_type, trigger);
            for hooks in by_plugin(hooks) {
                let Some(handle) = self.promised(hooks).await? else {
                    continue;
                };
                let is_sync = hooks.iter().any(|hook| !hook.is_async);
                is_expected |= is_sync || !handle.is_behind();
                if let Some(hook) = hooks.first().filter(|_| is_sync || !handle.is_behind()) {
                    announced.expect(&hook.plugin);
                }
                if is_sync {
                    let waiting = (index, hooks, handle.is_behind() || handle.is_full());
                    Self::await_answer(&started, &announced, waiting, &mut answers);
                }
            }
            commit_answers.add(id, answers);
        }
        if is_expected {
            self.inner.announced_commits.insert(commit, announced);
        }
        Ok(commit_answers)
    }

    /// Waits for the promise to deliver to a plugin's hooks.
    async fn promised(&self, hooks: &[Hook]) -> Result<Option<ConsumerHandle>, ApiError> {
        let Some(handle) = hooks.first().and_then(|hook| self.consumer(&hook.plugin)) else {
            return Ok(None);
        };
        let keys: Vec<String> = hooks.iter().map(hook_events::key_of).collect();
        match timeout(PROMISE_DEADLINE, handle.promises(&keys)).await {
            Ok(()) => Ok(Some(handle)),
            Err(_) => Err(ApiError::overloaded("the delivery of after-hooks")),
        }
    }

    /// Adds a plugin's answer to wait for, after those added before.
    fn await_answer(
        started: &Started,
        announced: &AnnouncedCommit,
        (index, hooks, is_stuck): (usize, &[Hook], bool),
        answers: &mut EventAnswers,
    ) {
        let Some(first) = hooks.first() else { return };
        let plugin = &first.plugin;
        let presence = started.env.plugins.presence(plugin);
        let num_hooks = u32::try_from(hooks.len()).unwrap_or(u32::MAX);
        let mut awaited = PluginAnswer {
            plugin: Arc::clone(plugin),
            limit: presence.limit.saturating_mul(num_hooks) + MARGIN,
            late: timed_out(plugin, presence.transport),
            answer: Err(unavailable(plugin, Unavailable::NoWorker)),
            turn: None,
        };
        // A consumer that reads no further now would not find the waiter for a long time.
        if presence.num_workers > 0 || !is_stuck {
            let its_turn = (!answers.0.is_empty()).then(|| {
                let (turn, its_turn) = oneshot::channel();
                awaited.turn = Some(turn);
                its_turn
            });
            awaited.answer = Ok(announced.add_waiter(index, plugin, its_turn));
        }
        answers.0.push(awaited);
    }

    /// Records that an announced commit is in the log.
    pub fn committed(&self, commit: &Commit, commit_answers: &mut CommitAnswers) {
        commit_answers.mark_committed();
        let Some(started) = self.started() else {
            return;
        };
        let points = started.env.plugins.points();
        if points.hooks.is_empty() {
            return;
        }
        for it in hook_events::of_commit(commit) {
            for hooks in by_plugin(points.hooks(&it.id.record_type, it.trigger)) {
                let is_sync = hooks.iter().any(|hook| !hook.is_async);
                let handle = hooks.first().and_then(|hook| self.consumer(&hook.plugin));
                if let Some(handle) = handle.filter(|it| is_sync && it.is_behind()) {
                    handle.tell(Command::Ahead(it.event.position));
                }
            }
        }
    }

    /// Returns the states of all consumers, sorted by name.
    pub fn states(&self) -> Vec<ConsumerState> {
        let head = self.started().map(|started| started.env.log.head());
        let consumers = self.inner.consumers.lock();
        let mut states: Vec<ConsumerState> =
            consumers.values().map(ConsumerHandle::state).collect();
        for state in &mut states {
            // The actor's last state does not include what was committed since.
            state.lag = head.map_or(state.lag, |head| head.saturating_sub(state.position));
        }
        states.sort_by(|one, other| one.name.cmp(&other.name));
        states
    }

    /// Sends an order to a consumer.
    ///
    /// # Errors
    /// 110 for an unknown consumer; the errors of the order.
    pub async fn order(&self, consumer: &str, order: Order) -> Result<ConsumerState, ApiError> {
        self.find(consumer)?.order(order).await
    }

    /// Forgets a consumer with everything that is stored about it. If its plugin comes back, it
    /// starts at the log's end.
    ///
    /// # Errors
    /// 110 for an unknown consumer; 108 while it has workers, or its plugin is registered.
    pub async fn forget(&self, consumer: &str) -> Result<(), ApiError> {
        let handle = self.find(consumer)?;
        let started = self.started().ok_or_else(stopping)?;
        let refuse = |message| Err(ApiError::invalid_argument(message, &["consumer"]));
        if handle
            .log()
            .is_some_and(|side| side.dispatcher.presence().num_workers > 0)
        {
            return refuse("it has workers; disconnect them before you forget the consumer");
        }
        let is_plugin = handle.log().is_none();
        if is_plugin && started.env.plugins.presence(consumer).is_registered {
            return refuse("the plugin is connected; disconnect it before you forget its consumer");
        }
        self.remove(consumer, handle).await
    }

    /// Ends a consumer's workers and then its actor, and forgets what is stored about it.
    pub(super) async fn remove(
        &self,
        consumer: &str,
        handle: ConsumerHandle,
    ) -> Result<(), ApiError> {
        let (this, name) = (self.clone(), consumer.to_owned());
        let removed = run_to_completion("forget a consumer", async move {
            let _alone = this.lock_changes().await;
            let started = this.started().ok_or_else(stopping)?;
            if let Some(side) = handle.log() {
                side.dispatcher.close();
            }
            handle.close().await;
            // If this fails, the consumer still exists; its actor restarts when it is next looked
            // up.
            let forgotten = started.store.forget(&name).await;
            forgotten.map_err(|error| ApiError::unexpected(error.to_string()))?;
            this.inner.consumers.lock().remove(&*name);
            Ok(())
        });
        removed.await.unwrap_or_else(|| Err(stopping()))
    }

    pub(super) async fn lock_changes(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.changing.lock().await
    }

    /// Stores a consumer that is about to have an actor.
    pub(super) async fn save_new(
        &self,
        name: &str,
        change: &ConsumerChange,
    ) -> Result<(), ApiError> {
        let started = self.started().ok_or_else(stopping)?;
        let saved = started.store.save(name, change).await;
        saved.map_err(|error| ApiError::unexpected(error.to_string()))?;
        let checkpoint = change.checkpoint.clone();
        started.stored.lock().insert(name.to_owned(), checkpoint);
        Ok(())
    }

    /// Lists a consumer's dead letters in the log's order, those after `after`.
    ///
    /// # Errors
    /// 110 for an unknown consumer.
    pub async fn dead_letters(
        &self,
        consumer: &str,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Vec<ListedDeadLetter>, ApiError> {
        // Deliveries that were just given up are dead letters, too.
        self.find(consumer)?.keep().await;
        let Some(started) = self.started() else {
            return Ok(Vec::new());
        };
        let listed = started
            .store
            .list_dead_letters(consumer, after, limit)
            .await;
        listed.map_err(|error| ApiError::unexpected(error.to_string()))
    }

    pub(super) fn find(&self, consumer: &str) -> Result<ConsumerHandle, ApiError> {
        let exists = self.inner.consumers.lock().contains_key(consumer);
        let found = exists.then(|| self.consumer(&consumer.into()));
        found.flatten().ok_or_else(|| {
            let message = "no such consumer; delivery:list shows them all";
            ApiError::new(Code::ResourceNotFound, message)
        })
    }

    /// Starts no more deliveries, because the plugins are about to be told to leave.
    pub fn drain(&self) {
        self.inner.ending.cancel();
    }

    /// Waits for deliveries in progress, and saves all state. After that, nothing of the server is
    /// held any more.
    pub async fn close(&self) {
        *self.inner.started.write() = None;
        let consumers: Vec<_> = self.inner.consumers.lock().drain().map(|it| it.1).collect();
        futures_util::future::join_all(consumers.iter().map(ConsumerHandle::close)).await;
    }
}

pub(super) fn stopping() -> ApiError {
    ApiError::unexpected("the server is stopping").with_status(503)
}

fn by_plugin(hooks: &[Hook]) -> impl Iterator<Item = &[Hook]> {
    hooks.chunk_by(|one, other| one.plugin == other.plugin)
}
