//! The one place where all parts meet: it builds them, starts them, and stops them in order.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter};
use actix_web::dev::ServerHandle;
use skytrail_actors::accounts::{AccountSettings, Accounts};
use skytrail_actors::asset::{AssetCatalog, AssetGate, Assets};
use skytrail_actors::clock::{Clock, SystemClock};
use skytrail_actors::delivery::after::{AfterHooks, DeliverySettings};
use skytrail_actors::delivery::{Delivery, DeliveryParts, Place, Positions as _};
use skytrail_actors::device::{DeviceStore as _, Devices};
use skytrail_actors::erasure::{Eraser, Holder, compact_daily};
use skytrail_actors::events::EventReader;
use skytrail_actors::hub::{Hub, HubSettings};
use skytrail_actors::live::{Follower, LiveQueries};
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::log::tail::tail;
use skytrail_actors::log::{EmbeddedLog, Erasures, EventLog, LogOptions, OpenedLog, Reserve};
use skytrail_actors::plugin::{
    PluginBroker, PluginEntry, PluginGate, PluginsSettings, RecentCalls, note_registrations,
};
use skytrail_actors::projector::{self, Projector, ProjectorParts, StopProjector};
use skytrail_actors::push::{Push, PushSettings};
use skytrail_actors::record::actor::Records;
use skytrail_actors::record::env::RecordEnv;
use skytrail_actors::record::live::LiveState;
use skytrail_actors::store::{RecordStore, Snapshot, StoreError};
use skytrail_actors::subscription::{Notices, Subscriptions};
use skytrail_actors::task::{
    CronDriver, Ledger, Stop, TaskParts, TaskSettings, TaskStore as _, Tasks,
};
use skytrail_actors::{install, spawn};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::EventKind;
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;
use socket2::Socket;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::asset::{Files, OpenError};
use crate::audit::AuditTrail;
use crate::auth::custom_token::CustomTokens;
use crate::auth::password::Argon2Hasher;
use crate::auth::refusals::Refusals;
use crate::auth::throttle::Throttle;
use crate::auth::token;
use crate::backup::BackupSchedule;
use crate::config::{Config, KeyOrigin, Keys, PubSub, Secret};
use crate::http::counters::DoorCounters;
use crate::http::router::PluginCaller;
use crate::http::server;
use crate::ledger::{self, SqlLedger};
use crate::leftovers::Leftovers;
use crate::parts::Parts;
use crate::plugin::TransportError;
use crate::projection::SqlStore;
use crate::proof::{Checkpoints, LogKey};
use crate::push;
use crate::services::{Services, Settings};
use crate::socket::followers::Followers;
use crate::socket::plugin::{self, PluginDoor};
use crate::socket::pubsub::SocketLimits;
use crate::socket::seats::Seats;
use crate::socket::text_frame;
use crate::store_start::ready_store;

