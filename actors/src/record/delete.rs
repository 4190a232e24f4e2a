//! Deleting records: access, before-hooks, decision, commit, after-hooks.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use skytrail_schema::acl::Level;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::Head;
use tokio::sync::Mutex;

use super::attempt::{Outcome, commit_announced, retry_in_turn};
use super::before::Decided;
use super::decide::Plan;
use super::draft::no_permission;
use super::env::{Heads, RecordEnv, Rights};
use super::messages::{DeleteRecords, ItemError, ItemResults};
use super::page_bytes::PageBytes;
use super::turns::Turns;
use super::{hooks, save};
use crate::context::Cause;
use crate::delivery::consumers::CommitAnswers;
use crate::store::Referrers;

/// For each id: the record to delete, or why it is not deleted.
type DeletionTargets = Vec<Result<Arc<Head>, ItemError>>;

/// Deletes records; see the module's overview.
///
/// # Errors
/// Whatever fails the request as a whole.
pub async fn delete(
    env: &RecordEnv,
    turns: &Turns,
    command: DeleteRecords,
) -> Result<ItemResults<RecordId>, ApiError> {
    let cause = Cause::begin();
    let decided = Mutex::new(None);
    let turn = turns.take(&command.context, command.ids.iter());
    let deletion = retry_in_turn(turn, |_| attempt(env, &command, &cause, &decided)).await?;
    let Deletion {
        targets,
        position,
        mut commit_answers,
    } = deletion;
    let env = env.for_caller(&command.context.caller);
    let rows = targets.into_iter().map(|target| {
        let answered = target.as_ref().ok().map(|head| {
            let event_answers = commit_answers.take(&head.record.id);
            event_answers.all_ok(&env.applied, position)
        });
        (target, answered)
    });
    let answers = rows.map(|(target, answered)| async {
        let id = target?.record.id.clone();
        if let Some(answered) = answered {
            answered.await.map_err(|error| failed(&id, error))?;
        }
        Ok(id)
    });
    Ok(join_all(answers.collect::<Vec<_>>()).await)
}

/// The outcome of a deletion, before after-hooks.
struct Deletion {
    targets: DeletionTargets,
    /// The deletion's position in the log.
    position: u64,
    /// The answers of the after-hooks.
    commit_answers: CommitAnswers,
}

async fn attempt(
    env: &RecordEnv,
    command: &DeleteRecords,
    cause: &Cause,
    decided: &Mutex<Option<Decided<DeletionTargets>>>,
) -> Result<Outcome<Deletion>, ApiError> {
    let request = command.context.request.id();
    env.fences.records.pass(&command.ids, Some(request)).await;
    let room = PageBytes::new(env.max_page_bytes, "ids");
    let heads = env.load_heads_within(&command.ids, room).await?;
    let caller = &command.context.caller;
    let rights = if command.has_kept_roles {
        env.rights_as_given(caller.clone())
    } else {
        env.rights_of(caller).await?
    };
    let mut targets: DeletionTargets = command
        .ids
        .iter()
        .map(|id| find((command, &rights), &heads, id))
        .collect();
    fail_whole_if_atomic(command, &targets)?;
    let own = (&command.context, cause);
    let earlier = match decided.lock().await.take() {
        Some(earlier) => {
            let counts = earlier.if_it_counts(env, own, &command.ids, heads.position);
            counts.await
        }
        None => None,
    };
    let decided_at = match earlier {
        Some(Decided { what, position }) => {
            keep_refusals(what, &mut targets);
            position
        }
        None => {
            run_before_hooks(env, command, &mut targets, cause).await;
            heads.position
        }
    };
    let requested = targets.clone();
    fail_whole_if_atomic(command, &targets)?;
    let mut plan = Plan::default();
    plan.reads.extend(rights.keys());
    let now = env.clock.now();
    let referrers = find_referrers(env, &ids_of(&targets), heads.position).await?;
    for target in &mut targets {
        let Ok(head) = target else { continue };
        let id = &head.record.id;
        if plan.leaves(id) == Some(false) {
            // Named before: it is deleted once.
            continue;
        }
        // References from the record itself, or from records deleted before it, do not hold it.
        let holds = |other: &RecordId| other != id && plan.leaves(other) != Some(false);
        let mut among = referrers.among.get(id).into_iter().flatten();
        if referrers.others.contains_key(id) || among.any(holds) {
            *target = Err(failed(id, still_referred(id)));
            continue;
        }
        let definition = env.definition(&id.record_type);
        plan.delete(head, &definition, now, command.context.caller.user.clone());
    }
    fail_whole_if_atomic(command, &targets)?;
    if plan.events.is_empty() {
        return Ok(Outcome::Done(Deletion {
            targets,
            position: heads.position,
            commit_answers: CommitAnswers::default(),
        }));
    }
    let originals = targets.iter().flatten();
    let originals = originals.map(|head| (head.record.id.clone(), Arc::clone(head)));
    let originals = originals.collect();
    let (plan, context) = ((plan, heads.position), &command.context);
    let done = commit_announced(env, plan, originals, (context, context)).await?;
    if matches!(done, Outcome::Conflict) {
        *decided.lock().await = Some(Decided {
            what: requested,
            position: decided_at,
        });
    }
    Ok(done.map(|(commit, commit_answers)| Deletion {
        targets,
        position: commit.last_position(),
        commit_answers,
    }))
}

