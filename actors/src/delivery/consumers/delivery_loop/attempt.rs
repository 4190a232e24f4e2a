//! One delivery: from its content to the consequences of its end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use serde_json::value::to_raw_value;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Shown, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::json::whole_number;
use skytrail_schema::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{DeliveryLoop, EventRequest, PAUSE};
use crate::delivery::consumers::announced::{AnnouncedCommit, HookResult, put_off};
use crate::delivery::consumers::content::{ChangedRecord, context_of, has_later, lineage_of};
use crate::delivery::consumers::dispatcher::WorkItem;
use crate::delivery::consumers::hook_events::{self, HookEvent};
use crate::delivery::consumers::messages::Retry;
use crate::delivery::consumers::parts::{ConsumerParts, LogSide, Recipient};
use crate::delivery::consumers::schedule::{AfterFailure, GivenUp, Start};
use crate::delivery::consumers::store::DeadLetter;
use crate::log::seek::load_commit;
use crate::pauses::pause_after;
use crate::plugin::{
    CatchUp, DeliveryNote, ExtensionPoints, Hook, PluginCallError, PluginRequest, Presence,
    Urgency, Via,
};
use crate::record::hooks;

/// Asynchronous hooks get this multiple of the plugin's limit: 60 s by default, as in v1.
const ASYNC_LIMITS: u32 = 2;

/// How many characters of an error are shown for a delivery that is being retried.
const MAX_REASON: usize = 500;

/// Why a delivery that has waited for too long is skipped.
const TOO_OLD: &str = "too old";

/// The longest pause that a plugin can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// The input of an attempt.
struct Attempt {
    parts: Arc<ConsumerParts>,
    points: Arc<ExtensionPoints>,
    limit: Duration,
    start: Start,
    /// The request behind the event, and whether it waits for this attempt.
    announced: Option<Arc<AnnouncedCommit>>,
    is_awaited: bool,
    /// The calls that wait for what is queued after it.
    urgency: Urgency,
    /// Up to here, the log is the past that is being caught up with.
    past: u64,
    /// Whether an operator has asked for it, so that it is not too old.
    is_ordered: bool,
    epoch: u64,
}

/// A finished attempt.
pub(super) struct Ended {
    epoch: u64,
    start: Start,
    subject: String,
    is_sync: bool,
    outcome: Outcome,
}

/// The outcome of an attempt.
enum Outcome {
    /// The plugin has received it; for a synchronous hook, whether its answer is valid.
    Acknowledged(HookResult),
    /// The plugin refused it.
    Refused(ApiError),
    /// The worker was lost with it, or took too long.
    Lost(ApiError),
    /// It did not reach the plugin.
    Unready(ApiError),
    /// What it consists of could not be read.
    Unreadable(ApiError),
    /// It is not needed.
    Skipped(&'static str),
    /// Its hook is no longer registered.
    Orphaned,
}

impl DeliveryLoop {
    /// Starts the deliveries whose turn it is.
    pub(super) fn start_attempts(&mut self) {
        self.save_if_due();
        let presence = self.presence;
        let has_worker = presence.num_workers > 0 || presence.is_attended || presence.is_leaving;
        if !self.is_running() || !self.has_promised || !has_worker {
            return;
        }
        self.held_until = self.held_until.filter(|until| *until > Instant::now());
        if self.held_until.is_some() {
            return;
        }
        // A plugin that was unreachable the last time is tried with one delivery. A worker that
        // prepares or leaves gets only what its own requests wait for, and that needs no window.
        let window = match presence {
            Presence {
                is_ready: false, ..
            } => 0,
            _ if self.num_unready > 0 => 1,
            presence => presence.window,
        };
        let now = self.now();
        while let Some(start) = self.schedule.next(now, window) {
            let request = self.requests.get(&start.task.position);
            let via = start
                .expedited_by
                .map_or_else(Vec::new, |by| self.calls_of(by));
            let (sender, urgency) = watch::channel(via);
            self.urgencies.insert(start.task, sender);
            let attempt = Attempt {
                parts: Arc::clone(&self.parts),
                points: Arc::clone(&self.points),
                limit: self.presence.limit,
                announced: request.map(|request| Arc::clone(&request.commit)),
                is_awaited: request.is_some_and(|request| request.answer.is_some()),
                urgency,
                past: if start.is_catching_up {
                    self.schedule.past()
                } else {
                    0
                },
                is_ordered: start.task.position <= self.checkpoint.ordered,
                start,
                epoch: self.epoch,
            };
            self.attempts.push(Box::pin(attempt.run()));
        }
    }

