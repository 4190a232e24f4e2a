//! One task: wakes up, decides, runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture,
    SpawnHandle,
};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, NoDetails, TaskEnd, TaskSchedule};
use skytrail_schema::id::TaskId;
use skytrail_schema::time::Timestamp;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::decide::{Now, TaskInput};
use super::driver::{Driver, seconds_before};
use super::messages::{GetReport, PauseTask, RunTask, SetTimer, Stop, TaskReport, Wake};
use super::state::SMALL_STEP;
use super::states::TaskStates;
use super::tasks::TaskSettings;
use super::zone::Zone;
use crate::clock::Clock;
use crate::context::RequestContext;
use crate::log::EventLog;
use crate::plugin::timer_spec::TimerSpec;
use crate::plugin::{Overlap, PluginGate, Timer};

/// How long before a due time the actor waits for it on its own timer. The wake-up call arrives in
/// the second before the due time.
const LEAD: Duration = Duration::from_millis(1500);
/// The pause before a failed attempt to set the schedule is repeated.
const PAUSE: Duration = Duration::from_secs(1);
/// How many runs of one task can be under way if they may overlap.
const MAX_RUNS: usize = 16;
/// How many wake-up calls and questions can wait.
const MAILBOX: usize = 64;

/// What tasks work with.
pub struct TaskParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The state of the tasks in the log; one of the log's observers.
    pub states: Arc<TaskStates>,
    /// The plugins.
    pub plugins: Arc<dyn PluginGate>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Wakes tasks.
    pub driver: Arc<dyn Driver>,
    /// How tasks are run.
    pub settings: TaskSettings,
}

/// A job of the driver: the seconds in which it wakes the task, and its id.
type Job = (u64, Uuid);
/// Answers the caller who asked for a run.
pub(super) type Reply = oneshot::Sender<Result<TaskReport, ApiError>>;

/// See the module's overview.
pub struct ScheduledTask {
    pub(super) id: TaskId,
    pub(super) parts: Arc<TaskParts>,
    pub(super) timer: Timer,
    pub(super) is_attended: bool,
    /// Everything due up to here has been handled in this process.
    pub(super) passed: Timestamp,
    pub(super) next: Option<Timestamp>,
    /// The runs under way: when they were due, and when they began.
    pub(super) runs: BTreeMap<Timestamp, Timestamp>,
    /// Ends of runs that will be written to the log together with the next claim.
    pub(super) unwritten: Vec<TaskEnd>,
    /// Ends of runs that are being written to the log.
    pub(super) writing: Vec<TaskEnd>,
    /// The last error as the plugin reported it, and the due time of its run.
    pub(super) last_error: Option<(Timestamp, ApiError)>,
    pub(super) tally: Tally,
    pub(super) num_writing: usize,
    job: Option<Job>,
    /// Whether the driver may be waiting for a time that it has already seen.
    is_job_stale: bool,
    /// The latest time seen since the clock was set back.
    latest: Timestamp,
    setting: Setting,
    armed: Option<SpawnHandle>,
    leaving: Option<Vec<oneshot::Sender<()>>>,
    /// Cancelled when the task is to end: runs then stop waiting for the plugin.
    pub(super) ending: CancellationToken,
}

/// What has happened since the server started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) runs: u64,
    pub(super) failures: u64,
    pub(super) skipped: u64,
    pub(super) missed: u64,
}

/// Whether the log and the driver know the timer as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// They know it.
    Done,
    /// They are being told.
    UnderWay,
    /// They are being told of a timer that has changed since.
    Outdated,
}

