//! Restores: that the log was put back from a backup, and up to where.

use serde::{Deserialize, Serialize};

/// That the log was put back from a backup. What had been behind that is not in it, and what comes behind
/// this event is another history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRestored {
    /// The backup's name, which says when it was made.
    pub backup: String,
    /// The last position that the backup had.
    pub head: u64,
    /// The last position that was put back.
    pub until: u64,
}
