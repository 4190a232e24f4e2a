//! The runs of a task: how they are claimed, asked for, ended and reported.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext, Context};
use serde_json::Value as Json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, TaskClaim, TaskEnd, TaskTrigger};
use skytrail_schema::time::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::actor::{Reply, ScheduledTask, TaskParts, stopping, until};
use super::messages::{RunOutcome, RunReport, TaskReport};
use super::state::{SMALL_STEP, TaskRun};
use crate::context::RequestContext;
use crate::plugin::{Lineage, PluginCallError, PluginRequest, Timer};

/// If the next run is due within this time, a successful end is written to the log together with
/// its claim.
///
/// That is one commit per run instead of two for a task that runs every second. If the process
/// dies, such an end is lost, so it waits no longer than this.
const SOON: Duration = Duration::from_secs(1);
/// The pause before a plugin that was not reached is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// How a run ended.
enum Outcome {
    /// It could not be claimed; the plugin was not asked.
    Unclaimed(ApiError),
    /// Another claim exists already.
    Taken,
    /// The plugin was asked.
    Ended(Result<Json, ApiError>),
}

/// A run as it begins.
struct Beginning {
    claim: TaskClaim,
    /// The value of `passed` before this run.
    passed_before: Timestamp,
    context: RequestContext,
    reply: Option<Reply>,
    /// Until when it waits for a plugin that cannot be reached.
    retry_until: Option<Timestamp>,
}

impl ScheduledTask {
    /// Begins the run of a due time.
    pub(super) fn begin_due(
        &mut self,
        due: Timestamp,
        passed_before: Timestamp,
        ctx: &mut Context<Self>,
    ) {
        let catch_up = self.parts.settings.catch_up.as_micros();
        let catch_up = i64::try_from(catch_up).unwrap_or(i64::MAX);
        let retry_until = due.micros().saturating_add(catch_up);
        let beginning = Beginning {
            claim: TaskClaim {
                due,
                trigger: TaskTrigger::Schedule,
            },
            passed_before,
            context: RequestContext::system(),
            reply: None,
            retry_until: Some(Timestamp::from_micros(retry_until)),
        };
        self.begin(beginning, ctx);
    }

    /// Whether a run that somebody asks for can begin now.
    pub(super) fn admit_manual(&self) -> Result<(), ApiError> {
        if self.is_leaving() {
            return Err(stopping());
        }
        if !self.is_attended {
            let message = format!("plugin {} has no worker", self.id.plugin);
            return Err(ApiError::new(Code::PluginUnavailable, message));
        }
        if self.is_busy() {
            return Err(ApiError::new(Code::Duplicated, "the task is running"));
        }
        Ok(())
    }

    /// Begins a run that somebody asked for.
    pub(super) fn begin_manual(
        &mut self,
        context: RequestContext,
        reply: Reply,
        ctx: &mut Context<Self>,
    ) {
        let mut due = self.parts.clock.now();
        while self.runs.contains_key(&due) {
            due = Timestamp::from_micros(due.micros() + 1);
        }
        let beginning = Beginning {
            claim: TaskClaim {
                due,
                trigger: TaskTrigger::Manual,
            },
            passed_before: self.passed,
            context,
            reply: Some(reply),
            retry_until: None,
        };
        self.begin(beginning, ctx);
    }

    fn begin(&mut self, beginning: Beginning, ctx: &mut Context<Self>) {
        self.runs
            .insert(beginning.claim.due, self.parts.clock.now());
        let ends = self.take_ends();
        let (parts, timer) = (Arc::clone(&self.parts), self.timer.clone());
        let ending = self.ending.clone();
        let running = async move {
            let outcome = carry_out(&parts, timer, (&beginning, &ending), &ends).await;
            (outcome, beginning, ends)
        };
        let running =
            wrap_future(running).map(|(outcome, beginning, ends), this: &mut Self, ctx| {
                this.end(outcome, beginning, ends, ctx);
            });
        ctx.spawn(running);
    }