    /// Prioritizes attempts that block something that is waited for.
    pub(super) fn expedite_attempts(&mut self) {
        for (task, by) in self.schedule.take_expedited() {
            if let Some(attempt) = self.urgencies.get(&task) {
                attempt.send_replace(self.calls_of(by));
            }
        }
    }

    /// Returns the calls of the request that waits for an event.
    fn calls_of(&self, position: u64) -> Vec<Via> {
        let request = self.requests.get(&position);
        request.map_or_else(Vec::new, |request| request.commit.context.via.clone())
    }

    /// Handles the end of an attempt.
    pub(super) fn end(&mut self, ended: Ended) {
        if ended.epoch != self.epoch {
            return;
        }
        self.unsaved.touch();
        self.urgencies.remove(&ended.start.task);
        let (task, is_sync) = (ended.start.task, ended.is_sync);
        let id = (task.position, Arc::clone(&ended.start.hook));
        self.retries.remove(&id);
        match ended.outcome {
            // Workers of the log are connected or not: there is nothing to try.
            Outcome::Unready(_) | Outcome::Unreadable(_) => {
                if matches!(self.parts.recipient, Recipient::Plugin) {
                    self.hold();
                }
            }
            Outcome::Skipped(_) | Outcome::Orphaned => {}
            _ if self.num_unready > 0 => {
                self.num_unready = 0;
                self.schedule.catch_up_until(self.parts.env.log.head());
            }
            _ => {}
        }
        match &ended.outcome {
            Outcome::Acknowledged(answer) => {
                self.num_delivered += 1;
                self.answer_waiter(task.position, is_sync, answer.clone());
                self.schedule.finish(task);
            }
            Outcome::Skipped(why) => {
                tracing::debug!(position = task.position, hook = %ended.start.hook, why, "skipped");
                self.checkpoint.num_skipped += 1;
                if *why == TOO_OLD {
                    self.unsaved.note_too_old(task.position);
                }
                self.answer_waiter(task.position, is_sync, Ok(()));
                self.schedule.finish(task);
            }
            Outcome::Orphaned => {
                if let Some(orphan) = self.schedule.disown(task) {
                    self.orphan(orphan);
                }
            }
            Outcome::Refused(error) => {
                self.num_failed += 1;
                let is_answered = self.answer_waiter(task.position, is_sync, Err(error.clone()));
                if is_answered {
                    // The plugin has seen the event and refused it, and the caller knows.
                    self.schedule.finish(task);
                } else {
                    self.fail(&ended, error);
                }
            }
            Outcome::Lost(error) => {
                self.num_failed += 1;
                self.answer_waiter(task.position, is_sync, Err(error.clone()));
                self.fail(&ended, error);
            }
            Outcome::Unready(error) | Outcome::Unreadable(error) => {
                let answer = match ended.outcome {
                    Outcome::Unreadable(_) => put_off(error),
                    _ => error.clone(),
                };
                self.answer_waiter(task.position, is_sync, Err(answer));
                let after_failure = self.schedule.postpone(task, self.now(), PAUSE);
                self.follow(
                    &ended,
                    after_failure,
                    error,
                    ended.start.attempt.saturating_sub(1),
                );
            }
        }
        self.forget_if_over(task.position);
    }

    /// Forgets the request behind an event once nothing is left to tell it. If the request still
    /// waits, because several deliveries ended at once, it hears of no error.
    fn forget_if_over(&mut self, position: u64) {
        let is_over = !self.schedule.has_entry(position);
        let is_idle = |request: &EventRequest| request.answer.is_none() && request.num_left == 0;
        if is_over || self.requests.get(&position).is_some_and(is_idle) {
            let request = self.requests.remove(&position);
            if let Some(answer) = request.and_then(|request| request.answer) {
                let _ = answer.send(Ok(()));
            }
        }
    }

    /// Ends a delivery whose hook is no longer registered. It becomes a dead letter, because the
    /// hook may come back.
    pub(super) fn orphan(&mut self, orphan: GivenUp) {
        let message = format!("the hook {} is not registered any more", orphan.hook);
        let hook = Arc::clone(&orphan.hook);
        self.unsaved.note_orphaned((hook, true), orphan.position);
        self.give_up(orphan, ApiError::unexpected(message).to_wire());
    }

