//! The before-hooks of a save, run one record after the other, and what they bring: files, and
//! fields that the type did not have before.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Stream};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::Fields;
use uuid::Uuid;

use super::draft::Draft;
use super::env::RecordEnv;
use super::messages::{ItemError, SaveRecords};
use super::save::failed;
use super::{hooks, migrate, types};
use crate::context::RequestContext;
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
    // The extension of the type overtakes this save, which must recognise it as its own.
    let mut context = command.context.clone();
    context.ancestors.push(attempt);
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

/// Which commits are those of a save's or deletion's own hooks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    /// The request.
    pub(crate) context: &'a RequestContext,
    /// The id of the save or deletion, which its hooks name as their cause.
    pub(crate) id: Uuid,
    /// Whether only what a hook itself stored counts, and not what further hooks stored because of
    /// that.
    ///
    /// The latter cannot be told from what a hook of another save of the same plugin's call stored.
    /// If this save requires something of its records, that hook may have required the same.
    pub(crate) is_direct: bool,
}

impl Own<'_> {
    fn has(&self, commit: &Commit) -> bool {
        if commit.causation == Some(self.id) {
            return true;
        }
        // Everything that the hooks cause, however indirectly, has this request's id. If a plugin's
        // call caused this save, other commits of that call have the id, too; but they name the
        // same cause as this save.
        let beside = self.context.ancestors.last().copied();
        let is_of_request = commit.request_id == Some(self.context.request.id());
        !self.is_direct && is_of_request && commit.causation != beside
    }
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
    /// It counts if the hooks of this save or deletion have written something, and nobody else has
    /// changed any of the records, the caller or the rules of access to fields.
    pub(crate) async fn if_it_counts(
        self,
        env: &RecordEnv,
        own: Own<'_>,
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
        let have_written = since.iter().any(|commit| commit.causation == Some(own.id));
        let counts = |stream: &Stream| match stream {
            Stream::Record(id) => records.contains(id),
            // The decision is applied to the records without checking again what the caller may do.
            Stream::User(user) => own.context.caller.user.as_ref() == Some(user),
            Stream::FieldAccess => true,
            _ => false,
        };
        let has_changed = |commit: &Commit| commit.events.iter().any(|event| counts(&event.stream));
        let is_others = |commit: &Arc<Commit>| !own.has(commit) && has_changed(commit);
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