    fn end(
        &mut self,
        outcome: Outcome,
        beginning: Beginning,
        ends: Vec<TaskEnd>,
        ctx: &mut Context<Self>,
    ) {
        let due = beginning.claim.due;
        self.runs.remove(&due);
        self.writing.retain(|end| !ends.contains(end));
        match outcome {
            Outcome::Ended(result) => self.note_end(due, result, beginning.reply, ctx),
            Outcome::Unclaimed(error) => {
                tracing::warn!(task = %self.id, %error, "the run could not be claimed");
                self.unwritten.splice(0..0, ends);
                if self.passed == due {
                    // The next wake-up call looks at it again.
                    self.passed = beginning.passed_before;
                }
                if let Some(reply) = beginning.reply {
                    let _ = reply.send(Err(error));
                }
            }
            Outcome::Taken => {
                self.unwritten.splice(0..0, ends);
            }
        }
        self.leave_if_done(ctx);
    }

    fn note_end(
        &mut self,
        due: Timestamp,
        result: Result<Json, ApiError>,
        reply: Option<Reply>,
        ctx: &mut Context<Self>,
    ) {
        let now = self.parts.clock.now();
        self.tally.runs += 1;
        let error = result.err();
        match &error {
            None => tracing::debug!(task = %self.id, "run ended"),
            Some(error) => {
                self.tally.failures += 1;
                tracing::warn!(task = %self.id, %error, "run failed");
            }
        }
        self.unwritten.push(TaskEnd {
            due,
            at: now,
            error: error.as_ref().map(|error| error.code.number()),
        });
        self.last_error = error.map(|error| (due, error));
        if reply.is_some() || !self.may_ends_wait(now) {
            self.write_ends(reply, ctx);
        }
    }

    /// Whether a claim is near that will include the unwritten ends.
    fn may_ends_wait(&self, now: Timestamp) -> bool {
        let is_claim_near = self.next.is_some_and(|next| until(now, next) <= SOON);
        let may_wait = |end: &TaskEnd| end.error.is_none() && until(end.at, now) < SOON;
        is_claim_near && self.unwritten.iter().all(may_wait)
    }

    /// Writes the ends that have waited for a claim that does not follow.
    pub(super) fn write_old_ends(&mut self, now: Timestamp, ctx: &mut Context<Self>) {
        if !self.may_ends_wait(now) && !self.unwritten.is_empty() {
            self.write_ends(None, ctx);
        }
    }

    /// Takes the ends that are to be written to the log now.
    fn take_ends(&mut self) -> Vec<TaskEnd> {
        let ends = std::mem::take(&mut self.unwritten);
        self.writing.extend(&ends);
        ends
    }

    /// Writes to the log how runs ended; if that fails, they are written with the next claim or
    /// evaluation.
    pub(super) fn write_ends(&mut self, reply: Option<Reply>, ctx: &mut Context<Self>) {
        self.num_writing += 1;
        let ends = self.take_ends();
        let (parts, id) = (Arc::clone(&self.parts), self.id.clone());
        let written = async move {
            let decide =
                |_: &super::TaskState| ends.iter().copied().map(EventBody::TaskEnded).collect();
            let (states, log) = (&parts.states, &parts.log);
            let context = RequestContext::system();
            let written = states.append(log, &id, &context, decide).await;
            (written, ends)
        };
        ctx.spawn(wrap_future(written).map(|(written, ends), this: &mut Self, ctx| {
            this.num_writing -= 1;
            this.writing.retain(|end| !ends.contains(end));
            if let Err(error) = written {
                tracing::warn!(task = %this.id, %error, "the end of a run could not be recorded");
                // A task that is ending does not wait for the log; after a restart the run counts
                // as lost.
                if !this.is_leaving() {
                    this.unwritten.splice(0..0, ends);
                }
            }
            if let Some(reply) = reply {
                let _ = reply.send(Ok(this.report()));
            }
            this.leave_if_done(ctx);
        }));
    }