async fn run_before_hooks(
    env: &RecordEnv,
    command: &DeleteRecords,
    targets: &mut DeletionTargets,
    cause: &Cause,
) {
    for target in targets {
        let Ok(head) = target else { continue };
        let (record, context) = (&head.record, &command.context);
        let run = hooks::before_delete(&env.plugins, record, context, cause);
        if let Err(error) = run.await {
            *target = Err(failed(&head.record.id, error));
        }
    }
}

/// Keeps the hooks' refusals if only the hooks themselves have overtaken the deletion: they may
/// have saved these very records.
fn keep_refusals(decided: DeletionTargets, targets: &mut DeletionTargets) {
    for (decided, target) in decided.into_iter().zip(targets) {
        if decided.is_err() {
            *target = decided;
        }
    }
}

fn find(
    (command, rights): (&DeleteRecords, &Rights),
    heads: &Heads,
    id: &RecordId,
) -> Result<Arc<Head>, ItemError> {
    if id.record_type.is_user() {
        let error = ApiError::new(Code::PermissionDenied, "cannot delete user record");
        return Err(failed(id, error));
    }
    let head = heads.get(id).filter(|head| {
        let is_owned = |owner| head.record.owner.as_ref() == Some(owner);
        head.record.database == command.database && command.owner.as_ref().is_none_or(is_owned)
    });
    let Some(head) = head else {
        return Err(failed(
            id,
            ApiError::new(Code::ResourceNotFound, "record not found"),
        ));
    };
    if rights.caller.may(Level::Write, &head.record) {
        Ok(Arc::clone(head))
    } else {
        Err(failed(id, no_permission()))
    }
}

/// Returns the ids of the records to delete, each once.
fn ids_of(targets: &DeletionTargets) -> Vec<RecordId> {
    let ids = targets.iter().flatten().map(|head| &head.record.id);
    let ids: BTreeSet<&RecordId> = ids.collect();
    ids.into_iter().cloned().collect()
}

fn still_referred(id: &RecordId) -> ApiError {
    let message =
        format!("delete {id}: failed to delete record because other records have reference to it");
    ApiError::new(Code::ConstraintViolated, message)
}

/// Finds another record that refers to this one, as of `position` or later.
pub(crate) async fn find_referrer(
    env: &RecordEnv,
    id: &RecordId,
    position: u64,
) -> Result<Option<RecordId>, ApiError> {
    let found = find_referrers(env, std::slice::from_ref(id), position).await?;
    Ok(found.others.into_values().next())
}

/// Finds out which records refer to the given ones. It first waits until the store has applied
/// `position`, so that the resolver finds any reference that is added later.
async fn find_referrers(
    env: &RecordEnv,
    ids: &[RecordId],
    position: u64,
) -> Result<Referrers, ApiError> {
    let definitions = env.model.get_types();
    let types: BTreeSet<&TypeName> = ids.iter().map(|id| &id.record_type).collect();
    let is_referable = definitions.iter().any(|definition| {
        let mut fields = definition.fields.values();
        fields.any(|field| types.iter().any(|name| field.refers_to(name)))
    });
    if !is_referable {
        return Ok(Referrers::default());
    }
    env.applied.wait_for(position).await?;
    Ok(env.store.find_referrers(ids, &definitions).await?)
}

fn failed(id: &RecordId, error: ApiError) -> ItemError {
    ItemError {
        id: Some(id.clone()),
        error,
    }
}

fn fail_whole_if_atomic(
    command: &DeleteRecords,
    targets: &DeletionTargets,
) -> Result<(), ApiError> {
    let errors = targets.iter().filter_map(|target| target.as_ref().err());
    if command.is_atomic {
        save::fail_whole(errors)
    } else {
        Ok(())
    }
}
