//! What happens to scheduled tasks. When a task runs is decided by its spec; the log has which of
//! these times were taken, so that none is taken twice.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// When a task runs from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSchedule {
    /// The spec, as the plugin registered it.
    pub spec: String,
    /// The time zone that it is read in, by its IANA name.
    pub zone: String,
    /// Since when: intervals count from here, and nothing before is due.
    pub since: Timestamp,
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskTrigger {
    /// It was due.
    Schedule,
    /// Somebody asked for it.
    Manual,
}

impl TaskTrigger {
    /// Whether it is the schedule: the common case, which is not written.
    fn is_schedule(&self) -> bool {
        *self == Self::Schedule
    }

    fn schedule() -> Self {
        Self::Schedule
    }
}

/// A run that begins. Its commit is there before the plugin hears of it, and its time is when the
/// run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskClaim {
    /// When it was due; with a manual one when it was asked for.
    pub due: Timestamp,
    /// Why it began.
    #[serde(
        default = "TaskTrigger::schedule",
        skip_serializing_if = "TaskTrigger::is_schedule"
    )]
    pub trigger: TaskTrigger,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// The run: its [`TaskClaim::due`].
    pub due: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    /// The code of the error that it ended with, if it did. The text is the plugin's own and stays
    /// out of the log: nobody knows what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<i64>,
}
