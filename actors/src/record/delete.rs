//! Deleting records: access, before-hooks, decision, commit, after-hooks.

use std::sync::Arc;

use skytrail_schema::acl::Level;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::attempt::{Outcome, commit, until_settled};
use super::decide::Plan;
use super::draft::no_permission;
use super::env::{Heads, RecordEnv};
use super::messages::{DeleteRecords, ItemError, ItemResults};
use super::{before, hooks, save};
use crate::plugin::Trigger;

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
    let (victims, position) =
        until_settled(turn, |_| attempt(env, &command, attempt_id, &decided)).await?;
    let mut results = Vec::with_capacity(victims.len());
    for victim in victims {
        results.push(match victim {
            Err(error) => Err(error),
            Ok(head) => after_delete(env, &command, &head, position, attempt_id).await,
        });
    }
    Ok(results)
}

async fn attempt(
    env: &RecordEnv,
    command: &DeleteRecords,
    attempt_id: Uuid,
    decided: &Mutex<Option<Victims>>,
) -> Result<Outcome<(Victims, u64)>, ApiError> {
    let heads = env.load_heads(&command.ids).await?;
    let mut victims: Victims = command
        .ids
        .iter()
        .map(|id| find(command, &heads, id))
        .collect();
    fail_whole_if_atomic(command, &victims)?;
    match decided.lock().await.take() {
        Some(decided) => keep_refusals(decided, &mut victims),
        None => run_before_hooks(env, command, &mut victims, attempt_id).await,
    }
    let asked = victims.clone();
    fail_whole_if_atomic(command, &victims)?;
    let mut plan = Plan::default();
    let now = env.clock.now();
    // A record does not hold itself, nor do those that go before it.
    let mut gone = Vec::new();
    for victim in &mut victims {
        let Ok(head) = victim else { continue };
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
        return Ok(Outcome::Done((victims, heads.position)));
    }
    Ok(
        match commit(&env.log, plan, heads.position, &command.context).await? {
            Outcome::Done(commit) => Outcome::Done((victims, commit.last_position())),
            Outcome::Conflict => {
                if before::have_written(env, attempt_id, heads.position).await {
                    *decided.lock().await = Some(asked);
                }
                Outcome::Conflict
            }
        },
    )
}

async fn run_before_hooks(
    env: &RecordEnv,
    command: &DeleteRecords,
    victims: &mut Victims,
    attempt_id: Uuid,
) {
    for victim in victims {
        let Ok(head) = victim else { continue };
        let run = hooks::run(
            &env.plugins,
            hooks::Occasion {
                trigger: Trigger::BeforeDelete,
                context: &command.context,
                attempt: attempt_id,
            },
            &head.record,
            None,
        );
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
    let definitions = env.live.get_types();
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

async fn after_delete(
    env: &RecordEnv,
    command: &DeleteRecords,
    head: &Head,
    position: u64,
    attempt_id: Uuid,
) -> Result<RecordId, ItemError> {
    let id = &head.record.id;
    let points = env.plugins.points();
    if !points
        .hooks(&id.record_type, Trigger::AfterDelete)
        .is_empty()
    {
        let ran = async {
            env.applied.wait_for(position).await?;
            let (trigger, context) = (Trigger::AfterDelete, &command.context);
            hooks::run(
                &env.plugins,
                hooks::Occasion {
                    trigger,
                    context,
                    attempt: attempt_id,
                },
                &head.record,
                None,
            )
            .await
        };
        ran.await.map_err(|error| failed(id, error))?;
    }
    Ok(id.clone())
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
