//! A task, and everything around it in the test's hands.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, Recipient};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use skytrail_actors::clock::{Clock, ManualClock};
use skytrail_actors::log::resolver::Resolver;
use skytrail_actors::log::{AppendError, CommitObserver, Decision, EventLog, ReadError};
use skytrail_actors::plugin::timer_spec::TimerSpec;
use skytrail_actors::plugin::{
    DeliveryNote, ExtensionPoints, NoPlugins, Overlap, PluginCallError, PluginGate, PluginRequest,
    Presence, Readiness, Timer, Urgency,
};
use skytrail_actors::task::{
    Driver, DriverError, ListTasks, TaskParts, TaskReport, TaskSettings, TaskStates, Tasks, Wake,
};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventBody};
use skytrail_schema::id::TaskId;
use skytrail_schema::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

/// A log in memory, with the real resolver.
pub(crate) struct MemoryLog {
    clock: ManualClock,
    inner: Mutex<Inner>,
    observers: Mutex<Vec<Arc<TaskStates>>>,
    pub(crate) is_full: AtomicBool,
    pub(crate) num_conflicts: AtomicUsize,
}

struct Inner {
    resolver: Resolver,
    commits: Vec<Arc<Commit>>,
    head: u64,
}

impl MemoryLog {
    pub(crate) fn new(clock: &ManualClock) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            inner: Mutex::new(Inner {
                resolver: Resolver::new(0, 1000),
                commits: Vec::new(),
                head: 0,
            }),
            observers: Mutex::default(),
            is_full: AtomicBool::new(false),
            num_conflicts: AtomicUsize::new(0),
        })
    }

    /// Returns the bodies of all events.
    pub(crate) fn bodies(&self) -> Vec<EventBody> {
        let inner = self.inner.lock();
        let events = inner.commits.iter().flat_map(|commit| &commit.events);
        events.map(|event| event.body.clone()).collect()
    }

    /// Returns when the claimed runs were due, in seconds.
    pub(crate) fn claims(&self) -> Vec<i64> {
        let claim = |body: &EventBody| match body {
            EventBody::TaskClaimed(claim) => Some(claim.due.micros() / 1_000_000),
            _ => None,
        };
        self.bodies().iter().filter_map(claim).collect()
    }

    /// Returns how many runs have ended.
    pub(crate) fn num_ends(&self) -> usize {
        let is_end = |body: &&EventBody| matches!(body, EventBody::TaskEnded(_));
        self.bodies().iter().filter(is_end).count()
    }

    /// Returns how many tasks were dropped.
    pub(crate) fn num_dropped(&self) -> usize {
        let is_dropped = |body: &&EventBody| matches!(body, EventBody::TaskDropped(_));
        self.bodies().iter().filter(is_dropped).count()
    }

    pub(crate) fn num_commits(&self) -> usize {
        self.inner.lock().commits.len()
    }

    /// Returns states that know everything so far and hear of the rest.
    fn states(&self) -> Arc<TaskStates> {
        let states = Arc::new(TaskStates::default());
        states.committed(&self.inner.lock().commits);
        self.observers.lock().push(Arc::clone(&states));
        states
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn append(&self, decision: Decision) -> Result<Arc<Commit>, AppendError> {
        // Others decide meanwhile.
        tokio::task::yield_now().await;
        if self.is_full.load(Ordering::SeqCst) {
            return Err(AppendError::DiskFull);
        }
        let mut inner = self.inner.lock();
        let Decision {
            commit,
            read_position,
            reads,
            writes,
            ..
        } = decision;
        if !inner.resolver.permits(read_position, &reads) {
            self.num_conflicts.fetch_add(1, Ordering::SeqCst);
            return Err(AppendError::Conflict { read_position });
        }
        let mut events = Vec::new();
        for event in commit.events {
            inner.head += 1;
            events.push(Event {
                position: inner.head,
                stream: event.stream,
                version: event.version,
                body: event.body,
                provenance: Vec::new(),
                payload_hash: [0; 32],
            });
        }
        let head = inner.head;
        let last = inner.commits.last().map(|commit| commit.time.micros() + 1);
        let time = self
            .clock
            .now()
            .max(Timestamp::from_micros(last.unwrap_or_default()));
        inner.resolver.record(head, &writes);
        let commit = Arc::new(Commit {
            id: commit.id,
            time,
            epoch: 1,
            actor: commit.actor,
            request_id: commit.request_id,
            causation: commit.causation,
            sql: None,
            events,
            chain: [0; 32],
        });
        inner.commits.push(Arc::clone(&commit));
        for observer in self.observers.lock().iter() {
            observer.committed(&[Arc::clone(&commit)]);
        }
        Ok(commit)
    }

    fn head(&self) -> u64 {
        self.inner.lock().head
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        watch::channel(self.head()).1
    }

    async fn read(&self, _: u64, _: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        Err(ReadError::Io("not in this test".to_owned()))
    }
}

/// A run that reached the plugin, to be answered by the test.
pub(crate) struct Asked {
    pub(crate) request: PluginRequest,
    pub(crate) reply: oneshot::Sender<Result<Json, ApiError>>,
}

/// A plugin whose answers the test gives.
struct ScriptedPlugin {
    points: Mutex<Arc<ExtensionPoints>>,
    asked: mpsc::UnboundedSender<Asked>,
}

#[async_trait]
impl PluginGate for ScriptedPlugin {
    fn points(&self) -> Arc<ExtensionPoints> {
        Arc::clone(&self.points.lock())
    }

    async fn ask(&self, request: PluginRequest) -> Result<Json, PluginCallError> {
        let (reply, answer) = oneshot::channel();
        self.asked.send(Asked { request, reply }).ok().unwrap();
        let answer = answer.await;
        let answer = answer.unwrap_or_else(|_| Err(ApiError::unexpected("lost")));
        answer.map_err(PluginCallError::Refused)
    }

