//! After-save hooks of a sign-up, and undoing the sign-up if one fails.
//!
//! The hooks run once the user is stored, so that they find the user. A client that is told that
//! the sign-up failed must be able to try again with the same name. So the user is deleted, by
//! events that follow those that created them.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, NoDetails, Stream};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::record::Head;
use skytrail_schema::value::Value;

use super::sso;
use crate::context::{CommitGate, RequestContext};
use crate::delivery::consumers::CommitAnswers;
use crate::record::attempt::{Outcome, commit, retry_on_conflict};
use crate::record::decide::Plan;
use crate::record::delete::find_referrer;
use crate::record::draft::Draft;
use crate::record::env::RecordEnv;
use crate::spawn::run_to_completion;

/// Waits for the after-save hooks of a new user; the first that fails undoes the sign-up. This
/// continues even if the client no longer waits.
///
/// # Errors
/// The hook's.
pub(super) async fn await_after_hooks(
    env: &RecordEnv,
    head: &Arc<Head>,
    context: &RequestContext,
    mut commit_answers: CommitAnswers,
) -> Result<(), ApiError> {
    let event_answers = commit_answers.take(&head.record.id);
    if event_answers.is_empty() {
        return Ok(());
    }
    let (env, head, context) = (env.clone(), Arc::clone(head), context.clone());
    let answered = run_to_completion("after a sign-up", async move {
        let answers = event_answers.all_ok(&env.applied, head.position).await;
        drop(commit_answers);
        if answers.is_err() {
            undo(&env, &head.record.id, &context).await;
        }
        answers
    });
    let lost = || Err(ApiError::unexpected("the server is stopping"));
    answered.await.unwrap_or_else(lost)
}

/// Deletes a new user.
pub(super) async fn undo(env: &RecordEnv, id: &RecordId, context: &RequestContext) {
    // The client's time may be over, but what it was told must become true.
    let context = RequestContext {
        deadline: None,
        commit_gate: CommitGate::default(),
        ..context.clone()
    };
    let undone = retry_on_conflict(None, |_| attempt(env, id, &context)).await;
    if let Err(error) = undone {
        tracing::error!(user_id = %id.key, %error, "a sign-up that failed could not be undone");
    }
}

async fn attempt(
    env: &RecordEnv,
    id: &RecordId,
    context: &RequestContext,
) -> Result<Outcome<()>, ApiError> {
    let user = UserId::new(id.key.as_str());
    let (user_position, auth_row) = env.load_present_user(&user).await?;
    let (position, head) = env.load_head(id).await?;
    let position = position.min(user_position);
    let mut plan = Plan::default();
    if let Some((version, state)) = auth_row {
        sso::plan_release(&mut plan, &state);
        let body = EventBody::UserRemoved(NoDetails {});
        plan.push(Stream::User(user.clone()), version + 1, body);
    }
    if let Some(head) = &head {
        let definition = env.definition(&id.record_type);
        if find_referrer(env, id, position).await?.is_some() {
            // Something that a hook has created meanwhile refers to the record: it stays, without
            // fields.
            plan.save(&emptied(head), &definition, &Default::default())?;
        } else {
            plan.delete(head, &definition, env.clock.now(), Some(user));
        }
    }
    if plan.events.is_empty() {
        return Ok(Outcome::Done(()));
    }
    let done = commit(&env.log, plan, position, context).await?;
    Ok(done.discard())
}

fn emptied(head: &Arc<Head>) -> Draft {
    let mut record = head.record.clone();
    for (_, value) in &mut record.fields {
        *value = Value::Null;
    }
    Draft {
        record,
        original: Some(Arc::clone(head)),
        provenance: Vec::new(),
        left_out: Default::default(),
    }
}
