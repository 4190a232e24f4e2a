//! The only place that knows all parts: it builds them, starts them, and stops them in order.

mod background;
mod core;
mod domain;
mod downstream;
mod http_server;
mod serve;
mod settings;
mod upkeep;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter};
use skytrail_actors::capture::CaptureSource as _;
use skytrail_actors::clock::SystemClock;
use skytrail_actors::log::journal::{JOURNAL_FOLDER, JournalOptions};
use skytrail_actors::log::{OpenedLog, Reserve};
use skytrail_actors::ops_store::OpsStoreError;
use skytrail_actors::plugin::RecentCalls;
use skytrail_actors::projector::{Projector, StopProjector};
use skytrail_actors::spawn;
use skytrail_actors::store::{RecordStore as _, StoreError};
use skytrail_actors::task::Stop;
use skytrail_schema::code::ApiError;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::core::erasures_of;
use self::core::{Core, Stored, WatchedReserve};
use self::domain::Domain;
use self::downstream::Downstream;
use self::http_server::{Backend, HttpServer};
pub use self::serve::{serve, serve_with};
use self::upkeep::Upkeep;
use crate::asset;
use crate::audit::AuditTrail;
use crate::config::{Config, Keys};
use crate::http::descriptors::{Descriptors, TooFew};
use crate::http::server;
use crate::ops_store;
use crate::plugin::TransportError;
use crate::proof::{NotOpened, open_signed};
use crate::push;
use crate::record_store::start::{ready_store, retry_while_unavailable};

