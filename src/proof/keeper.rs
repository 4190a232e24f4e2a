//! Signs the end of the log while the server runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_actors::clock::{Clock, wait_since};
use skytrail_actors::log::EventLog;
use skytrail_schema::chain::ChainHash;
use skytrail_schema::time::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Checkpoint, LogKey, Notes};

/// How often a checkpoint is signed.
const PERIOD: Duration = Duration::from_secs(3600);

/// The state of the checkpoints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckpointState {
    /// The public key that the signatures are checked with.
    pub public_key: String,
    /// The last position that is known to be signed; 0 before the first signature since the start.
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
        loop {
            let since = self.clock.now();
            let pause = wait_since(&*self.clock, since, PERIOD);
            if ending.run_until_cancelled(pause).await.is_none() {
                return;
            }
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
        let place = (commit.last_position(), commit.chain);
        // An earlier process may have signed it.
        let last = self.notes.last().map_err(|error| error.to_string())?;
        if let Some(last) = last.filter(|last| self.has_signed(last, place)) {
            self.signed(last.position, last.time);
            return Ok(());
        }
        let checkpoint = self.key.sign(self.store_id, place, self.clock.now());
        self.notes
            .add(&checkpoint)
            .map_err(|error| error.to_string())?;
        // If the program's log is kept elsewhere, so is this checkpoint.
        let text = serde_json::to_string(&checkpoint).unwrap_or_default();
        tracing::info!(checkpoint = text, "the log is signed");
        self.signed(checkpoint.position, checkpoint.time);
        Ok(())
    }

    /// Returns whether a checkpoint of the file is this key's about a place in the log.
    fn has_signed(&self, note: &Checkpoint, (position, chain): (u64, ChainHash)) -> bool {
        note.is_signed_by(&self.key.public())
            && (note.store_id, note.position, note.chain) == (self.store_id, position, chain)
    }

    fn signed(&self, position: u64, time: Timestamp) {
        let mut state = self.state.lock();
        state.position = position;
        state.time = Some(time);
    }
}
