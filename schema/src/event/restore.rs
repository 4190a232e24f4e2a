//! Restores of the log from a backup, and up to which position.

use serde::{Deserialize, Serialize};

/// The log was restored from a backup. What followed `until` before is not in it, and what follows
/// this event is a different history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRestored {
    /// The backup's name, which contains the time of the backup.
    pub backup: String,
    /// The last position in the backup.
    pub head: u64,
    /// The last position that was restored.
    pub until: u64,
}
