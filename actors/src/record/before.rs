//! The before-hooks of a save, run one record after the other, and what they bring: files, and
//! fields that the type did not have before.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Stream};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::Fields;

use super::draft::Draft;
use super::env::RecordEnv;
use super::messages::{ItemError, SaveRecords};
use super::save::failed;
use super::{hooks, migrate, types};
use crate::context::{Cause, RequestContext};
use crate::plugin::Trigger;

/// How many events a save searches at most for what was written while its hooks ran.
const MAX_OVERTAKING_EVENTS: usize = 10_000;

/// Runs the hooks on the drafts. A record fails alone if its hooks refuse it, or bring what its
/// type cannot take.
///
/// # Errors
/// Those of the log or of the files' catalogue.
pub(super) async fn run(
    env: &RecordEnv,
    command: &SaveRecords,
    drafts: &mut [Result<Draft, ItemError>],
    cause: &Cause,
) -> Result<(), ApiError> {
    let mut has_changed = false;
    for slot in drafts.iter_mut() {
        let Ok(draft) = slot else { continue };
        let done = hooks::before_save(&env.plugins, draft, &command.context, cause).await;
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
    // The extension of the type overtakes this save, which must recognise it as its own.
    let mut context = command.context.clone();
    context.ancestors.push(cause.clone());
    let brought = refuse_unfit(env, drafts, context.may_migrate);
    let brought = brought.iter().map(|(id, fields)| (id, fields));
    types::extend_by(env, brought, &context).await
}

/// Whether there is a hook for any of the drafts.
pub(crate) fn are_hooked(env: &RecordEnv, drafts: &[Result<Draft, ItemError>]) -> bool {
    let points = env.plugins.points();
    let mut drafts = drafts.iter().flatten();
    drafts.any(|draft| {
        let record_type = &draft.record.id.record_type;
        !points.hooks(record_type, Trigger::BeforeSave).is_empty()
    })
}

/// What hooks decided about records as they were at a position.
#[derive(Debug)]
pub(crate) struct Decided<T> {
    /// The decision.
    pub(crate) what: T,
    /// The position.
    pub(crate) position: u64,
}

impl<T> Decided<T> {
    /// Returns the decision if it still counts at `until`.
    ///
    /// It counts if the hooks of this save or deletion have written something, themselves or
    /// through further hooks, and nobody else has changed any of the records, the caller or the
    /// rules of access to fields.
    pub(crate) async fn if_it_counts(
        self,
        env: &RecordEnv,
        (context, cause): (&RequestContext, &Cause),
        records: &[RecordId],
        until: u64,
    ) -> Option<Self> {
        if env.plugins.points().hooks.is_empty() {
            return None;
        }
        let since = env.log.read(self.position + 1, MAX_OVERTAKING_EVENTS).await;
        let mut since = since.ok()?;
        let is_all = since.last()?.last_position() >= until;
        since.retain(|commit| commit.first_position() <= until);
        let is_own = |commit: &Arc<Commit>| cause.has_caused(commit.id);
        let have_written = since.iter().any(is_own);
        let counts = |stream: &Stream| match stream {
            Stream::Record(id) => records.contains(id),
            // The decision is applied to the records without checking again what the caller may do.
            Stream::User(user) => context.caller.user.as_ref() == Some(user),
            Stream::FieldAccess => true,
            _ => false,
        };
        let has_changed = |commit: &Commit| commit.events.iter().any(|event| counts(&event.stream));
        let is_others = |commit: &Arc<Commit>| !is_own(commit) && has_changed(commit);
        (is_all && have_written && !since.iter().any(is_others)).then_some(self)
    }
}

/// Fails the records for which types cannot be extended, given the records before them. Returns
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