    /// Turns a delivery that ended undelivered into a dead letter. Its waiter hears of no error,
    /// because its change is stored.
    pub(super) fn give_up(&mut self, given_up: GivenUp, error: Json) {
        let id = (given_up.position, Arc::clone(&given_up.hook));
        self.retries.remove(&id);
        self.answer_waiter(given_up.position, given_up.is_sync, Ok(()));
        self.forget_if_over(given_up.position);
        let record = match &given_up.stream {
            Stream::Record(id) => id.to_string(),
            other => other.to_string(),
        };
        self.unsaved.add_dead_letter(DeadLetter {
            position: given_up.position,
            hook: given_up.hook,
            record,
            attempts: given_up.attempts,
            error,
            at: self.parts.env.clock.now(),
        });
    }

    /// Pauses all deliveries for a while: 1, 2, 4 … 30 s.
    fn hold(&mut self) {
        const LONGEST: Duration = Duration::from_secs(30);
        let now = Instant::now();
        if self.held_until.is_none_or(|until| until <= now) {
            self.num_unready += 1;
            self.held_until = Some(now + pause_after(self.num_unready).min(LONGEST));
        }
    }

    /// Reports a result to the waiter for an event's synchronous hooks; returns whether an error
    /// was heard.
    fn answer_waiter(&mut self, position: u64, is_sync: bool, answer: HookResult) -> bool {
        let request = self.requests.get_mut(&position);
        let Some(request) = request.filter(|_| is_sync) else {
            return false;
        };
        request.num_left = request.num_left.saturating_sub(1);
        if answer.is_ok() && request.num_left > 0 {
            return true;
        }
        let waiting = request.answer.take();
        waiting.is_some_and(|waiting| waiting.send(answer).is_ok())
    }

    /// Records what is shown of a delivery that is being retried.
    fn note_retry(&mut self, ended: &Ended, error: &ApiError, attempts: u32) {
        let (position, hook) = (ended.start.task.position, &ended.start.hook);
        // A plugin's message has no bound of its own.
        let message: String = error.message.chars().take(MAX_REASON).collect();
        let retry = Retry {
            id: format!("{position}/{hook}"),
            position,
            hook: Arc::clone(hook),
            record: ended.subject.clone(),
            attempts,
            error: ApiError::new(error.code, message).to_wire(),
        };
        let id = (position, Arc::clone(hook));
        self.retries.insert(id, Arc::new(retry));
    }

    fn fail(&mut self, ended: &Ended, error: &ApiError) {
        let task = ended.start.task;
        let is_dropped = error.info.get("drop") == Some(&Json::Bool(true));
        let retry_after = error.info.get("retry_after_ms").and_then(whole_number);
        let retry_after =
            retry_after.map(|millis| Duration::from_millis(millis).min(LONGEST_ASKED));
        let after_failure = if is_dropped {
            self.schedule.finish(task);
            AfterFailure::Dead
        } else {
            self.schedule.fail(task, self.now(), retry_after)
        };
        if after_failure != AfterFailure::Dead {
            let (consumer, hook) = (&self.parts.name, &ended.start.hook);
            let (position, attempt) = (task.position, ended.start.attempt);
            tracing::info!(%consumer, %hook, position, attempt, %error, "delivery failed");
        }
        self.follow(ended, after_failure, error, ended.start.attempt);
    }

    /// Handles a delivery that failed, after this many attempts.
    fn follow(
        &mut self,
        ended: &Ended,
        after_failure: AfterFailure,
        error: &ApiError,
        attempts: u32,
    ) {
        let (consumer, hook) = (&self.parts.name, &ended.start.hook);
        let position = ended.start.task.position;
        match after_failure {
            AfterFailure::Dead => {
                tracing::warn!(%consumer, %hook, position, attempts, %error, "delivery given up");
                self.unsaved.add_dead_letter(DeadLetter {
                    position,
                    hook: Arc::clone(hook),
                    record: ended.subject.clone(),
                    attempts,
                    error: error.to_wire(),
                    at: self.parts.env.clock.now(),
                });
            }
            AfterFailure::Again => self.note_retry(ended, error, attempts),
            AfterFailure::Unknown => {}
        }
    }
}

impl Attempt {
    async fn run(self) -> Ended {
        let mut subject = String::new();
        let mut is_sync = true;
        let tried = match &self.parts.recipient {
            Recipient::Plugin => self.attempt(&mut subject, &mut is_sync).await,
            Recipient::Log(side) => self.hand_out(side, &mut subject).await,
        };
        Ended {
            epoch: self.epoch,
            subject,
            is_sync,
            // What is unreadable now may be readable later.
            outcome: tried.unwrap_or_else(Outcome::Unreadable),
            start: self.start,
        }
    }

