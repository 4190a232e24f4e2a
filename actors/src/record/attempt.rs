//! Committing a decision, and deciding again after losing a race.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, NewCommit};
use tokio::sync::{Mutex, SemaphorePermit};
use tokio::time::Instant;
use uuid::Uuid;

use super::decide::Plan;
use super::env::RecordEnv;
use crate::context::{Cause, RequestContext};
use crate::delivery::consumers::{CommitAnswers, Originals};
use crate::log::{AppendError, Decision, EventLog};

/// After this many conflicts the losers run one at a time.
const FREE_ATTEMPTS: u32 = 5;
/// After this many attempts in all, the caller is told to retry later.
const MAX_ATTEMPTS: u32 = 50;

/// The outcome of one attempt.
pub enum Outcome<T> {
    /// The attempt succeeded.
    Done(T),
    /// Something that the attempt read has changed since.
    Conflict,
}

impl<T> Outcome<T> {
    /// Maps the result of a successful attempt.
    pub fn map<U>(self, done: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(done(value)),
            Self::Conflict => Outcome::Conflict,
        }
    }

    /// Drops the result of a successful attempt.
    pub fn discard(self) -> Outcome<()> {
        self.map(drop)
    }
}

/// Returns the turn that a request can wait for. There is none inside a hook: the request that
/// waits for the hook may hold the turn.
pub fn turn_of<'a>(turn: &'a Mutex<()>, context: &RequestContext) -> Option<&'a Mutex<()>> {
    (context.depth == 0).then_some(turn)
}

/// Runs `attempt` until it does not conflict.
///
/// From the sixth attempt on it holds `turn`, if there is one, so that none of those that share the
/// turn starves.
///
/// # Errors
/// Those of the attempt; overload after too many attempts.
pub async fn retry_on_conflict<T, F, Fut>(
    turn: Option<&Mutex<()>>,
    attempt: F,
) -> Result<T, ApiError>
where
    F: FnMut(u32) -> Fut,
    Fut: Future<Output = Result<Outcome<T>, ApiError>>,
{
    let turn = async {
        match turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    };
    retry_in_turn(turn, attempt).await
}

/// Like [`retry_on_conflict`], with a future that waits for the turn.
///
/// # Errors
/// Those of [`retry_on_conflict`].
pub async fn retry_in_turn<T, G, F, Fut>(
    turn: impl Future<Output = G>,
    mut attempt: F,
) -> Result<T, ApiError>
where
    F: FnMut(u32) -> Fut,
    Fut: Future<Output = Result<Outcome<T>, ApiError>>,
{
    let mut turn = pin!(turn);
    let mut guard = None;
    for number in 0..MAX_ATTEMPTS {
        if number == FREE_ATTEMPTS {
            guard = Some(turn.as_mut().await);
        }
        if let Outcome::Done(done) = attempt(number).await? {
            drop(guard);
            return Ok(done);
        }
        let jitter = rand::random_range(0..200 * u64::from(number.min(FREE_ATTEMPTS) + 1));
        tokio::time::sleep(Duration::from_micros(jitter)).await;
    }
    Err(ApiError::overloaded("the record"))
}

/// Begins to store. Until the returned permit is dropped, the client is not told that the request
/// took too long.
async fn begin(context: &RequestContext) -> Result<SemaphorePermit<'_>, ApiError> {
    if context.is_sandboxed {
        let message = "nothing is stored in a sandbox";
        return Err(ApiError::new(Code::NotSupported, message));
    }
    let is_in_time = |deadline: Instant| Instant::now() < deadline;
    let commit_gate = context.commit_gate.begin().await;
    let commit_gate = commit_gate.filter(|_| context.deadline.is_none_or(is_in_time));
    commit_gate.ok_or_else(|| {
        let message = "Service taking too long to respond.";
        ApiError::new(Code::ResponseTimeout, message)
    })
}

/// Appends a plan.
///
/// # Errors
/// Those of the log, except for a conflict; 111 in a sandbox; 122 when the client has been told so
/// or is about to be.
pub async fn commit(
    log: &Arc<dyn EventLog>,
    plan: Plan,
    read_position: u64,
    context: &RequestContext,
) -> Result<Outcome<Arc<Commit>>, ApiError> {
    let id = context.request.next_commit();
    commit_as(id, log, (plan, read_position), context).await
}

/// Appends a plan whose events after-hooks may have to be told of.
///
/// `originals` are the records before the commit, `hook_context` is the request as hooks see it. The
/// [`CommitAnswers`] give the answers of synchronous hooks.
///
/// # Errors
/// Those of [`commit`]; overload when delivery to the hooks cannot be promised.
pub async fn commit_announced(
    env: &RecordEnv,
    (plan, read_position): (Plan, u64),
    originals: Originals,
    (context, hook_context): (&RequestContext, &RequestContext),
) -> Result<Outcome<(Arc<Commit>, CommitAnswers)>, ApiError> {
    let id = context.request.next_commit();
    let announced = env
        .consumers
        .announce(id, &plan.events, originals, hook_context);
    let mut commit_answers = announced.await?;
    let committed = commit_as(id, &env.log, (plan, read_position), context).await?;
    Ok(committed.map(|commit| {
        env.consumers.committed(&commit, &mut commit_answers);
        (commit, commit_answers)
    }))
}

async fn commit_as(
    id: Uuid,
    log: &Arc<dyn EventLog>,
    (plan, read_position): (Plan, u64),
    context: &RequestContext,
) -> Result<Outcome<Arc<Commit>>, ApiError> {
    let _storing = begin(context).await?;
    for cause in &context.ancestors {
        cause.note(id);
    }
    let decision = Decision {
        commit: NewCommit {
            id,
            actor: context.actor(),
            request_id: Some(context.request.id()),
            causation: context.ancestors.last().map(Cause::id),
            sql: None,
            events: plan.events,
        },
        read_position,
        reads: plan.reads.into_iter().collect(),
        writes: plan.writes.into_iter().collect(),
        sequences: plan.sequences,
    };
    match log.append(decision).await {
        Ok(commit) => Ok(Outcome::Done(commit)),
        Err(AppendError::Conflict { .. }) => Ok(Outcome::Conflict),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn within_a_hook_nobody_waits_for_the_turn_of_who_waits_for_the_hook() {
        let turn = Mutex::new(());
        let _above = turn.lock().await;
        let mut context = RequestContext::system();
        let lose = |number| async move {
            let is_done = number > FREE_ATTEMPTS;
            Ok(if is_done {
                Outcome::Done(())
            } else {
                Outcome::Conflict
            })
        };
        let hour = Duration::from_secs(3600);
        let waits = tokio::time::timeout(hour, retry_on_conflict(turn_of(&turn, &context), lose));
        assert!(waits.await.is_err());
        context.depth = 1;
        let done = tokio::time::timeout(hour, retry_on_conflict(turn_of(&turn, &context), lose));
        assert!(matches!(done.await, Ok(Ok(()))));
    }

    #[tokio::test]
    async fn nothing_is_stored_for_who_is_only_tried() {
        let mut context = RequestContext::system();
        assert!(begin(&context).await.is_ok());
        context.is_sandboxed = true;
        let refused = begin(&context).await.err().map(|error| error.code);
        assert_eq!(refused, Some(Code::NotSupported));
    }
}
