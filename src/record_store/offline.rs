//! The log and the record store without a server, for commands that write while none is running.
//!
//! The log's lock is held meanwhile, so no server can start; a running server keeps the command
//! out.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor as _, Addr};
use skytrail_actors::asset::AssetCatalog;
use skytrail_actors::capture::{CaptureGate, CaptureSource, Captures};
use skytrail_actors::clock::{Clock, SystemClock};
use skytrail_actors::delivery::consumers::Consumers;
use skytrail_actors::device::DeviceStore;
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::log::{Backlog, EmbeddedLog, LagBound, LogOptions};
use skytrail_actors::plugin::NoPlugins;
use skytrail_actors::projector::{AppliedSender, Projector, ProjectorParts, StopProjector};
use skytrail_actors::record::env::RecordEnv;
use skytrail_actors::record::fence::Fences;
use skytrail_actors::record::write_model::WriteModel;
use skytrail_actors::store::RecordStore;

use crate::app::{EXIT_LOG_IN_DOUBT, erasures_of};
use crate::asset::Files;
use crate::config::{Config, Keys};
use crate::proof::open_signed;
use crate::record_store::moved;
use crate::record_store::start::ready_store;

/// How long the log may take to write what it still holds.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// See the module's overview.
pub(crate) struct Offline {
    /// What reading and writing needs; there are no plugins.
    pub(crate) env: RecordEnv,
    /// The store's port for devices.
    pub(crate) devices: Arc<dyn DeviceStore>,
    /// The file store.
    pub(crate) files: Files,
    captured: Option<Arc<dyn CaptureSource>>,
    log: Arc<EmbeddedLog>,
    projector: Addr<Projector>,
}

impl Offline {
    /// Opens what is in the data folder, or creates it. Needs an actor system.
    ///
    /// # Errors
    /// Returns a sentence: a server is running, or something cannot be used.
    pub(crate) async fn open(config: &Config) -> Result<Self, String> {
        let config = moved::with_moved_store(config).map_err(|error| error.to_string())?;
        let offline = Self::open_with(&config).await?;
        if let Some(captured) = &offline.captured {
            let opened = captured.open_to_others().await;
            opened.map_err(|error| error.to_string())?;
        }
        Ok(offline)
    }

    /// Like [`Offline::open`], with the record store that the settings name. A store that is closed
    /// to other programs stays closed.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn open_with(config: &Config) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let journal = JournalOptions {
            segment_bytes: config.storage.segment_bytes,
            ..JournalOptions::default()
        };
        let opened = open_signed(&config.data_dir, journal).map_err(|error| text(&error))?;
        let keys = Keys::load_or_make(config).map_err(|error| text(&error))?;
        let ready = ready_store(config, &opened).await;
        let (store, snapshot, _) = ready.map_err(|error| text(&error))?;
        let store = Arc::new(store);
        let backlog = Arc::new(Backlog::new(LagBound::NONE));
        let model = WriteModel::new(&snapshot, config.storage.head_cache_bytes);
        let model = Arc::new(model.with_backlog(Arc::clone(&backlog)));
        let erasures = erasures_of(&store, &opened).await;
        let erasures = erasures.map_err(|error| text(&error))?;
        let sequences = snapshot.sequences.into_iter();
        let sequences = sequences.map(|(name, field, last)| ((name, field), last));
        let now = Arc::clone(&clock);
        let options = LogOptions {
            sled_cache_bytes: config.storage.sled_cache_bytes,
            erasures: Arc::clone(&erasures),
            backlog: Some(backlog),
            ..LogOptions::new(Arc::new(move || now.now()), Arc::new(in_doubt))
        };
        let observers = vec![Arc::clone(&model) as _];
        let log = opened.start(options, observers, sequences.collect());
        let log = Arc::new(log.map_err(|error| text(&error))?);
        let sender = AppliedSender::new(snapshot.checkpoint);
        let applied = sender.subscribe();
        let projector = Projector::new(ProjectorParts {
            log: Arc::clone(&log) as _,
            store: Arc::clone(&store) as _,
            model: Arc::clone(&model),
            applied: sender,
        });
        let files = Files::open(config, &keys.asset_secret, Arc::clone(&clock)).await;
        let files = files.map_err(|error| text(&error))?;
        let assets = AssetCatalog {
            store: Arc::clone(&store) as _,
            model: Arc::clone(&model),
            applied: applied.clone(),
            urls: Arc::clone(&files.urls),
            erasures,
        };
        Ok(Self {
            env: RecordEnv {
                log: Arc::clone(&log) as _,
                store: Arc::clone(&store) as _,
                model,
                applied,
                assets,
                plugins: Arc::new(NoPlugins::default()),
                consumers: Consumers::default(),
                captured: CaptureGate::default(),
                fences: Fences::default(),
                clock,
                max_included_bytes: config.http.limits.included_bytes,
                max_page_bytes: config.http.limits.page_bytes,
            },
            captured: config.database.as_ref().map(|_| Arc::clone(&store) as _),
            devices: store,
            files,
            log,
            projector: projector.start(),
        })
    }

    /// Closes the store to other programs that can write to it, and writes their remaining changes
    /// to the log.
    ///
    /// # Errors
    /// Returns a sentence: a change could not be written to the log. No change is lost.
    pub(crate) async fn ingest_remaining(&self) -> Result<(), String> {
        let Some(captured) = &self.captured else {
            return Ok(());
        };
        let captures = Captures::new(self.env.clone(), Arc::clone(captured), false);
        let closed = captures.close().await;
        closed.map_err(|error| format!("changes made by SQL are not imported: {error}"))
    }

    /// Brings the store up to the log, and closes both.
    ///
    /// # Errors
    /// Returns a sentence: the store did not close cleanly.
    pub(crate) async fn close(self) -> Result<(), String> {
        // As when the server stops: what is not applied yet is in the log, and the next start
        // applies it.
        let _ = self.projector.send(StopProjector).await;
        let log = self.log;
        let closed = tokio::task::spawn_blocking(move || log.close(CLOSE_DEADLINE));
        let _ = closed.await;
        let closed = RecordStore::close(self.env.store.as_ref()).await;
        closed.map_err(|error| error.to_string())
    }
}

fn in_doubt(doubt: &str) {
    tracing::error!(
        doubt,
        "the log can no longer vouch for what it wrote; exiting"
    );
    std::process::exit(EXIT_LOG_IN_DOUBT);
}
