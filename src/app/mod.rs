//! The one place where all parts meet: it builds them, starts them, and stops them in order.

mod background;
mod consumers;
mod core;
mod serve;
mod settings;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter};
use actix_web::dev::ServerHandle;
use skytrail_actors::asset::{AssetCatalog, AssetGate, Assets};
use skytrail_actors::capture::{CaptureDesk, CaptureGate, CaptureSource, Captures};
use skytrail_actors::device::Devices;
use skytrail_actors::events::EventReader;
use skytrail_actors::hub::Hub;
use skytrail_actors::live::LiveQueries;
use skytrail_actors::log::OpenedLog;
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::plugin::{PluginBroker, PluginGate, RecentCalls, note_registrations};
use skytrail_actors::projector::{Projector, StopProjector};
use skytrail_actors::push::{Push, PushParts};
use skytrail_actors::record::actor::Records;
use skytrail_actors::record::env::RecordEnv;
use skytrail_actors::sandbox::Sandbox;
use skytrail_actors::store::RecordStore as _;
use skytrail_actors::subscription::{Notices, Subscriptions};
use skytrail_actors::task::{Stop, Tasks};
use skytrail_actors::{install, spawn};
use skytrail_schema::code::ApiError;
use socket2::Socket;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub(crate) use self::core::erasures_of;
use self::core::{Core, Tails};
pub use self::serve::{serve, serve_with};
use crate::asset::{Files, OpenError};
use crate::audit::AuditTrail;
use crate::auth::custom_token::CustomTokens;
use crate::auth::refusals::Refusals;
use crate::auth::throttle::Throttle;
use crate::backup::BackupSchedule;
use crate::config::{Config, Keys};
use crate::http::counters::DoorCounters;
use crate::http::router::PluginCaller;
use crate::http::sandbox::SandboxCaller;
use crate::http::server;
use crate::ledger;
use crate::parts::Parts;
use crate::plugin::TransportError;
use crate::push;
use crate::services::Services;
use crate::socket::followers::Followers;
use crate::socket::plugin::{self, PluginDoor};
use crate::socket::seats::Seats;
use crate::store_start::ready_store;

/// How long each step of a shutdown may take.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// The process's exit code when the log can no longer vouch for what it wrote.
pub(crate) const EXIT_LOG_IN_DOUBT: i32 = 70;

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

impl StartError {
    /// Makes an error of the machine's one.
    fn io(what: &str) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let what = what.to_owned();
        move |source| Self::Io { what, source }
    }
}

/// A running server.
pub struct Application {
    core: Core,
    records: Arc<Records>,
    projector: Addr<Projector>,
    broker: PluginBroker,
    /// The plugins that are only tried.
    tried: PluginBroker,
    tasks: Addr<Tasks>,
    push: Push,
    running: TaskTracker,
    audit: Arc<AuditTrail>,
    http: ServerHandle,
    arbiters: [Arbiter; 5],
    /// Cancelled when the stop begins.
    stopping: CancellationToken,
    /// Keeps the database of plugins that have none.
    database: Option<DropGuard>,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// The keys in use.
    pub keys: Keys,
}

