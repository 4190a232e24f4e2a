//! Signs the end of the log while the server runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_actors::clock::Clock;
use skytrail_actors::log::EventLog;
use skytrail_schema::time::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{LogKey, Notes};

/// How often a checkpoint is signed.
const PERIOD: Duration = Duration::from_secs(3600);

/// The state of the checkpoints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckpointState {
    /// The public key that the signatures are checked with.
    pub public_key: String,
    /// The last position that was signed since the start.
    pub position: u64,
    /// The time of that signature.
    pub time: Option<Timestamp>,
    /// The number of checkpoints that could not be written since the start.
    pub num_failed: u64,
}

/// See the module's overview.
pub struct Checkpoints {
    log: Arc<dyn EventLog>,
    store_id: Uuid,
    key: LogKey,
    notes: Notes,
    clock: Arc<dyn Clock>,
    state: Mutex<CheckpointState>,
}

impl Checkpoints {
    /// Signs a log with a key; writes the checkpoints to the data folder.
    pub fn new(
        (log, store_id): (Arc<dyn EventLog>, Uuid),
        key: LogKey,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let state = CheckpointState {
            public_key: key.public_text(),
            ..CheckpointState::default()
        };
        Self {
            log,
            store_id,
            key,
            notes: Notes::of(data_dir),
            clock,
            state: Mutex::new(state),
        }
    }

    /// Returns the state.
    pub fn state(&self) -> CheckpointState {
        self.state.lock().clone()
    }

    /// Signs once an hour until the server stops.
    pub async fn run(self: Arc<Self>, ending: CancellationToken) {
        let pause = || ending.run_until_cancelled(tokio::time::sleep(PERIOD));
        while pause().await.is_some() {
            self.sign().await;
        }
    }

    /// Signs the end of the log, unless it is the position that was last signed.
    pub async fn sign(&self) {
        let head = self.log.head();
        if head == self.state.lock().position {
            return;
        }
        if let Err(error) = self.sign_at(head).await {
            tracing::error!(%error, "no checkpoint of the log was written");
            self.state.lock().num_failed += 1;
        }
    }

    async fn sign_at(&self, head: u64) -> Result<(), String> {
        let commits = self.log.read(head, 1).await;
        let commits = commits.map_err(|error| error.to_string())?;
        let commit = commits.last().ok_or("the log has no last commit")?;
        let (position, time) = (commit.last_position(), self.clock.now());
        let checkpoint = self.key.sign(self.store_id, (position, commit.chain), time);
        self.notes
            .add(&checkpoint)
            .map_err(|error| error.to_string())?;
        // If the program's log is kept elsewhere, so is this checkpoint.
        let text = serde_json::to_string(&checkpoint).unwrap_or_default();
        tracing::info!(checkpoint = text, "the log is signed");
        let mut state = self.state.lock();
        state.position = position;
        state.time = Some(time);
        Ok(())
    }
}
