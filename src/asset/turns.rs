//! Locks for files: an upload checks for existing bytes and puts its own in place under one lock.

use skytrail_schema::id::AssetName;
use tokio::sync::{Mutex, MutexGuard};

/// Names share locks, so that their number is fixed.
const NUM_TURNS: usize = 64;

/// See the module's overview.
pub struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self(
            std::iter::repeat_with(Mutex::default)
                .take(NUM_TURNS)
                .collect(),
        )
    }
}

impl Turns {
    /// Waits for the lock of a name, which is held until the returned guard is dropped.
    pub async fn take(&self, name: &AssetName) -> Option<MutexGuard<'_, ()>> {
        let hash = blake3::hash(name.as_str().as_bytes());
        let first = hash.as_bytes().first().copied().unwrap_or_default();
        let turn = self.0.get(usize::from(first) % NUM_TURNS)?;
        Some(turn.lock().await)
    }
}
