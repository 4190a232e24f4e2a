//! Scheduled tasks: the timers that plugins register, run when they are due.
//!
//! 1. [`Tasks`], one per app, hears of every change of what is registered, and keeps a
//!    [`ScheduledTask`] for each timer.
//! 2. A task is woken in the second before the one in which it may be due ([`Driver`]), and looks:
//!    what the log says of it ([`TaskStates`]), what its spec says ([`when`](self::when)), and what follows
//!    ([`look`](self::look)) are pure.
//! 3. A run is claimed first: an event that says which due time it is for. The log takes one such
//!    event for a due time and no second one, whoever tries, as long as the clock is not put back by
//!    more than a minute: then a fresh schedule in the log says that it begins anew.
//! 4. Only then the plugin is asked, once. How the run ended is an event, too.
//!
//! So no due time is run twice, also when the process dies at the worst moment: a run that was
//! claimed is never sent again. What nobody claimed, because the server or the plugin was away, is
//! made up for if it is not too old; the last due time only.

mod actor;
mod driver;
mod look;
mod messages;
mod run;
mod state;
mod states;
mod tasks;
mod when;

pub use actor::{ScheduledTask, TaskParts};
pub use driver::{CronDriver, Driver, DriverError, MAX_JOBS};
pub use messages::{
    GetReport, ListTasks, PauseTask, RunOutcome, RunReport, RunTask, Stop, TaskReport, Wake,
};
pub use state::{TaskRun, TaskState};
pub use states::TaskStates;
pub use tasks::{TaskSettings, Tasks};