/// How long each step of a shutdown may take.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// How long running requests have at a stop before plugins leave all the same.
const REQUESTS_DEADLINE: Duration = Duration::from_secs(7);
/// The process's exit code when the log can no longer vouch for what it wrote.
pub(crate) const EXIT_LOG_IN_DOUBT: i32 = 70;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There are too few file descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] NotOpened),
    /// The record store cannot be used.
    #[error("the record store cannot be used: {0}")]
    Store(String),
    /// The record store cannot be used for a temporary reason: its database is away or read-only,
    /// or another server uses it.
    #[error("the record store cannot be used: {0}")]
    StoreAway(String),
    /// The ops store cannot be opened.
    #[error(transparent)]
    OpsStore(#[from] ops_store::OpenError),
    /// The content of the ops store cannot be read.
    #[error(transparent)]
    OpsStoreContent(#[from] OpsStoreError),
    /// The store of files cannot be opened.
    #[error(transparent)]
    Files(#[from] asset::OpenError),
    /// A push service cannot be set up.
    #[error(transparent)]
    Push(#[from] push::OpenError),
    /// The connection to a plugin cannot be set up.
    #[error(transparent)]
    Plugin(#[from] TransportError),
    /// A file, a thread or the address cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The first events could not be written.
    #[error("installation failed: {0}")]
    Install(#[from] ApiError),
}

impl StartError {
    /// Creates an error from one of the operating system.
    fn io(what: &str) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let what = what.to_owned();
        move |source| Self::Io { what, source }
    }

    /// Classifies a failure of the record store for the start.
    pub(crate) fn store(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => Self::StoreAway(error.to_string()),
            _ => Self::Store(error.to_string()),
        }
    }
}

/// What every part needs to start.
struct StartContext<'a> {
    config: &'a Config,
    keys: &'a Keys,
    core: &'a Core,
    arbiters: &'a Arbiters,
}

/// The threads of the actors, apart from those of record types.
struct Arbiters {
    /// The projector, which feeds the record store: most reads wait for it.
    projector: Arbiter,
    /// Scheduled tasks.
    timers: Arbiter,
    /// Subscriptions.
    notices: Arbiter,
    /// Plugins' connections and hubs.
    connections: Arbiter,
    /// After-hooks.
    consumers: Arbiter,
    /// Push services.
    pushing: Arbiter,
    /// Live queries.
    listeners: Arbiter,
}

impl Arbiters {
    fn start() -> Self {
        Self {
            projector: Arbiter::new(),
            timers: Arbiter::new(),
            notices: Arbiter::new(),
            connections: Arbiter::new(),
            consumers: Arbiter::new(),
            pushing: Arbiter::new(),
            listeners: Arbiter::new(),
        }
    }

    fn stop(self) {
        let Self {
            projector,
            timers,
            notices,
            connections,
            consumers,
            pushing,
            listeners,
        } = self;
        let log_readers = [projector, timers, notices, consumers, listeners];
        for arbiter in log_readers.into_iter().chain([connections, pushing]) {
            arbiter.stop();
        }
    }
}

/// A running server.
pub struct Application {
    core: Core,
    arbiters: Arbiters,
    projector: Addr<Projector>,
    domain: Domain,
    downstream: Downstream,
    upkeep: Upkeep,
    server: HttpServer,
    /// Stops the empty database, which is for plugins without one of their own, when it is dropped.
    database: Option<DropGuard>,
    /// The address that it listens on.
    pub address: std::net::SocketAddr,
    /// The keys in use.
    pub keys: Keys,
}

impl Application {
    /// Builds all parts and starts them. The server accepts requests when this returns.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: &Config, door: &mut server::Door) -> Result<Self, StartError> {
        // Before anything is opened: the log keeps its files open.
        let log_files = journal_files(&config.data_dir);
        let descriptors = Descriptors::reserve(&config.http, log_files)?;
        let keys = Keys::load_or_make(config).map_err(StartError::io("the keys cannot be used"))?;
        // Before anything that would have to be stopped again.
        let audit = AuditTrail::start(&config.audit, Arc::new(SystemClock));
        let audit = audit.map_err(StartError::io("the audit trail cannot be written"))?;
        let journal = JournalOptions {
            segment_bytes: config.storage.segment_bytes,
            ..Default::default()
        };
        let opened = open_signed(&config.data_dir, journal)?;
        tracing::info!(report = ?opened.report(), "log opened");
        warn_of_readers(&config.data_dir);
        // Before the record store is opened, which needs space: on a full disk, the reserve is that
        // space.
        let ending = CancellationToken::new();
        let reserve = keep_reserve(config, &ending)?;
        let unless_started = ending.clone().drop_guard();
        let listen = config.http.listen;
        let taken = door.take(listen);
        let taken = taken.map_err(StartError::io(&format!("cannot listen on {listen}")));
        let (socket, address) = taken?;
        // Addresses of files must contain the real address of this server.
        let mut config = config.listening_at(address);
        let database = crate::plugin::open_database(&mut config).await;
        let database = database.map_err(StartError::io("the plugins' database cannot listen"))?;
        let (store, snapshot, behind_since) = ready_store(&config, &opened).await?;
        let store = Arc::new(store.answering_at_most(config.http.limits.page_bytes));
        let stored = (Arc::clone(&store), snapshot, behind_since);
        let started = async {
            // The store was closed to others if another one was in use; now it has caught up with
            // the log.
            retry_while_unavailable(async || store.open_to_others().await).await?;
            let watched = (reserve, ending);
            let entrance = (socket, descriptors);
            Self::build((&config, keys, audit), (opened, stored, watched), entrance).await
        };
        let started = started.await;
        if started.is_err() {
            // Not left to the end of the process, because the file's checksums have to be written.
            let _ = store.close().await;
        }
        let application = started?;
        unless_started.disarm();
        Ok(Self {
            database,
            ..application
        })
    }

    /// Starts the parts in order: the log, the projector, the parts that decide, those that process
    /// what is committed, those that look after the data, and the HTTP server.
    async fn build(
        (config, keys, audit): (&Config, Keys, AuditTrail),
        (opened, stored, watched): (OpenedLog, Stored, WatchedReserve),
        entrance: server::Entrance,
    ) -> Result<Self, StartError> {
        let core = Core::open(config, opened, stored, watched).await?;
        let arbiters = Arbiters::start();
        let on = StartContext {
            config,
            keys: &keys,
            core: &core,
            arbiters: &arbiters,
        };
        let (projector, applied) = downstream::project(&on);
        let domain = Domain::open(&on, applied).await?;
        let downstream = Downstream::start(&on, &domain).await?;
        let upkeep = Upkeep::start(&on, &domain, audit);
        let backend = Backend {
            projector: &projector,
            domain: &domain,
            downstream: &downstream,
            upkeep: &upkeep,
        };
        let server = HttpServer::open(&on, backend, entrance)?;
        upkeep.run(&on);
        // Plugins may call the server as soon as they are called.
        let reaching = (&arbiters.connections.handle(), &core.ending);
        crate::plugin::reach(config, &domain.broker, &server.api, reaching)?;
        Ok(Self {
            projector,
            domain,
            downstream,
            upkeep,
            server,
            database: None,
            address: config.http.listen,
            keys,
            core,
            arbiters,
        })
    }

    /// Waits until the HTTP server's threads have ended; returns why.
    async fn unreachable(&mut self) -> std::io::Error {
        let ended = (&mut self.server.serving).await;
        let ended = ended.map_err(std::io::Error::other).flatten();
        ended
            .err()
            .unwrap_or_else(|| std::io::Error::other("they were stopped"))
    }

    /// Returns the last calls of plugins.
    pub fn recent_calls(&self) -> &Arc<RecentCalls> {
        self.domain.broker.recent()
    }

    /// Stops in order: new requests are refused, running ones end, the log is flushed, the store
    /// gets a checkpoint. Each step has a deadline; unfinished work is in the log, and the next
    /// start completes it.
    pub async fn stop(self) {
        let Self {
            core,
            arbiters,
            projector,
            domain,
            downstream,
            upkeep,
            server,
            database,
            ..
        } = self;
        server.stopping.cancel();
        // Running requests may need their plugins, so plugins leave after them, and answer what
        // takes too long while its client is still connected. The door would wait for the workers'
        // sockets.
        let leaving = async {
            let begun = Instant::now();
            server.running.close();
            let _ = timeout(REQUESTS_DEADLINE, server.running.wait()).await;
            core.consumers.drain();
            let left = STEP_DEADLINE.saturating_sub(begun.elapsed() + Duration::from_secs(1));
            tokio::join!(domain.broker.leave(left), domain.tried.leave(left));
        };
        step("requests end", async {
            let _ = tokio::join!(server.http.stop(true), downstream.tasks.send(Stop), leaving);
        })
        .await;
        step("deliveries are kept", core.consumers.close()).await;
        step("pushes are sent", downstream.push.leave()).await;
        let audit = upkeep.audit;
        step_apart("the audit trail is written", move || audit.close()).await;
        core.store.stop_keeping();
        core.ending.cancel();
        drop(database);
        step("tasks end", spawn::join_all()).await;
        domain.records.stop();
        step("the record store catches up", async {
            let _ = projector.send(StopProjector).await;
        })
        .await;
        step("the log is signed", core.checkpoints.sign()).await;
        let log = core.log;
        step_apart("the log is flushed", move || log.close(STEP_DEADLINE)).await;
        step("ops.sqlite closes", core.ops_store.close()).await;
        step("the record store closes", async {
            if let Err(error) = core.store.close().await {
                tracing::warn!(%error, "the record store did not close cleanly");
            }
        })
        .await;
        arbiters.stop();
    }
}

async fn step(what: &'static str, work: impl Future<Output = ()>) {
    match timeout(STEP_DEADLINE, work).await {
        Ok(()) => tracing::info!(what, "stopping"),
        Err(_) => tracing::warn!(what, "stopping: not done in time, continuing"),
    }
}

/// Runs a blocking step on a thread of its own.
async fn step_apart<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) {
    let done = tokio::task::spawn_blocking(work);
    step(what, async {
        let _ = done.await;
    })
    .await;
}

/// Returns how many files the journal has.
fn journal_files(data_dir: &Path) -> usize {
    let entries = std::fs::read_dir(data_dir.join(JOURNAL_FOLDER));
    entries.map_or(0, Iterator::count)
}

/// Creates the disk's reserve, or takes over the existing one, and looks after it until the end.
fn keep_reserve(config: &Config, ending: &CancellationToken) -> Result<Arc<Reserve>, StartError> {
    let reserve = Reserve::new(&config.data_dir, config.storage.disk_reserve_bytes);
    let reserve = reserve.map_err(StartError::io("the disk's reserve cannot be created"))?;
    let reserve = Arc::new(reserve);
    let tended = background::tend(Arc::clone(&reserve), ending.clone());
    spawn::spawn_named("disk reserve", tended);
    Ok(reserve)
}

/// Warns if a data folder that somebody else created is readable by everyone.
fn warn_of_readers(data_dir: &Path) {
    let mode = std::fs::metadata(data_dir).map(|about| about.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o005 != 0) {
        tracing::warn!(
            folder = %data_dir.display(),
            "every user of this machine can read the data folder and its password hashes: \
             chmod o= it"
        );
    }
}