impl Application {
    /// Builds all parts and starts them; serves at the door when it returns.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: &Config, door: &mut server::Door) -> Result<Self, StartError> {
        let keys = Keys::load_or_make(config).map_err(StartError::io("the keys cannot be used"))?;
        let journal = JournalOptions {
            segment_bytes: config.storage.segment_bytes,
            ..Default::default()
        };
        let opened = OpenedLog::open(&config.data_dir, journal)?;
        tracing::info!(report = ?opened.report(), "log opened");
        warn_of_readers(&config.data_dir);
        let listen = config.http.listen;
        let taken = door.take(listen);
        let taken = taken.map_err(StartError::io(&format!("cannot listen on {listen}")));
        let (socket, address) = taken?;
        // Addresses of files say where this server really is.
        let mut config = config.listening_at(address);
        let database = crate::plugin::open_database(&mut config).await;
        let database = database.map_err(StartError::io("the plugins' database cannot listen"))?;
        let config = &config;
        let (store, snapshot) = ready_store(config, &opened).await?;
        let store = Arc::new(store);
        let stored = (Arc::clone(&store), snapshot);
        let started = async {
            // It was closed if another one was in use, and is up to the log now.
            let opened_up = store.open_to_others().await;
            opened_up.map_err(|error| StartError::Store(error.to_string()))?;
            let core = Core::open(config, opened, stored).await?;
            Self::with_core((config, socket), keys, core).await
        };
        let started = started.await;
        if started.is_err() {
            // Not left to the end of the process: the file's checksums have to be written.
            let _ = store.close().await;
        }
        started.map(|application| Self {
            database,
            ..application
        })
    }

    async fn with_core(
        (config, socket): (&Config, Socket),
        keys: Keys,
        (core, tails): (Core, Tails),
    ) -> Result<Self, StartError> {
        let arbiters = [(); 5].map(|()| Arbiter::new());
        let [background, front, couriers, pushing, listeners] = &arbiters;
        let (clock, ending) = (Arc::clone(&core.clock), core.ending.clone());
        core.store.keep_indexes(Arc::clone(&clock));
        core.store.keep_checking(config.storage.store_check_period);
        let (projector, applied) = consumers::project(&core, tails.projector, background);
        let broker = PluginBroker::start(settings::plugins(config, &keys), &front.handle());
        let files = Files::open(config, &keys.asset_secret, Arc::clone(&clock)).await?;
        let assets = AssetCatalog {
            store: Arc::clone(&core.store) as _,
            live: Arc::clone(&core.live),
            applied: applied.clone(),
            urls: Arc::clone(&files.urls),
            erasures: Arc::clone(&core.erasures),
        };
        let plugins: Arc<dyn PluginGate> = Arc::new(AssetGate {
            inner: Arc::new(broker.clone()),
            assets: assets.clone(),
        });
        let tried = PluginBroker::start(settings::sandbox(config, &keys), &front.handle());
        let stage: Arc<dyn PluginGate> = Arc::new(AssetGate {
            inner: Arc::new(tried.clone()),
            assets: assets.clone(),
        });
        let env = RecordEnv {
            log: Arc::clone(&core.log) as _,
            store: Arc::clone(&core.store) as _,
            live: Arc::clone(&core.live),
            applied: applied.clone(),
            assets,
            plugins: Arc::clone(&plugins),
            after_hooks: core.after_hooks.clone(),
            captured: CaptureGate::default(),
            clock: Arc::clone(&clock),
            max_included_bytes: config.http.limits.included_bytes,
        };
        install::install(&env, &config.app.auth_record_keys, config.app.dev_mode).await?;
        spawn::spawn_named("learn keys", background::learn_keys(env.clone()));
        let outbox = config.database.as_ref();
        let outbox = outbox.map(|_| Arc::clone(&core.store) as Arc<dyn CaptureSource>);
        let captured = CaptureDesk::new(env.clone(), outbox.clone());
        if let Some(outbox) = outbox {
            let captures = Captures::new(env.clone(), outbox, !config.plugins.is_empty());
            let taken_in = background::take_in(captures, ending.clone());
            spawn::spawn_named("captured SQL", taken_in);
        }
        let begun = core.after_hooks.begin(
            env.clone(),
            Arc::clone(&core.deliveries) as _,
            settings::deliveries(config),
            couriers.handle(),
        );
        begun
            .await
            .map_err(|error| StartError::Store(error.to_string()))?;
        let sandbox = Arc::new(Sandbox::new(tried.clone(), stage, env.clone()));
        let records = Arc::new(Records::new(env.clone(), config.http.workers));
        let accounts = Arc::new(settings::accounts(config, &keys, env.clone())?);
        let audit = AuditTrail::start(&config.audit, Arc::clone(&clock));
        let audit = audit.map_err(StartError::io("the audit trail cannot be written"))?;
        let audit = Arc::new(audit);
        let hub = Hub::start_on(front, settings::hub(&config.pubsub));
        let internal_hub = Hub::start_on(front, settings::hub(&config.pubsub));
        let devices = Devices::new(
            env.clone(),
            Arc::clone(&core.store) as _,
            Arc::clone(&core.subscriptions),
        );
        let devices = Arc::new(devices);
        let is_slave = config.timers.is_slave;
        // Notices, too, are another server's then: it has the hubs.
        let noticed = if is_slave {
            Arc::new(Subscriptions::new(Vec::new()))
        } else {
            let forgotten = background::forget_devices(Arc::clone(&devices));
            spawn::spawn_named("forget devices", forgotten);
            Arc::clone(&core.subscriptions)
        };
        let pushes = PushParts {
            senders: push::open(&config.push, &keys.web_push, &clock)?,
            devices: Arc::clone(&devices) as _,
            outbox: Arc::clone(&core.deliveries) as _,
            clock: Arc::clone(&clock),
            settings: settings::push(config),
        };
        let waiting = pushes.outbox.load_pushes().await;
        let waiting = waiting.map_err(|error| StartError::Store(error.to_string()))?;
        let push = Push::start(pushes, waiting, &pushing.handle());
        let live = LiveQueries::new(env.clone(), config.live.queries, core.timeline);
        let live_follower =
            consumers::follow_live(&core, (&live, tails.live, tails.committed), listeners);
        let told = Notices::new(env.clone(), noticed, internal_hub.clone(), push.notices());
        let notices = consumers::notify(&core, &env, (told, tails.notices), background).await?;
        let noting = note_registrations(env.clone(), Arc::clone(&plugins), broker.changes());
        let ended = ending.clone();
        spawn::spawn_named("note registrations", async move {
            ended.run_until_cancelled(noting).await;
        });
        let tasks = consumers::run_tasks(&core, config, (&plugins, &broker), background);
        let events = EventReader::new(
            (Arc::clone(&core.log) as _, core.timeline),
            core.after_hooks.observer(),
            Arc::clone(&core.store) as _,
            applied,
        );
        let eraser = core.start_eraser(config, (&records, &files));
        let backups = BackupSchedule::new(
            config,
            Arc::clone(&core.deliveries),
            Arc::clone(&core.checkpoints),
            Arc::clone(&clock),
        );
        let backups = Arc::new(backups);
        let days = config.http.refusals_days;
        let refusals = Refusals::new(Arc::clone(&clock), Arc::clone(&core.deliveries), days);
        let refusals = Arc::new(refusals);
        let writing = Arc::clone(&refusals).keep_writing(ending.clone());
        spawn::spawn_named("refusals", writing);
        let (door, running) = (Arc::<DoorCounters>::default(), TaskTracker::new());
        let throttle = Arc::new(Throttle::new(config.http.auth_throttle));
        let followers = Arc::<Followers>::default();
        let stopping = CancellationToken::new();
        let health = Parts {
            log: Arc::clone(&core.log),
            store: Arc::clone(&core.store),
            records: Arc::clone(&records),
            accounts: Arc::clone(&accounts),
            projector: projector.clone(),
            hub: hub.clone(),
            internal_hub: internal_hub.clone(),
            notices,
            push: push.clone(),
            live: live.clone(),
            live_follower,
            after_hooks: core.after_hooks.clone(),
            captured: captured.clone(),
            eraser: Arc::clone(&eraser),
            followers: Arc::clone(&followers),
            broker: broker.clone(),
            tasks: tasks.clone(),
            door: Arc::clone(&door),
            running: running.clone(),
            throttle: Arc::clone(&throttle),
            refusals: Arc::clone(&refusals),
            audit: Arc::clone(&audit),
            backups: Arc::clone(&backups),
            checkpoints: Arc::clone(&core.checkpoints),
        };
        let custom_tokens = config.custom_token_secret.as_ref();
        let services = Arc::new(Services {
            records: Arc::clone(&records) as _,
            accounts,
            assets: Assets::new(env),
            files,
            devices,
            push: push.clone(),
            plugins,
            tasks: tasks.clone(),
            broker: broker.clone(),
            sandbox,
            after_hooks: core.after_hooks.clone(),
            captured,
            eraser,
            events: Arc::new(events),
            followers,
            hub,
            internal_hub,
            sockets: settings::sockets(&config.pubsub),
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
            settings: settings::services(config, &keys),
            health: Arc::new(health),
            door,
            running: running.clone(),
            stopping: stopping.clone(),
        });
        let door = PluginDoor {
            path: plugin::PATH,
            broker: broker.clone(),
            api: Arc::new(PluginCaller(Arc::clone(&services))),
            keys: keys.clone(),
        };
        let sandbox_door = PluginDoor {
            path: plugin::SANDBOX_PATH,
            broker: tried.clone(),
            api: Arc::new(SandboxCaller(Arc::clone(&services))),
            keys: keys.clone(),
        };
        let api = Arc::clone(&door.api);
        let routes: server::Routes = Arc::new(move |config| {
            plugin::configure(&door, config);
            plugin::configure(&sandbox_door, config);
            if !is_slave {
                server::hubs(config);
            }
        });
        let door = (socket, &config.http);
        let server = server::listen(services, routes, door, STEP_DEADLINE);
        let address = config.http.listen;
        let server = server.map_err(StartError::io(&format!("cannot listen on {address}")))?;
        let http = server.handle();
        actix_web::rt::spawn(server);
        spawn::spawn_named("backups", backups.run(ending.clone()));
        let signing = Arc::clone(&core.checkpoints).run(ending.clone());
        spawn::spawn_named("checkpoints", signing);
        // Plugins may ask the server as soon as they are asked.
        crate::plugin::reach(config, &broker, &api, (&front.handle(), &ending))?;
        Ok(Self {
            core,
            records,
            projector,
            broker,
            tried,
            tasks,
            push,
            running,
            audit,
            http,
            arbiters,
            stopping,
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
        let (broker, tried) = (self.broker, self.tried);
        let (running, http) = (self.running, self.http);
        let after_hooks = self.core.after_hooks;
        let quiet = after_hooks.clone();
        // Requests that run may need their plugins, so those leave after them; and the door would
        // wait for the workers' sockets.
        let leaving = async move {
            running.close();
            running.wait().await;
            quiet.quiet();
            tokio::join!(broker.leave(), tried.leave());
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
        self.core.store.stop_keeping();
        self.core.ending.cancel();
        drop(self.database);
        step("tasks end", spawn::join_all()).await;
        self.records.stop();
        let projector = self.projector;
        step("the record store catches up", async move {
            let _ = projector.send(StopProjector).await;
        })
        .await;
        let checkpoints = self.core.checkpoints;
        step("the log is signed", async move { checkpoints.sign().await }).await;
        let log = self.core.log;
        let closed = tokio::task::spawn_blocking(move || log.close(STEP_DEADLINE));
        step("the log is flushed", async move {
            let _ = closed.await;
        })
        .await;
        let deliveries = self.core.deliveries;
        step("the ledger closes", async move { deliveries.close().await }).await;
        step("the record store closes", async move {
            if let Err(error) = self.core.store.close().await {
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

/// Says so when a data folder that somebody else has made lets everybody in.
fn warn_of_readers(data_dir: &Path) {
    let mode = std::fs::metadata(data_dir).map(|about| about.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o005 != 0) {
        tracing::warn!(
            folder = %data_dir.display(),
            "every user of this machine can read the data folder, with hashes of passwords in it: \
             chmod o= it"
        );
    }
}
