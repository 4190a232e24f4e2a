//! The log, and the state that follows from it before any client is served.

use std::io;
use std::path::Path;
use std::sync::Arc;

use skytrail_actors::clock::{Clock, SystemClock};
use skytrail_actors::delivery::consumers::Consumers;
use skytrail_actors::device::DeviceStore as _;
use skytrail_actors::log::{
    Backlog, EmbeddedLog, Erasures, LogOptions, OpenedLog, Reserve, Timeline,
};
use skytrail_actors::record::write_model::WriteModel;
use skytrail_actors::store::{RecordStore as _, Snapshot, StoreError};
use skytrail_actors::subscription::Subscriptions;
use skytrail_actors::task::TaskStates;
use skytrail_schema::event::EventKind;
use tokio_util::sync::CancellationToken;

use super::{StartError, settings};
use crate::causes::with_causes;
use crate::config::Config;
use crate::ops_store::{OPS_STORE_FILE, OpsStore};
use crate::projection::SqlStore;
use crate::proof::{Checkpoints, LogKey};

/// The parts that all others are built on.
pub(super) struct Core {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) log: Arc<EmbeddedLog>,
    pub(super) timeline: Timeline,
    pub(super) store: Arc<SqlStore>,
    /// The store's position when the log was started.
    pub(super) checkpoint: u64,
    /// The store may have what was erased after this position.
    pub(super) behind_since: u64,
    pub(super) model: Arc<WriteModel>,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) tasks: Arc<TaskStates>,
    pub(super) consumers: Consumers,
    pub(super) ops_store: Arc<OpsStore>,
    pub(super) checkpoints: Arc<Checkpoints>,
    /// Answers that wait for something are given without it.
    pub(super) stopping: CancellationToken,
    /// What works on its own ends.
    pub(super) ending: CancellationToken,
    pub(super) erasures: Arc<Erasures>,
    pub(super) reserve: Arc<Reserve>,
}

/// The record store, its content at the log's end, and the position after which it may have what was
/// erased.
pub(super) type Stored = (Arc<SqlStore>, Snapshot, u64);

/// The disk's reserve, which is looked after until the token is cancelled.
pub(super) type WatchedReserve = (Arc<Reserve>, CancellationToken);

impl Core {
    /// Starts the log; everything that is decided by what was written is as of its head.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(super) async fn open(
        config: &Config,
        opened: OpenedLog,
        (store, snapshot, behind_since): Stored,
        (reserve, ending): WatchedReserve,
    ) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let cached = config.storage.head_cache_bytes;
        let backlog = Arc::new(Backlog::new(config.storage.store_lag));
        let model = WriteModel::new(&snapshot, cached).with_backlog(Arc::clone(&backlog));
        let model = model.guarding(
            config.app.auth_record_keys.clone(),
            config.app.verify_required,
        );
        let model = Arc::new(model);
        let failed = |error: StoreError| StartError::store(&error);
        let subscriptions = store.load_subscriptions().await.map_err(failed)?;
        let subscriptions = Arc::new(Subscriptions::new(subscriptions));
        let stored_tasks = store.load_tasks().await.map_err(failed)?;
        let tasks = Arc::new(TaskStates::new(snapshot.checkpoint, stored_tasks));
        let consumers = Consumers::default();
        let timeline = Timeline::of(&config.data_dir);
        let timeline = timeline.map_err(StartError::io("the data folder"))?;
        let ops_store = OpsStore::open(&config.data_dir.join(OPS_STORE_FILE), clock.now()).await?;
        let erasures = erasures_of(&store, &opened).await?;
        let options = LogOptions {
            backlog: Some(backlog),
            erasures: Arc::clone(&erasures),
            ..settings::log(config, &clock, Arc::clone(&reserve))
        };
        let store_id = opened.store_id();
        let unusable = StartError::io("the log's key cannot be used");
        let log_key = open_key(&config.data_dir, opened.report().head).map_err(unusable)?;
        let sequences = snapshot.sequences.into_iter();
        let log = opened.start(
            options,
            vec![
                Arc::clone(&model) as _,
                Arc::clone(&subscriptions) as _,
                Arc::clone(&tasks) as _,
            ],
            sequences
                .map(|(name, field, last)| ((name, field), last))
                .collect(),
        );
        let log = log.map_err(StartError::io("the log's threads cannot be started"))?;
        let log = Arc::new(log);
        let checkpoints = Checkpoints::new(
            (Arc::clone(&log) as _, store_id),
            log_key,
            &config.data_dir,
            Arc::clone(&clock),
        );
        Ok(Self {
            clock,
            log,
            timeline,
            store,
            checkpoint: snapshot.checkpoint,
            behind_since,
            model,
            subscriptions,
            tasks,
            consumers,
            ops_store: Arc::new(ops_store),
            checkpoints: Arc::new(checkpoints),
            stopping: CancellationToken::new(),
            ending,
            erasures,
            reserve,
        })
    }
}

/// Finds the erasures in the log, finished or not.
///
/// # Errors
/// See [`StartError`].
pub(crate) async fn erasures_of(
    store: &SqlStore,
    log: &OpenedLog,
) -> Result<Arc<Erasures>, StartError> {
    let erasures = Erasures::default();
    let head = log.report().head;
    for kind in [EventKind::ErasureRequested, EventKind::ErasureFinished] {
        let positions = store.list_positions_of_kind(kind, 1, head).await;
        for position in positions.map_err(|error| StartError::store(&error))? {
            let commits = log.segments().read(position, 1);
            for commit in commits.map_err(|error| StartError::Store(with_causes(&error)))? {
                let mut events = commit.events.iter();
                if let Some(event) = events.find(|event| event.position == position) {
                    erasures.learn(&commit, event);
                }
            }
        }
    }
    Ok(Arc::new(erasures))
}

/// Opens the key that signs the log. If a new key is created for a log that already has events, the
/// old one was lost, and a warning is logged.
fn open_key(data_dir: &Path, head: u64) -> io::Result<LogKey> {
    if head > 0 && LogKey::load(data_dir)?.is_none() {
        tracing::warn!(
            "log.key is missing: a new one is created, and `skytrail log verify` rejects \
             checkpoints signed with the lost one; restore log.key from a backup"
        );
    }
    LogKey::load_or_make(data_dir)
}
