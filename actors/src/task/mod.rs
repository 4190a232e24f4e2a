//! Scheduled tasks: timers that plugins register, run when they are due.
//!
//! 1. [`Tasks`], one per app, hears of every change of what is registered and keeps a
//!    [`ScheduledTask`] for each timer.
//! 2. The [`Driver`] wakes a task in the second before the one in which the task may be due. The
//!    task then looks at its state in the log ([`TaskStates`]), at the due times of its spec
//!    ([`when`]), and decides what follows ([`decide`]). All of that is pure.
//! 3. A run is claimed first, by an event that names its due time. The log accepts only one claim
//!    per due time, whoever tries, unless the clock is set back by more than a minute. In that case
//!    a new schedule in the log starts the task afresh.
//! 4. Only then does the task ask the plugin, once. How the run ended is an event, too.
//!
//! So no due time is run twice, even if the process dies at the worst possible point: a claimed run
//! is never sent again. If nobody claimed a due time, because the server or the plugin was away, it
//! is made up for unless it is too old. Only the last due time is made up for.

mod actor;
mod decide;
mod driver;
mod messages;
mod run;
mod state;
mod states;
mod tasks;
mod when;
mod zone;

pub use actor::{ScheduledTask, TaskParts};
pub use driver::{CronDriver, Driver, DriverError, MAX_JOBS};
pub use messages::{
    GetReport, ListTasks, PauseTask, RunOutcome, RunReport, RunTask, Stop, TaskReport, Wake,
};
pub use state::{TaskRun, TaskState};
pub use states::TaskStates;
pub use tasks::{TaskSettings, Tasks};
pub use zone::Zone;
