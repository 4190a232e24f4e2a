//! The before-hooks of a save, one record after the other, and what they bring: files, and fields
//! that no record had before.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::Commit;
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::Fields;
use uuid::Uuid;

use super::draft::Draft;
use super::env::RecordEnv;
use super::messages::{ItemError, SaveRecords};
use super::save::failed;
use super::{hooks, migrate, types};

/// How far back a save looks for what its own hooks wrote.
const MAX_OVERTAKING_EVENTS: usize = 10_000;

/// Runs the hooks on the drafts. A record whose hooks refuse it, or bring what its type cannot take,
/// fails by itself.
///
/// # Errors
/// What the log or the files' catalogue says.
pub(super) async fn run(
    env: &RecordEnv,
    command: &SaveRecords,
    drafts: &mut [Result<Draft, ItemError>],
    attempt: Uuid,
) -> Result<(), ApiError> {
    let mut has_changed = false;
    for slot in drafts.iter_mut() {
        let Ok(draft) = slot else { continue };
        let done = hooks::before_save(&env.plugins, draft, &command.context, attempt).await;
        has_changed |= !draft.provenance.is_empty();
        if let Err(error) = done {
            *slot = Err(failed(&draft.record.id, error));
        }
    }
    if !has_changed {
        return Ok(());
    }
    let fields = drafts.iter_mut().flatten();
    let fields = fields.map(|draft| &mut draft.record.fields);
    env.assets.complete(fields).await?;
    // The extension overtakes this save, which must know it for its own.
    let mut context = command.context.clone();
    context.ancestors.push(attempt);
    let brought = refuse_unfit(env, drafts, context.may_migrate);
    let brought = brought.iter().map(|(id, fields)| (id, fields));
    types::extend_by(env, brought, &context).await
}

/// Whether the hooks of a save, which names itself `id`, wrote something since `position`.
pub(crate) async fn have_written(env: &RecordEnv, id: Uuid, position: u64) -> bool {
    if env.plugins.points().hooks.is_empty() {
        return false;
    }
    let since = env.log.read(position + 1, MAX_OVERTAKING_EVENTS).await;
    let is_own = |commit: &Arc<Commit>| commit.causation == Some(id);
    since.is_ok_and(|commits| commits.iter().any(is_own))
}

/// Fails the records that types cannot be extended for, together with those before them; returns
/// what the others bring.
fn refuse_unfit(
    env: &RecordEnv,
    drafts: &mut [Result<Draft, ItemError>],
    may_migrate: bool,
) -> Vec<(RecordId, Fields)> {
    let definition_of = |name: &TypeName| env.definition(name);
    let check = |records: &[(RecordId, Fields)]| {
        let records = records.iter().map(|(id, fields)| (id, fields));
        migrate::extensions(records, definition_of, may_migrate).map(drop)
    };
    let bring = |draft: &Draft| (draft.record.id.clone(), draft.record.fields.clone());
    let all: Vec<_> = drafts.iter().flatten().map(bring).collect();
    if check(&all).is_ok() {
        return all;
    }
    let mut fitting = Vec::with_capacity(all.len());
    for slot in drafts {
        let Ok(draft) = slot else { continue };
        fitting.push(bring(draft));
        if let Err(error) = check(&fitting) {
            fitting.pop();
            *slot = Err(failed(&draft.record.id, error));
        }
    }
    fitting
}
