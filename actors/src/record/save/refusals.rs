//! What a save refuses besides the steps' own decisions, and what becomes of the other items when
//! one fails.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::record::Head;

use super::{Drafts, room};
use crate::record::decide::Plan;
use crate::record::draft::Draft;
use crate::record::env::RecordEnv;
use crate::record::messages::{ItemError, ItemResults, SaveRecords};

pub(super) fn refuse_malformed_atomic(command: &SaveRecords) -> Result<(), ApiError> {
    let errors: Vec<Json> = command
        .items
        .iter()
        .filter_map(|item| item.as_ref().err())
        .map(|failed| failed.error.to_wire())
        .collect();
    if !command.is_atomic || errors.is_empty() {
        return Ok(());
    }
    let error = ApiError::new(Code::InvalidArgument, "fails to de-serialize records");
    Err(error
        .with_info("arguments", "records".into())
        .with_info("errors", errors.into()))
}

/// Refuses to create the record of a user who was erased: the caller may not have heard of it.
pub(super) async fn refuse_erased(env: &RecordEnv, drafts: &mut Drafts) -> Result<(), ApiError> {
    for slot in drafts {
        let Some(user) = slot.as_ref().ok().and_then(new_user) else {
            continue;
        };
        if !env.has_user(&user).await?
            && let Err(error) = env.refuse_erased(&user)
        {
            *slot = Err(failed(&RecordId::user(&user), error));
        }
    }
    Ok(())
}

/// Refuses to restore what was erased while the hooks ran.
pub(super) async fn refuse_erased_past(
    env: &RecordEnv,
    command: &SaveRecords,
    drafts: &mut Drafts,
) {
    for (item, slot) in command.items.iter().zip(drafts) {
        let restored = item.as_ref().ok().and_then(|item| item.restored.as_ref());
        if let (Some(restored), Ok(draft)) = (restored, &slot)
            && let Err(error) = restored.check(env).await
        {
            *slot = Err(failed(&draft.record.id, error));
        }
    }
}

/// Returns the user whose record a draft creates, if it does.
pub(super) fn new_user(draft: &Draft) -> Option<UserId> {
    let id = &draft.record.id;
    let is_new = draft.original.is_none() && id.record_type.is_user();
    is_new.then(|| UserId::from(id.key.as_str()))
}

/// Refuses a save whose answer would have too many bytes, before anything is stored: the answer for
/// each copy has what all copies and their hooks bring.
pub(super) fn check_answer(env: &RecordEnv, drafts: &Drafts, plan: &Plan) -> Result<(), ApiError> {
    let mut room = room(env);
    let saved = drafts.iter().flatten();
    for record in saved.filter_map(|draft| plan.record(&draft.record.id)) {
        room.take(record)?;
    }
    Ok(())
}

pub(super) fn fail_whole_if_atomic(command: &SaveRecords, drafts: &Drafts) -> Result<(), ApiError> {
    if command.is_atomic {
        fail_whole(drafts.iter().filter_map(|slot| slot.as_ref().err()))
    } else {
        Ok(())
    }
}

/// Fails an atomic request in which something failed.
pub(in crate::record) fn fail_whole<'a>(
    errors: impl Iterator<Item = &'a ItemError>,
) -> Result<(), ApiError> {
    let info: Map<String, Json> = errors
        .filter_map(|failed| Some((failed.id.as_ref()?.to_string(), failed.error.to_wire())))
        .collect();
    if info.is_empty() {
        return Ok(());
    }
    let message = "Atomic Operation rolled back due to one or more errors";
    Err(ApiError {
        info,
        ..ApiError::new(Code::AtomicOperationFailure, message)
    })
}

/// Answers with a failure for every copy of a record in one request if one of them fails, as v1
/// does.
pub(super) fn spread_failures(results: &mut ItemResults<Arc<Head>>) {
    let failures: HashMap<RecordId, ApiError> = results
        .iter()
        .filter_map(|slot| slot.as_ref().err())
        .filter_map(|failed| Some((failed.id.clone()?, failed.error.clone())))
        .collect();
    for slot in results {
        if let Ok(head) = slot
            && let Some(error) = failures.get(&head.record.id)
        {
            *slot = Err(failed(&head.record.id, error.clone()));
        }
    }
}

/// Adds the id of the record that failed.
pub(in crate::record) fn failed(id: &RecordId, error: ApiError) -> ItemError {
    ItemError {
        id: Some(id.clone()),
        error,
    }
}
