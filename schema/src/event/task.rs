//! What happens to scheduled tasks. A task's spec decides when it runs. The log records which of
//! these times were claimed, so that none is claimed twice.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// When a task runs from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSchedule {
    /// The spec, as the plugin registered it.
    pub spec: String,
    /// The time zone of the spec, by its IANA name.
    pub zone: String,
    /// When the schedule starts: intervals count from here, and nothing earlier is due.
    pub since: Timestamp,
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskTrigger {
    /// It was due.
    Schedule,
    /// Somebody requested it.
    Manual,
}

impl TaskTrigger {
    /// Returns whether it is the schedule. That is the common case, which is not written.
    fn is_schedule(&self) -> bool {
        *self == Self::Schedule
    }

    fn schedule() -> Self {
        Self::Schedule
    }
}

/// A run that begins. The commit is in the log before the plugin is told, and its time is when the
/// run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskClaim {
    /// When it was due; for a manual run, when it was requested.
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
    /// The run, by its [`TaskClaim::due`].
    pub due: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    /// The code of the error with which it ended, if it failed. The message is the plugin's own and
    /// stays out of the log, because it can contain anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<i64>,
}