impl ScheduledTask {
    /// Builds the actor of a timer.
    pub fn new(parts: Arc<TaskParts>, timer: Timer, is_attended: bool) -> Self {
        // Without catching up, nothing that was due before this process started is run.
        let passed = if parts.settings.catch_up.is_zero() {
            parts.clock.now()
        } else {
            Timestamp::default()
        };
        Self {
            id: timer.id.clone(),
            parts,
            timer,
            is_attended,
            passed,
            next: None,
            runs: BTreeMap::new(),
            unwritten: Vec::new(),
            writing: Vec::new(),
            last_error: None,
            tally: Tally::default(),
            num_writing: 0,
            job: None,
            is_job_stale: false,
            latest: Timestamp::default(),
            setting: Setting::Done,
            armed: None,
            leaving: None,
            ending: CancellationToken::new(),
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether another run has to wait.
    pub(super) fn is_busy(&self) -> bool {
        match self.timer.overlap {
            Overlap::Skip => !self.runs.is_empty(),
            Overlap::Allow => self.runs.len() >= self.max_overlapping(),
        }
    }

    /// Returns how many runs can be under way. More than the plugin accepts at once would only
    /// wait.
    fn max_overlapping(&self) -> usize {
        if !self.is_attended {
            return MAX_RUNS;
        }
        let presence = self.parts.plugins.presence(&self.id.plugin);
        presence.window_for_timers().min(MAX_RUNS)
    }

    /// Makes sure that the log and the driver know the timer as it is.
    fn set(&mut self, ctx: &mut Context<Self>) {
        if self.setting != Setting::Done {
            self.setting = Setting::Outdated;
            return;
        }
        self.setting = Setting::UnderWay;
        let parts = Arc::clone(&self.parts);
        let is_stale = std::mem::take(&mut self.is_job_stale);
        let registered = tell(
            parts,
            self.timer.clone(),
            (self.job, is_stale),
            ctx.address(),
        );
        let registered = wrap_future(registered).map(move |registered, this: &mut Self, ctx| {
            this.is_job_stale |= is_stale && registered.is_err();
            this.handle_registered(registered, ctx);
        });
        ctx.spawn(registered);
    }

    fn handle_registered(&mut self, registered: Result<Job, String>, ctx: &mut Context<Self>) {
        let is_outdated = self.setting == Setting::Outdated;
        self.setting = Setting::Done;
        match registered {
            Ok(job) => self.job = Some(job),
            Err(error) => {
                tracing::warn!(task = %self.id, error, "task not scheduled yet");
                ctx.run_later(PAUSE, |this, ctx| this.set(ctx));
                return self.leave_if_done(ctx);
            }
        }
        if is_outdated {
            return self.set(ctx);
        }
        tracing::info!(task = %self.id, spec = self.timer.spec_text, "task scheduled");
        self.evaluate(ctx);
        self.leave_if_done(ctx);
    }

    /// Decides what has to be done now, and does it.
    pub(super) fn evaluate(&mut self, ctx: &mut Context<Self>) {
        let now = self.parts.clock.now();
        self.notice(now);
        if self.setting != Setting::Done || self.job.is_none() || self.is_leaving() {
            return;
        }
        if self.is_job_stale {
            return self.set(ctx);
        }
        let (_, state) = self.parts.states.read(&self.id);
        let input = TaskInput {
            spec: &self.timer.spec,
            zone: self.zone(),
            state: &state,
            passed: self.passed,
            catch_up: self.parts.settings.catch_up,
            is_busy: self.is_busy(),
            is_attended: self.is_attended,
        };
        let decision = input.decide(now);
        let passed_before = self.passed;
        self.passed = decision.passed.unwrap_or(self.passed);
        self.next = decision.next;
        self.tally.skipped += decision.num_skipped;
        self.tally.missed += decision.num_missed;
        if decision.is_clock_set_back {
            return self.set(ctx);
        }
        if decision.num_skipped > 0 {
            tracing::warn!(task = %self.id, "skipped: the previous run has not ended");
        }
        if decision.num_missed > 0 {
            tracing::warn!(task = %self.id, "missed: it was not started in time");
        }
        if let Some(due) = decision.run {
            self.begin_due(due, passed_before, ctx);
        }
        self.write_old_ends(now, ctx);
        self.arm(now, ctx);
    }

    /// Notices that the clock was set back.
    fn notice(&mut self, now: Timestamp) {
        if self.latest.micros() > now.micros().saturating_add(SMALL_STEP) {
            tracing::warn!(task = %self.id, was = %self.latest, "the clock was set back");
            self.is_job_stale = true;
            self.latest = now;
        }
        self.latest = self.latest.max(now);
    }

    /// Waits for the next due time if it is near.
    fn arm(&mut self, now: Timestamp, ctx: &mut Context<Self>) {
        if let Some(armed) = self.armed.take() {
            ctx.cancel_future(armed);
        }
        let wait = self.next.map(|next| until(now, next));
        if let Some(wait) = wait.filter(|wait| *wait <= LEAD) {
            let armed = ctx.run_later(wait, |this, ctx| {
                this.armed = None;
                this.evaluate(ctx);
            });
            self.armed = Some(armed);
        }
    }

    pub(super) fn zone(&self) -> &Zone {
        zone_of(&self.timer, &self.parts)
    }

    /// Stops the actor if it is to end and has nothing under way.
    pub(super) fn leave_if_done(&mut self, ctx: &mut Context<Self>) {
        let is_idle = self.runs.is_empty() && self.num_writing == 0;
        if !self.is_leaving() || !is_idle || self.setting != Setting::Done {
            return;
        }
        if !self.unwritten.is_empty() {
            return self.write_ends(None, ctx);
        }
        let waiting = self.leaving.replace(Vec::new()).unwrap_or_default();
        let (driver, job) = (Arc::clone(&self.parts.driver), self.job.take());
        let gone = async move {
            if let Some((_, job)) = job {
                driver.remove(job).await;
            }
            for waiting in waiting {
                let _ = waiting.send(());
            }
        };
        ctx.wait(wrap_future(gone).map(|(), _: &mut Self, ctx: &mut Context<Self>| ctx.stop()));
    }
}

/// Returns the zone in which a timer's spec is read.
fn zone_of<'a>(timer: &'a Timer, parts: &'a TaskParts) -> &'a Zone {
    timer.zone.as_ref().unwrap_or(&parts.settings.zone)
}

/// Returns how long it is from one time to another; zero if the other is past.
pub(super) fn until(now: Timestamp, then: Timestamp) -> Duration {
    let micros = then.micros().saturating_sub(now.micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// Tells the log and then the driver of the timer's schedule. Returns the driver's job.
///
/// Nothing is appended to the log if it has the schedule already, unless that was set by a clock
/// that was ahead.
async fn tell(
    parts: Arc<TaskParts>,
    timer: Timer,
    (job, is_stale): (Option<Job>, bool),
    task: actix::Addr<ScheduledTask>,
) -> Result<Job, String> {
    let zone = zone_of(&timer, &parts);
    let decide = |state: &super::TaskState| {
        let is_scheduled = state.schedule.as_ref().is_some_and(|schedule| {
            schedule.zone == zone.name()
                && TimerSpec::parse(&schedule.spec).as_ref() == Ok(&timer.spec)
        });
        let now = parts.clock.now();
        let is_clock_set_back = state.schedule.as_ref().is_some_and(|schedule| {
            let moment = Now {
                spec: &timer.spec,
                zone,
                since: schedule.since,
                now,
            };
            moment.is_clock_set_back(state.settled.unwrap_or(schedule.since))
        });
        if is_clock_set_back {
            let settled = state.settled;
            tracing::warn!(task = %timer.id, ?settled, "the clock was ahead: continuing from now");
        }
        let schedule = TaskSchedule {
            spec: timer.spec_text.clone(),
            zone: zone.name().to_owned(),
            since: now,
        };
        let is_new =
            (!is_scheduled || is_clock_set_back).then_some(EventBody::TaskScheduled(schedule));
        is_new.into_iter().collect()
    };
    let context = RequestContext::system();
    let (states, log) = (&parts.states, &parts.log);
    let appended = states.append(log, &timer.id, &context, decide).await;
    appended.map_err(|error| error.message)?;
    let (_, state) = states.read(&timer.id);
    let since = state.schedule.map(|schedule| schedule.since);
    let seconds = seconds_before(timer.spec.due_seconds(since.unwrap_or_default()));
    match job {
        Some((known, id)) if known == seconds && !is_stale => Ok((known, id)),
        _ => {
            let added = parts.driver.add(seconds, task.recipient()).await;
            let added = added.map_err(|error| error.to_string())?;
            if let Some((_, old)) = job {
                parts.driver.remove(old).await;
            }
            Ok((seconds, added))
        }
    }
}

impl Actor for ScheduledTask {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.set(ctx);
    }
}

impl Handler<Wake> for ScheduledTask {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Context<Self>) {
        self.evaluate(ctx);
    }
}

impl Handler<SetTimer> for ScheduledTask {
    type Result = ();

    fn handle(&mut self, message: SetTimer, ctx: &mut Context<Self>) {
        let is_changed = self.timer != message.timer;
        self.timer = message.timer;
        self.is_attended = message.is_attended;
        if is_changed {
            self.set(ctx);
        } else {
            self.evaluate(ctx);
        }
    }
}

impl Handler<Stop> for ScheduledTask {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) -> ResponseFuture<()> {
        let (sender, done) = oneshot::channel();
        self.leaving.get_or_insert_default().push(sender);
        self.ending.cancel();
        self.leave_if_done(ctx);
        Box::pin(async move {
            // Either the actor has replied, or it is gone.
            let _ = done.await;
        })
    }
}

impl Handler<GetReport> for ScheduledTask {
    type Result = Option<TaskReport>;