    fn presence(&self, _: &str) -> Presence {
        Presence {
            window: 4,
            ..Presence::default()
        }
    }

    fn announce(&self, name: &'static str, param: Json) {
        NoPlugins::default().announce(name, param);
    }

    async fn deliver(
        &self,
        request: PluginRequest,
        _: DeliveryNote,
        _: Urgency,
    ) -> Result<Json, PluginCallError> {
        self.ask(request).await
    }

    fn changes(&self) -> watch::Receiver<()> {
        NoPlugins::default().changes()
    }
}

/// Wakes when the test says so.
#[derive(Default)]
struct HandDriver {
    jobs: Mutex<Vec<(Uuid, u64, Recipient<Wake>)>>,
}

#[async_trait]
impl Driver for HandDriver {
    async fn add(&self, seconds: u64, wake: Recipient<Wake>) -> Result<Uuid, DriverError> {
        let id = Uuid::new_v4();
        self.jobs.lock().push((id, seconds, wake));
        Ok(id)
    }

    async fn remove(&self, job: Uuid) {
        self.jobs.lock().retain(|(id, _, _)| *id != job);
    }

    async fn stop(&self) {
        self.jobs.lock().clear();
    }
}

/// A server's tasks.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) tasks: Addr<Tasks>,
    pub(crate) asked: mpsc::UnboundedReceiver<Asked>,
    plugin: Arc<ScriptedPlugin>,
    driver: Arc<HandDriver>,
    changes: watch::Sender<()>,
}

pub(crate) fn timer(spec: &str) -> Timer {
    Timer {
        id: TaskId::new("p", "tick"),
        name: "tick".to_owned(),
        spec: TimerSpec::parse(spec).unwrap(),
        spec_text: spec.to_owned(),
        zone: None,
        overlap: Overlap::Skip,
        timeout: None,
    }
}

impl World {
    /// Starts the tasks of a server at second 0, or of one more server on the same log.
    pub(crate) async fn start(clock: &ManualClock, log: &Arc<MemoryLog>, timers: &[Timer]) -> Self {
        let (sender, asked) = mpsc::unbounded_channel();
        let plugin = Arc::new(ScriptedPlugin {
            points: Mutex::default(),
            asked: sender,
        });
        let driver = Arc::<HandDriver>::default();
        let (changes, changed) = watch::channel(());
        let parts = TaskParts {
            log: Arc::clone(log) as _,
            states: log.states(),
            plugins: Arc::clone(&plugin) as _,
            clock: Arc::new(clock.clone()),
            driver: Arc::clone(&driver) as _,
            settings: TaskSettings {
                zone: skytrail_actors::task::Zone::UTC,
                catch_up: Duration::from_secs(60),
                is_slave: false,
            },
        };
        let world = Self {
            clock: clock.clone(),
            tasks: Tasks::new(parts, changed).start(),
            asked,
            plugin,
            driver,
            changes,
        };
        world.register(timers, true).await;
        world
    }

    /// Tells the tasks what is registered, and whether the plugin has a worker.
    pub(crate) async fn register(&self, timers: &[Timer], is_attended: bool) {
        self.set_points(timers, is_attended);
        quiet().await;
    }

    /// The same, and does not wait for what they do.
    pub(crate) fn set_points(&self, timers: &[Timer], is_attended: bool) {
        let attended: HashSet<Arc<str>> = is_attended.then(|| "p".into()).into_iter().collect();
        *self.plugin.points.lock() = Arc::new(ExtensionPoints {
            timers: timers.to_vec(),
            attended,
            readiness: Readiness::Ready,
            ..ExtensionPoints::default()
        });
        self.changes.send_replace(());
    }

    /// Moves the clock to a second and wakes everybody.
    pub(crate) async fn wake_at(&self, second: i64) {
        let now = self.clock.now().micros();
        self.clock.advance(second * 1_000_000 - now);
        self.wake().await;
    }

    pub(crate) async fn wake(&self) {
        self.nudge().await;
        quiet().await;
    }

    /// Wakes everybody, and does not wait for what they do.
    pub(crate) async fn nudge(&self) {
        let jobs: Vec<_> = self.driver.jobs.lock().clone();
        for (_, _, wake) in jobs {
            wake.send(Wake).await.unwrap();
        }
    }

    /// Waits until no run is under way or about to be.
    pub(crate) async fn idle(&self) {
        let idle = async {
            while self.report().await.running_since.is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), idle)
            .await
            .unwrap();
    }

    /// Returns the seconds in which the driver was told to wake.
    pub(crate) fn wake_seconds(&self) -> Vec<u64> {
        let jobs = self.driver.jobs.lock();
        jobs.iter().map(|(_, seconds, _)| *seconds).collect()
    }

    /// Returns the names of the driver's jobs.
    pub(crate) fn jobs(&self) -> Vec<Uuid> {
        let jobs = self.driver.jobs.lock();
        jobs.iter().map(|(id, _, _)| *id).collect()
    }

    /// Returns the run that reached the plugin; there has to be one.
    pub(crate) fn run(&mut self) -> Asked {
        self.asked.try_recv().unwrap()
    }

    /// Answers the run that reached the plugin.
    pub(crate) async fn finish(&mut self) {
        self.run().reply.send(Ok(json!(null))).unwrap();
        quiet().await;
    }

    pub(crate) fn is_asked_nothing(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    pub(crate) async fn report(&self) -> TaskReport {
        let mut reports = self.tasks.send(ListTasks).await.unwrap();
        assert_eq!(reports.len(), 1);
        reports.remove(0)
    }
}

/// Lets everything happen that needs no time to pass.
pub(crate) async fn quiet() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}
