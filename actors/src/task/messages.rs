//! The messages to the actors of tasks, and their answers.

use actix::Message;
use serde::{Serialize, Serializer};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::TaskTrigger;
use skytrail_schema::id::TaskId;
use skytrail_schema::time::Timestamp;

use crate::context::RequestContext;
use crate::plugin::{Overlap, Timer};

/// The task may be due: evaluate it. Too many of these do no harm, and a lost one is made up for by the
/// next.
#[derive(Clone, Copy, Debug)]
pub struct Wake;

impl Message for Wake {
    type Result = ();
}

/// Tells a task what its plugin has registered, and whether the plugin has a worker.
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

/// Begins no more runs. Replies once the runs under way have ended and their ends are in the log.
#[derive(Clone, Copy, Debug)]
pub struct Stop;

impl Message for Stop {
    type Result = ();
}

/// Lists all registered tasks.
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

/// Runs a task now, whatever its schedule says. Replies once the run has ended.
#[derive(Clone, Debug)]
pub struct RunTask {
    /// The task.
    pub id: TaskId,
    /// Who asks.
    pub context: RequestContext,
}

impl Message for RunTask {
    type Result = Result<TaskReport, ApiError>;
}

/// Pauses or resumes a task. Replies once that is durable.
#[derive(Clone, Debug)]
pub struct PauseTask {
    /// The task.
    pub id: TaskId,
    /// Whether it is to pause.
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
    /// What happens if it is due while a run is under way.
    pub overlap: Overlap,
    /// Whether it is paused.
    #[serde(rename = "paused")]
    pub is_paused: bool,
    /// Whether the plugin has a worker; without one nothing runs.
    #[serde(rename = "attended")]
    pub is_attended: bool,
    /// When it is due next; `None` if never, and while it is paused.
    pub next_run: Option<Timestamp>,
    /// When the oldest run under way began.
    pub running_since: Option<Timestamp>,
    /// The run that began last.
    pub last_run: Option<RunReport>,
    /// How many runs have ended since the server started.
    #[serde(rename = "runs")]
    pub num_runs: u64,
    /// How many of them failed.
    #[serde(rename = "failures")]
    pub num_failures: u64,
    /// How often it was due while a run was under way.
    #[serde(rename = "skipped")]
    pub num_skipped: u64,
    /// How often it was due and was not handled in time.
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
    /// How it ended, or that it has not.
    pub outcome: RunOutcome,
    /// The error that it ended with. Its text is known only until the server stops.
    #[serde(
        serialize_with = "write_error",
        skip_serializing_if = "Option::is_none"
    )]
    pub error: Option<ApiError>,
}

/// How a run ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// It is under way.
    Running,
    /// It succeeded.
    Ok,
    /// It ended with an error.
    Failed,
    /// The server stopped before it had noted the end; the run may have succeeded.
    Lost,
}

fn write_error<S: Serializer>(error: &Option<ApiError>, out: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ApiError::to_wire).serialize(out)
}