    fn handle(&mut self, _: GetReport, _: &mut Context<Self>) -> Self::Result {
        Some(self.report())
    }
}

impl Handler<RunTask> for ScheduledTask {
    type Result = ResponseFuture<Result<TaskReport, ApiError>>;

    fn handle(&mut self, message: RunTask, ctx: &mut Context<Self>) -> Self::Result {
        if let Err(error) = self.admit_manual() {
            return Box::pin(async { Err(error) });
        }
        let (sender, reply) = oneshot::channel();
        self.begin_manual(message.context, sender, ctx);
        Box::pin(async move { reply.await.unwrap_or_else(|_| Err(stopping())) })
    }
}

impl Handler<PauseTask> for ScheduledTask {
    type Result = ResponseFuture<Result<TaskReport, ApiError>>;

    fn handle(&mut self, message: PauseTask, ctx: &mut Context<Self>) -> Self::Result {
        let (sender, reply) = oneshot::channel();
        let parts = Arc::clone(&self.parts);
        let id = self.id.clone();
        let appended = async move {
            let is_paused = message.is_paused;
            let decide = |state: &super::TaskState| match (state.is_paused, is_paused) {
                (false, true) => vec![EventBody::TaskPaused(NoDetails {})],
                (true, false) => vec![EventBody::TaskResumed(NoDetails {})],
                _ => Vec::new(),
            };
            let (states, log) = (&parts.states, &parts.log);
            states.append(log, &id, &message.context, decide).await
        };
        ctx.spawn(wrap_future(appended).map(|appended, this: &mut Self, ctx| {
            this.evaluate(ctx);
            let _ = sender.send(appended.map(|_| this.report()));
        }));
        Box::pin(async move { reply.await.unwrap_or_else(|_| Err(stopping())) })
    }
}

/// Returns the error of a task that is about to end.
pub(super) fn stopping() -> ApiError {
    ApiError::new(
        Code::PluginUnavailable,
        "the task is not scheduled any more",
    )
}
