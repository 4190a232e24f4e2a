//! Deleting records: access, before-hooks, decision, commit, after-hooks.

use std::sync::Arc;

use futures_util::future::join_all;
use skytrail_schema::acl::Level;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::attempt::{Outcome, commit_attended, until_settled};
use super::before::Decided;
use super::decide::Plan;
use super::draft::no_permission;
use super::env::{Heads, RecordEnv};
use super::messages::{DeleteRecords, ItemError, ItemResults};
use super::{hooks, save};
use crate::delivery::couriers::Attending;

/// Per id: the record that is deleted, or why it is not.
type Victims = Vec<Result<Arc<Head>, ItemError>>;

/// Deletes; see the module's overview.
///
/// # Errors
/// What fails the request as a whole.
pub async fn delete(
    env: &RecordEnv,
    turn: &Mutex<()>,
    command: DeleteRecords,
) -> Result<ItemResults<RecordId>, ApiError> {
    let attempt_id = Uuid::now_v7();
    let decided = Mutex::new(None);
    let settled = until_settled(turn, |_| attempt(env, &command, attempt_id, &decided)).await?;
    let Settled {
        victims,
        position,
        mut attending,
    } = settled;
    let rows = victims.into_iter().map(|victim| {
        let row = victim.as_ref().ok().map(|head| {
            let row = attending.take(&head.record.id);
            row.answered(&env.applied, position)
        });
        (victim, row)
    });
    let answers = rows.map(|(victim, row)| async {
        let id = victim?.record.id.clone();
        if let Some(row) = row {
            row.await.map_err(|error| failed(&id, error))?;
        }
        Ok(id)
    });
    Ok(join_all(answers.collect::<Vec<_>>()).await)
}

/// What a deletion came to, before after-hooks.
struct Settled {
    victims: Victims,
    /// Where the deletion stands in the log.
    position: u64,
    /// Where the after-hooks' answers are.
    attending: Attending,
}

async fn attempt(
    env: &RecordEnv,
    command: &DeleteRecords,
    attempt_id: Uuid,
    decided: &Mutex<Option<Decided<Victims>>>,
) -> Result<Outcome<Settled>, ApiError> {
    let heads = env.load_heads(&command.ids).await?;
    let mut victims: Victims = command
        .ids
        .iter()
        .map(|id| find(command, &heads, id))
        .collect();
    fail_whole_if_atomic(command, &victims)?;
    let own = (&command.context, attempt_id);
    let earlier = match decided.lock().await.take() {
        Some(earlier) => {
            let counts = earlier.if_it_counts(env, own, &command.ids, heads.position);
            counts.await
        }
        None => None,
    };
    let decided_at = match earlier {
        Some(Decided { what, position }) => {
            keep_refusals(what, &mut victims);
            position
        }
        None => {
            run_before_hooks(env, command, &mut victims, attempt_id).await;
            heads.position
        }
    };
    let asked = victims.clone();
    fail_whole_if_atomic(command, &victims)?;
    let mut plan = Plan::default();
    let now = env.clock.now();
    // A record does not hold itself, nor do those that go before it.
    let mut gone = Vec::new();
    for victim in &mut victims {
        let Ok(head) = victim else { continue };
        if plan.leaves(&head.record.id) == Some(false) {
            // Named before: it goes once.
            continue;
        }
        let head = Arc::clone(head);
        gone.push(head.record.id.clone());
        match refuse_referred(env, &head.record.id, &gone, heads.position).await {
            Err(error) => {
                gone.pop();
                *victim = Err(failed(&head.record.id, error));
            }
            Ok(()) => {
                let definition = env.definition(&head.record.id.record_type);
                plan.delete(&head, &definition, now, command.context.caller.user.clone());
            }
        }
    }
    fail_whole_if_atomic(command, &victims)?;
    if plan.events.is_empty() {
        return Ok(Outcome::Done(Settled {
            victims,
            position: heads.position,
            attending: Attending::default(),
        }));
    }
    let originals = victims.iter().flatten();
    let originals = originals.map(|head| (head.record.id.clone(), Arc::clone(head)));
    let originals = originals.collect();
    let (plan, context) = ((plan, heads.position), &command.context);
    let done = commit_attended(env, plan, originals, (context, context)).await?;
    if matches!(done, Outcome::Conflict) {
        *decided.lock().await = Some(Decided {
            what: asked,
            position: decided_at,
        });
    }
    Ok(done.map(|(commit, attending)| Settled {
        victims,
        position: commit.last_position(),
        attending,
    }))
}

async fn run_before_hooks(
    env: &RecordEnv,
    command: &DeleteRecords,
    victims: &mut Victims,
    attempt_id: Uuid,
) {
    for victim in victims {
        let Ok(head) = victim else { continue };
        let (record, context) = (&head.record, &command.context);
        let run = hooks::before_delete(&env.plugins, record, context, attempt_id);
        if let Err(error) = run.await {
            *victim = Err(failed(&head.record.id, error));
        }
    }
}

/// Keeps what hooks said that only they themselves have overtaken: they may have saved the very
/// records.
fn keep_refusals(decided: Victims, victims: &mut Victims) {
    for (decided, victim) in decided.into_iter().zip(victims) {
        if decided.is_err() {
            *victim = decided;
        }
    }
}

fn find(command: &DeleteRecords, heads: &Heads, id: &RecordId) -> Result<Arc<Head>, ItemError> {
    if id.record_type.is_user() {
        let error = ApiError::new(Code::PermissionDenied, "cannot delete user record");
        return Err(failed(id, error));
    }
    let head = heads
        .get(id)
        .filter(|head| head.record.database == command.database);
    let Some(head) = head else {
        return Err(failed(
            id,
            ApiError::new(Code::ResourceNotFound, "record not found"),
        ));
    };
    if command.context.caller.may(Level::Write, &head.record) {
        Ok(Arc::clone(head))
    } else {
        Err(failed(id, no_permission()))
    }
}

/// Refuses to delete what others refer to than those in `besides`. The store must have everything
/// up to `position`, so that the resolver finds whoever comes to refer to it later.
async fn refuse_referred(
    env: &RecordEnv,
    id: &RecordId,
    besides: &[RecordId],
    position: u64,
) -> Result<(), ApiError> {
    match find_referrer(env, id, besides, position).await? {
        Some(_) => {
            let message = format!(
                "delete {id}: failed to delete record because other records have reference to it"
            );
            Err(ApiError::new(Code::ConstraintViolated, message))
        }
        None => Ok(()),
    }
}

/// Finds a record that refers to this one and is none of `besides`, as of `position` or later.
pub(crate) async fn find_referrer(
    env: &RecordEnv,
    id: &RecordId,
    besides: &[RecordId],
    position: u64,
) -> Result<Option<RecordId>, ApiError> {
    let definitions = env.model.get_types();
    let is_referable = definitions.iter().any(|definition| {
        definition
            .fields
            .values()
            .any(|field| field.refers_to(&id.record_type))
    });
    if !is_referable {
        return Ok(None);
    }
    env.applied.wait_for(position).await?;
    Ok(env.store.find_referrer(id, besides, &definitions).await?)
}

fn failed(id: &RecordId, error: ApiError) -> ItemError {
    ItemError {
        id: Some(id.clone()),
        error,
    }
}

fn fail_whole_if_atomic(command: &DeleteRecords, victims: &Victims) -> Result<(), ApiError> {
    let errors = victims.iter().filter_map(|victim| victim.as_ref().err());
    if command.is_atomic {
        save::fail_whole(errors)
    } else {
        Ok(())
    }
}