    async fn attempt(&self, subject: &mut String, is_sync: &mut bool) -> Result<Outcome, ApiError> {
        let (env, position) = (&self.parts.env, self.start.task.position);
        let commit = self.load().await?;
        let Some(hook_event) = hook_events::at(&commit, position) else {
            return Ok(Outcome::Skipped("erased"));
        };
        let HookEvent {
            event, id, trigger, ..
        } = hook_event;
        *subject = id.to_string();
        let mut hooks = hook_events::hooks(&self.points, (&id, trigger), &self.parts.name);
        let Some(hook) = hooks.find(|hook| *hook.name == *self.start.hook) else {
            return Ok(Outcome::Orphaned);
        };
        *is_sync = !hook.is_async;
        if let Some(why) = self.unwanted(hook, &id, commit.time).await? {
            return Ok(Outcome::Skipped(why));
        }
        let announced = self.announced.as_deref();
        let changed = ChangedRecord::load(env, (&commit, event), (&id, trigger), announced).await?;
        let Some(changed) = changed else {
            return Ok(Outcome::Skipped("the record's past is not known"));
        };
        let mut lineage = lineage_of(&commit, announced);
        if hook.is_async || !self.is_awaited {
            // Nothing waits for it, so it waits for its turn like the others, unless something
            // after it is waited for.
            lineage.via.clone_from(&self.urgency.borrow());
        }
        let context = context_of(env, (&commit, announced), hook.is_async).await?;
        let limit = self.limit_of(hook);
        let request = PluginRequest {
            plugin: Arc::clone(&self.parts.name),
            kind: "hook",
            name: hook.name.clone(),
            param: changed.to_param(),
            context: Some(context),
            timeout: Some(limit),
            deadline: None,
            lineage,
        };
        let note = DeliveryNote {
            id: format!("{}/{}", commit.event_id(position), hook.name),
            position,
            attempt: self.start.attempt,
            at: commit.time,
            catching_up: self.start.is_catching_up,
        };
        let answer = env
            .plugins
            .deliver(request, note, self.urgency.clone())
            .await;
        Ok(match answer {
            Ok(answer) if *is_sync => {
                Outcome::Acknowledged(hooks::check_answer(hook, &answer, &changed.record))
            }
            Ok(_) => Outcome::Acknowledged(Ok(())),
            Err(PluginCallError::Refused(error)) => Outcome::Refused(error),
            Err(PluginCallError::Lost(error) | PluginCallError::Late(error)) => {
                Outcome::Lost(error)
            }
            Err(PluginCallError::Unready(error)) => Outcome::Unready(error),
        })
    }

    async fn load(&self) -> Result<Arc<Commit>, ApiError> {
        load_commit(&*self.parts.env.log, self.start.task.position).await
    }

    /// Gives the event to a worker of the log.
    async fn hand_out(&self, side: &LogSide, subject: &mut String) -> Result<Outcome, ApiError> {
        let position = self.start.task.position;
        let commit = self.load().await?;
        let mut events = commit.events.iter();
        let Some(event) = events.find(|event| event.position == position) else {
            return Ok(Outcome::Skipped("not in the log"));
        };
        *subject = event.stream.to_string();
        let shown = Shown {
            commit: &commit,
            event,
        };
        let json = to_raw_value(&shown).map_err(|error| ApiError::unexpected(error.to_string()))?;
        let handed = WorkItem {
            position,
            attempt: self.start.attempt,
            json: json.into(),
        };
        Ok(match side.dispatcher.deliver(handed).await {
            Ok(()) => Outcome::Acknowledged(Ok(())),
            Err(PluginCallError::Refused(error)) => Outcome::Refused(error),
            Err(PluginCallError::Lost(error) | PluginCallError::Late(error)) => {
                Outcome::Lost(error)
            }
            Err(PluginCallError::Unready(error)) => Outcome::Unready(error),
        })
    }

    /// Returns why a delivery is not needed, if it is not.
    async fn unwanted(
        &self,
        hook: &Hook,
        id: &RecordId,
        committed_at: Timestamp,
    ) -> Result<Option<&'static str>, ApiError> {
        let env = &self.parts.env;
        if !self.is_ordered && self.parts.is_too_old(committed_at) {
            return Ok(Some(TOO_OLD));
        }
        let position = self.start.task.position;
        Ok(match hook.catch_up {
            _ if !self.start.is_catching_up => None,
            CatchUp::All => None,
            CatchUp::None => Some("the hook does not catch up"),
            CatchUp::Latest => has_later(env, id, position, self.past)
                .await?
                .then_some("a later event of the record follows"),
        })
    }

    fn limit_of(&self, hook: &Hook) -> Duration {
        let limit = if hook.is_async {
            self.limit * ASYNC_LIMITS
        } else {
            self.limit
        };
        hook.timeout.map_or(limit, |own| own.min(limit))
    }
}