    /// Returns the task's report.
    pub(super) fn report(&self) -> TaskReport {
        let (_, state) = self.parts.states.read(&self.id);
        TaskReport {
            plugin: self.id.plugin.to_string(),
            name: self.id.name.to_string(),
            spec: self.timer.spec_text.clone(),
            time_zone: self.zone().name().to_owned(),
            overlap: self.timer.overlap,
            is_paused: state.is_paused,
            is_attended: self.is_attended,
            next_run: self.next.filter(|_| !state.is_paused),
            running_since: self.runs.values().min().copied(),
            last_run: state.last.map(|run| self.report_run(run)),
            num_runs: self.tally.runs,
            num_failures: self.tally.failures,
            num_skipped: self.tally.skipped,
            num_missed: self.tally.missed,
        }
    }

    fn report_run(&self, run: TaskRun) -> RunReport {
        let mut untold = self.unwritten.iter().chain(&self.writing);
        let end = run.end.or(untold.find(|end| end.due == run.due).copied());
        let outcome = match end {
            _ if self.runs.contains_key(&run.due) => RunOutcome::Running,
            None => RunOutcome::Lost,
            Some(TaskEnd { error: None, .. }) => RunOutcome::Ok,
            Some(_) => RunOutcome::Failed,
        };
        let known_error = self.last_error.as_ref().filter(|(due, _)| *due == run.due);
        let known_error = known_error.map(|(_, error)| error.clone());
        let code = end.and_then(|end| end.error);
        RunReport {
            due: run.due,
            trigger: run.trigger,
            began_at: run.began_at,
            ended_at: end.map(|end| end.at),
            outcome,
            error: known_error.or_else(|| Some(ApiError::new(Code::from_number(code?), ""))),
        }
    }
}

/// Claims a run and asks the plugin. A plugin that is not reached is asked again for a while.
async fn carry_out(
    parts: &TaskParts,
    timer: Timer,
    (beginning, ending): (&Beginning, &CancellationToken),
    ends: &[TaskEnd],
) -> Outcome {
    let claim = beginning.claim;
    let decide = |state: &super::TaskState| {
        if claim.trigger == TaskTrigger::Schedule && !state.is_open(claim.due) {
            return Vec::new();
        }
        let ends = ends.iter().copied().map(EventBody::TaskEnded);
        ends.chain([EventBody::TaskClaimed(claim)]).collect()
    };
    let (states, log) = (&parts.states, &parts.log);
    let claimed = states
        .append(log, &timer.id, &beginning.context, decide)
        .await;
    let commit = match claimed {
        Ok(Some(commit)) => commit,
        Ok(None) => return Outcome::Taken,
        Err(error) => return Outcome::Unclaimed(error),
    };
    let request = PluginRequest {
        plugin: Arc::clone(&timer.id.plugin),
        kind: "timer",
        name: timer.name,
        param: Json::Null,
        context: None,
        timeout: timer.timeout,
        deadline: None,
        lineage: Lineage {
            // Whatever the run causes names the commit that the run began with.
            request_id: Some(commit.id),
            ..Lineage::default()
        },
    };
    loop {
        let error = match parts.plugins.ask(request.clone()).await {
            // The plugin has received nothing yet, so this is not a second run.
            Err(PluginCallError::Unready(error)) => error,
            answer => return Outcome::Ended(answer.map_err(PluginCallError::into_error)),
        };
        let now = parts.clock.now();
        // The run does not wait for a time that only a clock that was ahead has seen.
        let is_ahead = claim.due.micros() > now.micros().saturating_add(SMALL_STEP);
        let has_time = !is_ahead && beginning.retry_until.is_some_and(|until| now < until);
        let pause = ending.run_until_cancelled(sleep(PAUSE));
        if !has_time || pause.await.is_none() {
            return Outcome::Ended(Err(error));
        }
    }
}
