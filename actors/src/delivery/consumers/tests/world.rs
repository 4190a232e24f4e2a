//! An actor whose surroundings the test controls: the plugin, the ops store, the log.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value as Json;
use skytrail_schema::event::{ChangeStamp, Commit, EventBody, RecordState, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::actor::Shown;
use super::super::announced::{AnnouncedCommit, AnnouncedCommits, HookResult};
use super::super::delivery_loop::DeliveryLoop;
use super::super::messages::{Command, ConsumerState};
use super::super::parts::{ConsumerParts, Recipient};
use super::super::{
    ConsumerChange, ConsumerCheckpoint, ConsumerStore, DeadLetter, DeadLetterId, DeliverySettings,
    ListedDeadLetter, StoredConsumers,
};
use crate::asset::AssetUrls;
use crate::context::RequestContext;
use crate::live::tests::store::ModelStore;
use crate::log::CommitObserver as _;
use crate::ops_store::OpsStoreError;
use crate::plugin::{
    CatchUp, DeliveryNote, ExtensionPoints, Hook, NoPlugins, PluginCallError, PluginGate,
    PluginRequest, Presence, Readiness, Trigger, Urgency,
};
use crate::record::env::RecordEnv;

/// No actor is polled this often in any of the tests.
const MANY: usize = 500;

/// An ops store for one consumer, which can fail.
#[derive(Default)]
pub(super) struct TestStore {
    pub(super) consumers: Mutex<BTreeMap<String, ConsumerCheckpoint>>,
    pub(super) letters: Mutex<BTreeMap<DeadLetterId, DeadLetter>>,
    pub(super) is_failing: AtomicBool,
    /// Whether writing panics.
    pub(super) is_broken: AtomicBool,
    pub(super) num_tries: AtomicUsize,
}

impl TestStore {
    fn write(&self) -> Result<(), OpsStoreError> {
        self.num_tries.fetch_add(1, Ordering::Relaxed);
        let is_broken = self.is_broken.load(Ordering::Relaxed);
        assert!(!is_broken, "the store is broken");
        if self.is_failing.load(Ordering::Relaxed) {
            return Err(OpsStoreError("of the test".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl ConsumerStore for TestStore {
    async fn load(&self) -> Result<StoredConsumers, OpsStoreError> {
        Ok(StoredConsumers {
            consumers: self.consumers.lock().clone(),
            ..StoredConsumers::default()
        })
    }

    async fn save(&self, consumer: &str, change: &ConsumerChange) -> Result<(), OpsStoreError> {
        self.write()?;
        let checkpoint = change.checkpoint.clone();
        self.consumers
            .lock()
            .insert(consumer.to_owned(), checkpoint);
        let mut letters = self.letters.lock();
        letters.retain(|id, _| !change.forgotten.contains(id));
        let dead = change
            .dead
            .iter()
            .map(|letter| (letter.id(), letter.clone()));
        letters.extend(dead);
        Ok(())
    }

    async fn forget(&self, consumer: &str) -> Result<(), OpsStoreError> {
        self.write()?;
        self.consumers.lock().remove(consumer);
        Ok(())
    }

    async fn list_dead_letters(
        &self,
        _: &str,
        _: Option<&DeadLetterId>,
        _: usize,
    ) -> Result<Vec<ListedDeadLetter>, OpsStoreError> {
        // No test has more than one page.
        let letters = self.letters.lock();
        let listed = letters.iter().map(|(id, letter)| ListedDeadLetter {
            id: id.clone(),
            letter: Ok(letter.clone()),
        });
        Ok(listed.collect())
    }

    async fn count_dead_letters(&self, _: &str) -> Result<u64, OpsStoreError> {
        Ok(self.letters.lock().len() as u64)
    }
}

/// A plugin `p` that is present as the test says, and never answers.
pub(super) struct Silent {
    points: Mutex<Arc<ExtensionPoints>>,
    presence: Mutex<Presence>,
    changes: watch::Sender<()>,
}

impl Default for Silent {
    fn default() -> Self {
        Self {
            points: Mutex::default(),
            presence: Mutex::default(),
            changes: watch::Sender::new(()),
        }
    }
}

impl Silent {
    /// Changes its presence.
    pub(super) fn change(&self, change: impl FnOnce(&mut Presence)) {
        change(&mut self.presence.lock());
        self.changes.send_replace(());
    }

    /// Makes its hooks synchronous.
    pub(super) fn make_synchronous(&self) {
        let mut points = (**self.points.lock()).clone();
        for hook in points.hooks.values_mut().flatten() {
            hook.is_async = false;
        }
        *self.points.lock() = Arc::new(points);
    }

    /// Registers asynchronous hooks with these names, for `note`; this many workers serve.
    pub(super) fn register(&self, hooks: &[&str], num_workers: usize) {
        let hook = |name: &&str| Hook {
            plugin: "p".into(),
            name: (*name).to_owned(),
            record_type: "note".into(),
            trigger: Trigger::AfterSave,
            is_async: true,
            catch_up: CatchUp::All,
            timeout: None,
        };
        let hooks: Vec<Hook> = hooks.iter().map(hook).collect();
        *self.points.lock() = Arc::new(ExtensionPoints {
            hooks: HashMap::from([(("note".into(), Trigger::AfterSave), hooks)]),
            readiness: Readiness::Ready,
            ..ExtensionPoints::default()
        });
        *self.presence.lock() = Presence {
            is_registered: true,
            num_workers,
            is_ready: num_workers > 0,
            is_attended: num_workers > 0,
            window: 10,
            limit: Duration::from_secs(30),
            ..Presence::default()
        };
        self.changes.send_replace(());
    }
}

#[async_trait]
impl PluginGate for Silent {
    fn points(&self) -> Arc<ExtensionPoints> {
        Arc::clone(&self.points.lock())
    }

    async fn ask(&self, _: PluginRequest) -> Result<Json, PluginCallError> {
        std::future::pending().await
    }

    async fn deliver(
        &self,
        _: PluginRequest,
        _: DeliveryNote,
        _: Urgency,
    ) -> Result<Json, PluginCallError> {
        std::future::pending().await
    }

    fn announce(&self, name: &'static str, param: Json) {
        NoPlugins::default().announce(name, param);
    }

    fn presence(&self, _: &str) -> Presence {
        *self.presence.lock()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// No file has an address.
struct Nowhere;

impl AssetUrls for Nowhere {
    fn url_of(&self, _: &str) -> Option<String> {
        None
    }
}

pub(super) struct World {
    pub(super) plugin: Arc<Silent>,
    pub(super) consumer_store: Arc<TestStore>,
    pub(super) env: RecordEnv,
    announced_commits: Arc<AnnouncedCommits>,
    store: Arc<ModelStore>,
}

/// An actor's loop, and a view of it.
pub(super) struct Running {
    pub(super) delivery_loop: DeliveryLoop,
    pub(super) seen: Seen,
}

pub(super) struct Seen {
    pub(super) commands: mpsc::Sender<Command>,
    shown: Arc<Shown>,
}

impl Seen {
    pub(super) fn state(&self) -> ConsumerState {
        self.shown.state.lock().clone()
    }
}

impl World {
    pub(super) fn new() -> Self {
        let store = Arc::<ModelStore>::default();
        let plugin = Arc::<Silent>::default();
        let env = store.env(0, Arc::new(Nowhere), Arc::clone(&plugin) as _);
        Self {
            plugin,
            consumer_store: Arc::default(),
            env,
            announced_commits: Arc::default(),
            store,
        }
    }

    /// Commits a new note, which the store applies at once.
    pub(super) fn save(&self, name: &str) {
        let commit = self.commit(name);
        self.store.applied.reached(commit.last_position());
    }

    /// Commits a new note, and waits for the plugin's synchronous hooks.
    pub(super) fn save_and_wait(&self, name: &str) -> oneshot::Receiver<HookResult> {
        let commit = self.commit(name);
        let context = RequestContext::system();
        let announced = AnnouncedCommit::new(context, HashMap::new());
        let answer = announced.add_waiter(0, &"p".into(), None);
        announced.expect(&"p".into());
        self.announced_commits
            .insert(commit.id, Arc::new(announced));
        self.store.applied.reached(commit.last_position());
        answer
    }

    fn commit(&self, name: &str) -> Arc<Commit> {
        let id = RecordId::new("note", name);
        let state = RecordState {
            database: None,
            owner: None,
            access: None,
            created: None,
            updated: ChangeStamp {
                at: Timestamp::from_micros(0),
                by: None,
            },
            fields: BTreeMap::new(),
        };
        let events = vec![(Stream::Record(id), EventBody::RecordCreated(state))];
        let commit = self.store.log.commit(events);
        self.env.model.committed(&[Arc::clone(&commit)]);
        commit
    }

    /// Returns the loop of the plugin's actor.
    pub(super) fn delivery_loop(&self, checkpoint: Option<ConsumerCheckpoint>) -> Running {
        let parts = ConsumerParts {
            name: "p".into(),
            recipient: Recipient::Plugin,
            env: self.env.clone(),
            store: Arc::clone(&self.consumer_store) as _,
            announced_commits: Arc::clone(&self.announced_commits),
            settings: DeliverySettings::default(),
            ending: CancellationToken::new(),
        };
        let (commands, orders) = mpsc::channel(16);
        let shown = Arc::new(Shown::default());
        let promises = watch::Sender::default();
        let delivery_loop =
            DeliveryLoop::new(parts, checkpoint, orders, (promises, Arc::clone(&shown)));
        let seen = Seen { commands, shown };
        Running {
            delivery_loop,
            seen,
        }
    }
}

/// Runs something for this many seconds of the paused clock, which advances when nothing else is to
/// be done.
pub(super) async fn run_for(work: impl Future<Output = ()>, seconds: u64) {
    let mut work = pin!(work);
    let mut num_polls = 0;
    let counted = poll_fn(|context| {
        num_polls += 1;
        assert!(num_polls < MANY, "it never rests");
        work.as_mut().poll(context)
    });
    let over = timeout(Duration::from_secs(seconds), counted).await;
    assert!(over.is_err(), "it has ended");
}