/// How long each step of a shutdown may take.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// The process's exit code when the log can no longer vouch for what it wrote.
pub(crate) const EXIT_LOG_IN_DOUBT: i32 = 70;
/// Under which it is kept how far the subscriptions' notices are.
const NOTICES: &str = "notices";
/// How often the disk's free space is looked at.
const RESERVE_PERIOD: Duration = Duration::from_millis(250);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log.
    #[error(transparent)]
    Log(#[from] skytrail_actors::log::LogOpenError),
    /// The record store.
    #[error("the record store cannot be used: {0}")]
    Store(String),
    /// The ledger of deliveries.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
    /// The files' store.
    #[error(transparent)]
    Files(#[from] OpenError),
    /// A push service.
    #[error(transparent)]
    Push(#[from] push::OpenError),
    /// The way to a plugin.
    #[error(transparent)]
    Plugin(#[from] TransportError),
    /// A file, a thread or the address.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The first events could not be written.
    #[error("installation failed: {0}")]
    Install(#[from] ApiError),
}

/// A running server.
pub struct Application {
    log: Arc<EmbeddedLog>,
    store: Arc<SqlStore>,
    records: Arc<Records>,
    projector: Addr<Projector>,
    broker: PluginBroker,
    tasks: Addr<Tasks>,
    after_hooks: AfterHooks,
    push: Push,
    deliveries: Arc<SqlLedger>,
    running: TaskTracker,
    audit: Arc<AuditTrail>,
    checkpoints: Arc<Checkpoints>,
    http: ServerHandle,
    arbiters: [Arbiter; 5],
    /// Cancelled when the stop begins.
    stopping: CancellationToken,
    ending: CancellationToken,
    /// Keeps the database of plugins that have none.
    database: Option<DropGuard>,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// The keys in use.
    pub keys: Keys,
}

impl Application {
    /// Builds all parts and starts them; serves when it returns.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| StartError::Io { what, source }
        };
        let keys = Keys::load_or_make(config).map_err(io("the keys cannot be used"))?;
        let journal = JournalOptions {
            segment_bytes: config.storage.segment_bytes,
            ..Default::default()
        };
        let opened = OpenedLog::open(&config.data_dir, journal)?;
        tracing::info!(report = ?opened.report(), "log opened");
        let listen = config.http.listen;
        let bound = server::bind(listen).map_err(io(&format!("cannot listen on {listen}")));
        let (socket, address) = bound?;
        // Addresses of files say where this server really is.
        let mut config = config.listening_at(address);
        let database = crate::plugin::open_database(&mut config).await;
        let database = database.map_err(io("the plugins' database cannot listen"))?;
        let config = &config;
        let (store, snapshot) = ready_store(config, &opened).await?;
        let store = Arc::new(store);
        let stored = (Arc::clone(&store), snapshot);
        let started = Self::with_store((config, socket), keys, opened, stored).await;
        if started.is_err() {
            // Not left to the end of the process: the file's checksums have to be written.
            let _ = store.close().await;
        }
        started.map(|application| Self {
            database,
            ..application
        })
    }

    async fn with_store(
        (config, socket): (&Config, Socket),
        keys: Keys,
        opened: OpenedLog,
        (store, snapshot): (Arc<SqlStore>, Snapshot),
    ) -> Result<Self, StartError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| StartError::Io { what, source }
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let live = Arc::new(LiveState::new(&snapshot, config.storage.head_cache_bytes));
        let failed = |error: StoreError| StartError::Store(error.to_string());
        let subscriptions = store.load_subscriptions().await.map_err(failed)?;
        let subscriptions = Arc::new(Subscriptions::new(subscriptions));
        let stored_tasks = store.load_tasks().await.map_err(failed)?;
        let ledger = Arc::new(Ledger::new(snapshot.checkpoint, stored_tasks));
        let (feed, fed) = projector::feed();
        let (notices_feed, notices_tail) = tail();
        let (live_feed, live_tail) = tail();
        let after_hooks = AfterHooks::default();
        let deliveries = SqlLedger::open(&config.data_dir.join("ops.sqlite"), clock.now()).await?;
        let deliveries = Arc::new(deliveries);
        let sequences = snapshot.sequences.into_iter();
        let sequences = sequences
            .map(|(name, field, last)| ((name, field), last))
            .collect();
        let reserve = Reserve::new(&config.data_dir, config.storage.disk_reserve_bytes);
        let reserve = Arc::new(reserve.map_err(io("the disk's reserve cannot be made"))?);
        let ending = CancellationToken::new();
        spawn::spawn_named("disk reserve", tend(Arc::clone(&reserve), ending.clone()));
        let erasures = erasures_of(&store, &opened).await?;
        let spare = Arc::clone(&reserve);
        let options = LogOptions {
            erasures: Arc::clone(&erasures),
            ..log_options(config, &clock, reserve)
        };
        let store_id = opened.store_id();
        let log_key = LogKey::load_or_make(&config.data_dir);
        let log_key = log_key.map_err(io("the log's key cannot be used"))?;
        let log = opened.start(
            options,
            vec![
                Arc::clone(&live) as _,
                Arc::clone(&subscriptions) as _,
                Arc::clone(&ledger) as _,
                Arc::new(notices_feed),
                Arc::new(live_feed),
                after_hooks.observer(),
                // The last: those who deliver what is applied have it at hand by then.
                Arc::new(feed),
            ],
            sequences,
        );
        let log = Arc::new(log.map_err(io("the log's threads cannot be started"))?);
        let checkpoints = Checkpoints::new(
            (Arc::clone(&log) as _, store_id),
            log_key,
            &config.data_dir,
            Arc::clone(&clock),
        );
        let checkpoints = Arc::new(checkpoints);
        let backups = BackupSchedule::new(
            config,
            Arc::clone(&deliveries),
            Arc::clone(&checkpoints),
            Arc::clone(&clock),
        );
        let backups = Arc::new(backups);
        let arbiters = [(); 5].map(|()| Arbiter::new());
        let (applied, position) = watch::channel(snapshot.checkpoint);
        let is_applied = fed.applied(position);
        let parts = ProjectorParts {
            log: Arc::clone(&log) as _,
            store: Arc::clone(&store) as _,
            live: Arc::clone(&live),
            fed,
            applied,
        };
        let [background, front, couriers, pushing, listeners] = &arbiters;
        store.keep_indexes(Arc::clone(&clock));
        store.keep_checking(config.storage.store_check_period);
        let projector =
            Projector::start_in_arbiter(&background.handle(), |_| Projector::new(parts));
        let broker = PluginBroker::start(plugin_settings(config, &keys), &front.handle());
        let files = Files::open(config, &keys.asset_secret, Arc::clone(&clock)).await?;
        let assets = AssetCatalog {
            store: Arc::clone(&store) as _,
            live: Arc::clone(&live),
            applied: is_applied.clone(),
            urls: Arc::clone(&files.urls),
        };
        let plugins: Arc<dyn PluginGate> = Arc::new(AssetGate {
            inner: Arc::new(broker.clone()),
            assets: assets.clone(),
        });
        let env = RecordEnv {
            log: Arc::clone(&log) as _,
            store: Arc::clone(&store) as _,
            live,
            applied: is_applied.clone(),
            assets,
            plugins: Arc::clone(&plugins),
            after_hooks: after_hooks.clone(),
            clock: Arc::clone(&clock),
        };
        install::install(&env, &config.app.auth_record_keys, config.app.dev_mode).await?;
        spawn::spawn_named("learn keys", learn_keys(env.clone()));
        let kept = Arc::clone(&deliveries) as _;
        let deliver = delivery_settings(config);
        let begun = after_hooks.begin(env.clone(), kept, deliver, couriers.handle());
        begun
            .await
            .map_err(|error| StartError::Store(error.to_string()))?;
        let records = Arc::new(Records::new(env.clone(), config.http.workers));
        let assets = Assets::new(env.clone());
        let accounts = Arc::new(accounts(config, &keys, env.clone())?);
        let audit = AuditTrail::start(&config.audit, Arc::clone(&clock));
        let audit = Arc::new(audit.map_err(io("the audit trail cannot be written"))?);
        let hub_settings = hub_settings(&config.pubsub);
        let hub = Hub::start_on(front, hub_settings);
        let internal_hub = Hub::start_on(front, hub_settings);
        let devices = Devices::new(
            env.clone(),
            Arc::clone(&store) as _,
            Arc::clone(&subscriptions),
        );
        let devices = Arc::new(devices);
        let is_slave = config.timers.is_slave;
        // Notices, too, are another server's then: it has the hubs.
        let noticed = if is_slave {
            Arc::new(Subscriptions::new(Vec::new()))
        } else {
            spawn::spawn_named("forget devices", forget_devices(Arc::clone(&devices)));
            subscriptions
        };
        let senders = push::open(&config.push, &keys.web_push, &clock)?;
        let known = Arc::clone(&devices) as _;
        let push = Push::start(
            senders,
            known,
            &clock,
            push_settings(config),
            &pushing.handle(),
        );
        let live = LiveQueries::new(env.clone(), config.live.queries);
        let follower = DeliveryParts {
            place: None,
            log: Arc::clone(&log) as _,
            tail: live_tail,
            applied: env.applied.clone(),
            consumer: Follower::new(live.clone()),
        };
        let follower =
            Delivery::start_in_arbiter(&listeners.handle(), |_| Delivery::new(follower, None));
        let told = deliveries.load_position(NOTICES).await;
        let told = told.map_err(|error| StartError::Store(error.to_string()))?;
        let delivery = DeliveryParts {
            place: Some(Place {
                name: NOTICES,
                positions: Arc::clone(&deliveries) as _,
            }),
            log: Arc::clone(&log) as _,
            tail: notices_tail,
            applied: env.applied.clone(),
            consumer: Notices::new(env.clone(), noticed, internal_hub.clone(), push.notices()),
        };
        let notices = Delivery::start_in_arbiter(&background.handle(), move |_| {
            Delivery::new(delivery, told)
        });
        let noting = note_registrations(env.clone(), Arc::clone(&plugins), broker.changes());
        let ended = ending.clone();
        spawn::spawn_named("note registrations", async move {
            ended.run_until_cancelled(noting).await;
        });
        let task_parts = TaskParts {
            log: Arc::clone(&log) as _,
            ledger,
            plugins: Arc::clone(&plugins),
            clock: Arc::clone(&clock),
            driver: Arc::new(CronDriver::default()),
            settings: task_settings(config),
        };
        let changes = broker.changes();
        let tasks =
            Tasks::start_in_arbiter(&background.handle(), |_| Tasks::new(task_parts, changes));
        let events = EventReader::new(
            Arc::clone(&log) as _,
            after_hooks.observer(),
            Arc::clone(&store) as _,
            is_applied,
        );
        let holders: Vec<Arc<dyn Holder>> = vec![
            Arc::clone(&log) as _,
            Arc::clone(&store) as _,
            Arc::clone(&deliveries) as _,
            Arc::new(Leftovers::new(&config.data_dir)),
        ];
        let known = (Arc::clone(&records) as _, Arc::clone(&store) as _);
        let kept = (Arc::clone(&log), erasures);
        let eraser = Eraser::new(records.env().clone(), known, kept, holders);
        let eraser = Arc::new(eraser.giving_up(spare));
        spawn::spawn_named("eraser", erase(Arc::clone(&eraser), ending.clone()));
        if let Some(at) = config.storage.compact_at {
            let daily = compact(Arc::clone(&eraser), at, ending.clone());
            spawn::spawn_named("compaction", daily);
        }
        let (door, running) = (Arc::<DoorCounters>::default(), TaskTracker::new());
        let throttle = Arc::new(Throttle::new(config.http.auth_throttle));
        let followers = Arc::<Followers>::default();
        let health = Parts {
            log: Arc::clone(&log),
            store: Arc::clone(&store),
            records: Arc::clone(&records),
            accounts: Arc::clone(&accounts),
            projector: projector.clone(),
            hub: hub.clone(),
            internal_hub: internal_hub.clone(),
            notices,
            push: push.clone(),
            live: live.clone(),
            live_follower: follower,
            after_hooks: after_hooks.clone(),
            eraser: Arc::clone(&eraser),
            followers: Arc::clone(&followers),
            broker: broker.clone(),
            tasks: tasks.clone(),
            door: Arc::clone(&door),
            running: running.clone(),
            throttle: Arc::clone(&throttle),
            audit: Arc::clone(&audit),
            backups: Arc::clone(&backups),
            checkpoints: Arc::clone(&checkpoints),
        };
        let days = config.http.refusals_days;
        let refusals = Refusals::new(Arc::clone(&clock), Arc::clone(&deliveries), days);
        let refusals = Arc::new(refusals);
        let writing = Arc::clone(&refusals).keep_writing(ending.clone());
        spawn::spawn_named("refusals", writing);
        let custom_tokens = config.custom_token_secret.as_ref();
        let stopping = CancellationToken::new();
        let services = Arc::new(Services {
            records: Arc::clone(&records) as _,
            accounts,
            assets,
            files,
            devices,
            push: push.clone(),
            plugins,
            tasks: tasks.clone(),
            broker: broker.clone(),
            after_hooks: after_hooks.clone(),
            eraser,
            events: Arc::new(events),
            followers,
            hub,
            internal_hub,
            sockets: socket_limits(&config.pubsub),
            live_seats: Seats::new(
                config.live.max_connections,
                config.live.max_connections_per_address,
            ),
            live,
            keys: keys.clone(),
            throttle,
            custom_tokens: custom_tokens.map(|secret| CustomTokens::new(secret.reveal())),
            audit: Arc::clone(&audit),
            refusals,
            clock,
            settings: settings(config, &keys),
            health: Arc::new(health),
            door,
            running: running.clone(),
            stopping: stopping.clone(),
        });
        let door = PluginDoor {
            broker: broker.clone(),
            api: Arc::new(PluginCaller(Arc::clone(&services))),
            keys: keys.clone(),
        };
        let api = Arc::clone(&door.api);
        let routes: server::Routes = Arc::new(move |config| {
            plugin::configure(&door, config);
            if !is_slave {
                server::hubs(config);
            }
        });
        let door = (socket, &config.http);
        let server = server::listen(services, routes, door, STEP_DEADLINE);
        let address = config.http.listen;
        let server = server.map_err(io(&format!("cannot listen on {address}")))?;
        let http = server.handle();
        actix_web::rt::spawn(server);
        spawn::spawn_named("backups", backups.run(ending.clone()));
        let signing = Arc::clone(&checkpoints).run(ending.clone());
        spawn::spawn_named("checkpoints", signing);
        // Plugins may ask the server as soon as they are asked.
        crate::plugin::reach(config, &broker, &api, (&front.handle(), &ending))?;
        Ok(Self {
            log,
            store,
            records,
            projector,
            broker,
            tasks,
            after_hooks,
            push,
            deliveries,
            running,
            audit,
            checkpoints,
            http,
            arbiters,
            stopping,
            ending,
            database: None,
            address,
            keys,
        })
    }

    /// Returns the last calls of plugins.
    pub fn recent_calls(&self) -> &Arc<RecentCalls> {
        self.broker.recent()
    }

    /// Stops in order: no new requests, running ones end, the log is flushed, the store gets a
    /// checkpoint. Each step has a deadline; what is not done then is in the log and done at the
    /// next start.
    pub async fn stop(self) {
        self.stopping.cancel();
        let (broker, running, http) = (self.broker, self.running, self.http);
        let after_hooks = self.after_hooks;
        let quiet = after_hooks.clone();
        // Requests that run may need their plugins, so those leave after them; and the door would
        // wait for the workers' sockets.
        let leaving = async move {
            running.close();
            running.wait().await;
            quiet.quiet();
            broker.leave().await;
        };
        let tasks = self.tasks;
        step("requests end", async move {
            let _ = tokio::join!(http.stop(true), tasks.send(Stop), leaving);
        })
        .await;
        step("deliveries are kept", after_hooks.close()).await;
        step("pushes are sent", self.push.leave()).await;
        let audit = self.audit;
        let written = tokio::task::spawn_blocking(move || audit.close());
        step("the audit trail is written", async move {
            let _ = written.await;
        })
        .await;
        self.store.stop_keeping();
        self.ending.cancel();
        drop(self.database);
        step("tasks end", spawn::join_all()).await;
        self.records.stop();
        let projector = self.projector;
        step("the record store catches up", async move {
            let _ = projector.send(StopProjector).await;
        })
        .await;
        let checkpoints = self.checkpoints;
        step("the log is signed", async move { checkpoints.sign().await }).await;
        let log = self.log;
        let closed = tokio::task::spawn_blocking(move || log.close(STEP_DEADLINE));
        step("the log is flushed", async move {
            let _ = closed.await;
        })
        .await;
        let deliveries = self.deliveries;
        step("the ledger closes", async move { deliveries.close().await }).await;
        step("the record store closes", async move {
            if let Err(error) = self.store.close().await {
                tracing::warn!(%error, "the record store did not close well");
            }
        })
        .await;
        for arbiter in self.arbiters {
            arbiter.stop();
        }
    }
}

async fn step(what: &'static str, work: impl Future<Output = ()>) {
    match tokio::time::timeout(STEP_DEADLINE, work).await {
        Ok(()) => tracing::info!(what, "stopping"),
        Err(_) => tracing::warn!(what, "stopping: not in time, going on"),
    }
}

/// Tells the live state which records there are, so that most creations need not ask the store.
async fn learn_keys(env: RecordEnv) {
    const KEYS_AT_ONCE: u32 = 10_000;
    for definition in env.live.get_types() {
        let mut after = None;
        loop {
            let keys = env
                .store
                .list_keys(&definition, after.as_ref(), KEYS_AT_ONCE)
                .await;
            let keys = match keys {
                Ok(keys) if keys.is_empty() => break,
                Ok(keys) => keys,
                Err(error) => {
                    tracing::warn!(%error, "keys could not be learnt; creations ask the store");
                    return;
                }
            };
            after = keys.last().cloned();
            let id = |key| RecordId {
                record_type: definition.name.clone(),
                key,
            };
            let ids: Vec<_> = keys.into_iter().map(id).collect();
            env.live.known_keys().learn(ids.iter());
        }
    }
    env.live.known_keys().complete();
}

/// Finds the erasures that the log has, finished or not.
async fn erasures_of(store: &SqlStore, log: &OpenedLog) -> Result<Arc<Erasures>, StartError> {
    let erasures = Erasures::default();
    let head = log.report().head;
    for kind in [EventKind::ErasureRequested, EventKind::ErasureFinished] {
        let positions = store.list_positions_of_kind(kind, 1, head).await;
        let positions = positions.map_err(|error| StartError::Store(error.to_string()))?;
        for position in positions {
            let commits = log.segments().read(position, 1);
            let commits = commits.map_err(|error| StartError::Store(error.to_string()))?;
            for commit in commits {
                let mut events = commit.events.iter();
                if let Some(event) = events.find(|event| event.position == position) {
                    erasures.learn(&commit, event);
                }
            }
        }
    }
    Ok(Arc::new(erasures))
}

/// Sees erasures to their end.
async fn erase(eraser: Arc<Eraser>, ending: CancellationToken) {
    ending.run_until_cancelled(eraser.work()).await;
}

/// Compacts the log every day, so many microseconds after midnight.
async fn compact(eraser: Arc<Eraser>, at: i64, ending: CancellationToken) {
    let daily = compact_daily(eraser, Timestamp::from_micros(at));
    ending.run_until_cancelled(daily).await;
}

/// Keeps an eye on the disk's free space.
async fn tend(reserve: Arc<Reserve>, ending: CancellationToken) {
    let pause = || ending.run_until_cancelled(tokio::time::sleep(RESERVE_PERIOD));
    while pause().await.is_some() {
        if let Err(error) = reserve.tend() {
            tracing::warn!(%error, "the disk's free space is not known");
        }
    }
}

/// Forgets devices that cannot be reached, once at the start.
async fn forget_devices(devices: Arc<Devices>) {
    match devices.forget_unreachable().await {
        Ok(0) => {}
        Ok(num_devices) => tracing::info!(num_devices, "devices without an address are forgotten"),
        Err(error) => tracing::warn!(%error, "devices without an address are kept"),
    }
}

fn log_options(config: &Config, clock: &Arc<dyn Clock>, reserve: Arc<Reserve>) -> LogOptions {
    let clock = Arc::clone(clock);
    let on_fatal = |doubt: &str| {
        tracing::error!(
            doubt,
            "the log can no longer vouch for what it wrote; ending"
        );
        std::process::exit(EXIT_LOG_IN_DOUBT);
    };
    LogOptions {
        sled_cache_bytes: config.storage.sled_cache_bytes,
        queue_decisions: config.storage.log_queue,
        reserve: Some(reserve),
        ..LogOptions::new(Arc::new(move || clock.now()), Arc::new(on_fatal))
    }
}

fn accounts(config: &Config, keys: &Keys, env: RecordEnv) -> Result<Accounts, StartError> {
    let secret = config.tokens.secret.as_ref().unwrap_or(&keys.master);
    let tokens = token::open(&config.tokens, &config.app.name, secret.reveal());
    let tokens = tokens.map_err(|source| StartError::Io {
        what: "the token store cannot be used".to_owned(),
        source,
    })?;
    let hasher = Argon2Hasher::new(config.http.workers);
    let settings = AccountSettings {
        auth_keys: config.app.auth_record_keys.clone(),
        policy: config.app.password_policy.clone(),
        is_verification_required: config.app.verify_required,
    };
    Ok(Accounts::new(env, Arc::new(hasher), tokens, settings))
}

fn plugin_settings(config: &Config, keys: &Keys) -> PluginsSettings {
    let limits = &config.plugin;
    let entry = |plugin: &crate::config::Plugin| PluginEntry {
        name: plugin.name.as_str().into(),
        transport: plugin.transport.kind(),
        timeout: plugin.timeout,
    };
    PluginsSettings {
        plugins: config.plugins.iter().map(entry).collect(),
        allow_unlisted: limits.allow_unlisted,
        dev_mode: config.app.dev_mode,
        config: Arc::new(config.for_plugins(keys)),
        max_queue: limits.queue,
        rejoin_wait: limits.rejoin_wait,
        heartbeat: limits.heartbeat,
        resume: limits.resume,
        drain: limits.drain.min(STEP_DEADLINE),
        max_message: limits.max_message,
        max_calls: limits.max_calls,
        max_depth: limits.max_depth,
        ..PluginsSettings::default()
    }
}

fn task_settings(config: &Config) -> TaskSettings {
    let timers = &config.timers;
    TaskSettings {
        zone: timers.zone,
        catch_up: timers.catch_up,
        is_slave: timers.is_slave,
    }
}

fn hub_settings(pubsub: &PubSub) -> HubSettings {
    HubSettings {
        queue_messages: pubsub.queue_messages,
        queue_bytes: pubsub.queue_bytes,
        max_channels: pubsub.max_channels,
        encode: text_frame::of_message,
    }
}

fn socket_limits(pubsub: &PubSub) -> SocketLimits {
    SocketLimits {
        seats: Seats::new(pubsub.max_sockets, pubsub.max_sockets_per_address),
        max_channel_bytes: pubsub.max_channel_bytes,
        max_message_bytes: pubsub.max_message_bytes,
    }
}

fn push_settings(config: &Config) -> PushSettings {
    PushSettings {
        max_queue: config.push.max_queue,
        max_attempts: config.push.max_attempts,
    }
}

fn delivery_settings(config: &Config) -> DeliverySettings {
    DeliverySettings {
        max_attempts: config.plugin.max_attempts,
        max_lag: config.plugin.max_lag,
    }
}

fn settings(config: &Config, keys: &Keys) -> Settings {
    let web_push_key = push::web::VapidKey::parse(keys.web_push.reveal());
    let web_push_key = web_push_key.ok().filter(|_| config.push.web.is_some());
    Settings {
        dev_mode: config.app.dev_mode,
        history_for_owners: config.app.history_for_owners.clone(),
        cors_host: config.http.cors_host.clone(),
        response_timeout: config.http.response_timeout,
        limits: config.http.limits,
        body_timeout: config.http.body_timeout,
        log_body_bytes: config.log.body_bytes,
        metrics_key: config.http.metrics_key.clone(),
        max_depth: config.plugin.max_depth,
        web_push_key: web_push_key.map(|key| key.to_public_text()),
    }
}

/// Runs a server until the process is told to end. When the record store turns out damaged the server
/// stops and starts again, in the same process: the start makes the store anew.
///
/// # Errors
/// See [`StartError`].
pub async fn serve(config: &Config) -> Result<(), StartError> {
    serve_with(config, |_| std::future::pending()).await
}

/// As [`serve`], with something that runs beside each start of the server, and ends with it.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with<F: Future<Output = ()>>(
    config: &Config,
    mut beside: impl FnMut(&Application) -> F,
) -> Result<(), StartError> {
    // Whoever reads that the server is ready may tell it to end at once.
    let mut signals = Signals::listen();
    loop {
        let application = Application::start(config).await?;
        let log_head = application.log.head();
        tracing::info!(address = %application.address, log_head, "serving");
        announce(&application);
        let store = Arc::clone(&application.store);
        let running = beside(&application);
        let is_told = tokio::select! {
            () = signals.wait() => true,
            () = running => true,
            () = store.damaged() => false,
        };
        drop(store);
        application.stop().await;
        if is_told {
            return Ok(());
        }
        tracing::warn!("starting again, to bring the record store up to the log");
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what a person who starts the server needs to see"
)]
fn announce(application: &Application) {
    let show = |key: &Secret, origin| match origin {
        KeyOrigin::Configured => "(from the configuration)".to_owned(),
        KeyOrigin::Kept => format!("{} (kept in the data folder)", key.reveal()),
        KeyOrigin::Made => format!("{} (made just now, kept in the data folder)", key.reveal()),
    };
    let keys = &application.keys;
    println!("skytrail: client key {}", show(&keys.api, keys.api_origin));
    println!(
        "skytrail: master key {}",
        show(&keys.master, keys.master_origin)
    );
    println!("skytrail: ready on http://{}", application.address);
}

/// What tells the process to end.
struct Signals(Option<(Signal, Signal)>);

impl Signals {
    /// From here on the signals no longer kill the process.
    fn listen() -> Self {
        let terminate = signal(SignalKind::terminate());
        let interrupt = signal(SignalKind::interrupt());
        Self(terminate.ok().zip(interrupt.ok()))
    }

    /// Waits for one of them.
    async fn wait(&mut self) {
        let Some((terminate, interrupt)) = &mut self.0 else {
            tracing::error!("signals cannot be listened to");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to end"),
            _ = interrupt.recv() => tracing::info!("interrupted"),
        }
    }
}
