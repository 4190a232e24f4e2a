//! What the actors of tasks are told and asked, and what they answer.

use actix::Message;
use serde::{Serialize, Serializer};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::TaskTrigger;
use skytrail_schema::id::TaskId;
use skytrail_schema::time::Timestamp;

use crate::context::RequestContext;
use crate::plugin::{Overlap, Timer};

/// It may be time: look. Too many of them do no harm, and one that is lost is made up for by the
/// next.
#[derive(Clone, Copy, Debug)]
pub struct Wake;

impl Message for Wake {
    type Result = ();
}

/// Tells a task what its plugin has registered, and whether that has a worker.
#[derive(Clone, Debug)]
pub struct SetTimer {
    /// The timer.
    pub timer: Timer,
    /// Whether the plugin has a worker.
    pub is_attended: bool,
}

impl Message for SetTimer {
    type Result = ();
}

/// Begins no more runs. Replies when those that are under way have ended and the log has it.
#[derive(Clone, Copy, Debug)]
pub struct Stop;

impl Message for Stop {
    type Result = ();
}

/// Lists all tasks that are registered.
#[derive(Clone, Copy, Debug)]
pub struct ListTasks;

impl Message for ListTasks {
    type Result = Vec<TaskReport>;
}

/// Asks a task for its report.
#[derive(Clone, Copy, Debug)]
pub struct GetReport;

impl Message for GetReport {
    type Result = Option<TaskReport>;
}

/// Runs a task now, whatever its schedule says. Replies when the run has ended.
#[derive(Clone, Debug)]
pub struct RunTask {
    /// Which.
    pub id: TaskId,
    /// Who asks.
    pub context: RequestContext,
}

impl Message for RunTask {
    type Result = Result<TaskReport, ApiError>;
}

/// Lets a task rest, or run again. Replies when durable.
#[derive(Clone, Debug)]
pub struct PauseTask {
    /// Which.
    pub id: TaskId,
    /// Whether it is to rest.
    pub is_paused: bool,
    /// Who asks.
    pub context: RequestContext,
}

impl Message for PauseTask {
    type Result = Result<TaskReport, ApiError>;
}

/// A task as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    /// The plugin.
    pub plugin: String,
    /// The name.
    pub name: String,
    /// The spec, as it was registered.
    pub spec: String,
    /// The zone that it is read in.
    pub time_zone: String,
    /// What happens when it is due while a run is under way.
    pub overlap: Overlap,
    /// Whether it waits to be resumed.
    #[serde(rename = "paused")]
    pub is_paused: bool,
    /// Whether the plugin has a worker; without one nothing runs.
    #[serde(rename = "attended")]
    pub is_attended: bool,
    /// When it is due next; `None` for never, and while it is paused.
    pub next_run: Option<Timestamp>,
    /// When the oldest run began that is under way.
    pub running_since: Option<Timestamp>,
    /// The last run that began.
    pub last_run: Option<RunReport>,
    /// How many runs ended since the server's start.
    #[serde(rename = "runs")]
    pub num_runs: u64,
    /// How many of them failed.
    #[serde(rename = "failures")]
    pub num_failures: u64,
    /// How many times it was due while a run was under way.
    #[serde(rename = "skipped")]
    pub num_skipped: u64,
    /// How many times it was due and nobody saw to it in time.
    #[serde(rename = "missed")]
    pub num_missed: u64,
}

/// A run as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunReport {
    /// When it was due, or asked for.
    pub due: Timestamp,
    /// Why it began.
    pub trigger: TaskTrigger,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended, if that is known.
    pub ended_at: Option<Timestamp>,
    /// What became of it.
    pub outcome: RunOutcome,
    /// The error that it ended with. Its text is known only until the server ends.
    #[serde(
        serialize_with = "write_error",
        skip_serializing_if = "Option::is_none"
    )]
    pub error: Option<ApiError>,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// It is under way.
    Running,
    /// It ended well.
    Ok,
    /// It ended with an error.
    Failed,
    /// The server ended before it had noted the end; the run may have succeeded.
    Lost,
}

fn write_error<S: Serializer>(error: &Option<ApiError>, out: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ApiError::to_wire).serialize(out)
}
