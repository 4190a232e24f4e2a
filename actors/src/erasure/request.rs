//! Requesting an erasure.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{ErasureRequest, ErasureScope, Event, EventBody, EventKind, Stream};
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::positions::Positions;
use skytrail_schema::record::{Head, Record};
use tokio::time::Instant;
use uuid::Uuid;

use super::files::FilesSought;
use super::{Eraser, NamedFiles};
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, commit, retry_in_turn};
use crate::record::decide::Plan;
use crate::record::draft::no_permission;
use crate::record::fence::HeldUp;
use crate::record::messages::DeleteRecords;
use crate::record::past;

/// How long a request waits for the end; what is not done by then continues anyway.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long before its own deadline a request is answered.
const MARGIN: Duration = Duration::from_secs(2);

/// Erases a record and its whole past. A record that exists is deleted first.
#[derive(Clone, Debug)]
pub struct EraseRecord {
    /// The caller: the master key, or an administrator.
    pub context: RequestContext,
    /// The record.
    pub id: RecordId,
    /// The reason, which is kept in the log.
    pub why: String,
    /// Whether files that nothing else names are removed.
    pub with_files: bool,
}

/// An erasure that was requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Its stream in the log.
    pub erasure: Stream,
    /// The position of the request in the log.
    pub position: u64,
    /// How many events lose their payloads.
    pub num_events: u64,
    /// The files that are removed, and those that stay.
    #[serde(flatten)]
    pub files: NamedFiles,
    /// Whether it is already done everywhere.
    pub finished: bool,
}

/// How the erasure of a record is requested.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// Whether nothing can refuse it: neither access control, nor hooks, nor references.
    pub(super) is_forced: bool,
    /// The owner's erasure that it belongs to.
    pub(super) part_of: Option<u64>,
}

impl Erased {
    /// Returns what the caller is told of it.
    pub(super) fn told_to(self, context: &RequestContext) -> Self {
        let files = self.files.told_to(&context.caller);
        Self { files, ..self }
    }
}

impl Eraser {
    /// Erases a record; returns when it is gone, or when that takes too long.
    ///
    /// # Errors
    /// Those of a deletion; 110 if there is nothing to erase; 102 for another user's private
    /// record.
    pub async fn record(&self, command: EraseRecord) -> Result<Erased, ApiError> {
        let requested = self.request_record(&command, Way::default()).await?;
        let erased = self.await_end(requested, &command.context).await?;
        Ok(erased.told_to(&command.context))
    }

    /// Like [`Eraser::record`], but does not wait for the end.
    pub(super) async fn request_record(
        &self,
        command: &EraseRecord,
        way: Way,
    ) -> Result<Erased, ApiError> {
        let turn = self.hold_up(&command.id, &command.context);
        retry_in_turn(turn, |_| self.try_request_record(command, way)).await
    }

    /// Holds up what others write to a record.
    pub(super) async fn hold_up(
        &self,
        id: &RecordId,
        context: &RequestContext,
    ) -> HeldUp<RecordId> {
        self.env.fences.records.hold_up(id, context.request.id())
    }

    async fn try_request_record(
        &self,
        command: &EraseRecord,
        Way { is_forced, part_of }: Way,
    ) -> Result<Outcome<Erased>, ApiError> {
        let EraseRecord {
            context, id, why, ..
        } = command;
        let (position, head) = self.env.load_head(id).await?;
        self.env.applied.wait_for(position).await?;
        let of_owner = part_of.and_then(|part_of| self.erasures.get(part_of));
        let owner = match of_owner.as_ref().map(|it| &it.request.scope) {
            Some(ErasureScope::User(user)) => Some(user),
            _ => None,
        };
        if let Some(owner) = owner
            && self.is_of_others(id, head.as_deref(), owner).await?
        {
            return Err(nothing(id));
        }
        match &head {
            Some(head) if !is_forced => {
                check(context, Some(&head.record))?;
                // Requests of earlier builds lack the roles: those of now count. The master key needs
                // none, and may name somebody who was erased since.
                let caller = &context.caller;
                let has_roles = caller.is_master() || !caller.roles.is_empty();
                let has_kept_roles = part_of.is_some() && has_roles;
                self.delete(DeleteRecords {
                    context: context.clone(),
                    database: head.record.database.clone(),
                    ids: vec![id.clone()],
                    // While hooks are asked, others can delete it and create another one.
                    owner: owner.cloned(),
                    is_atomic: false,
                    has_kept_roles,
                })
                .await?;
                return Ok(Outcome::Conflict);
            }
            Some(head) if !self.is_emptied(head).await? => {
                let mut plan = Plan::default();
                self.plan_without_record(&mut plan, head, context, position)
                    .await?;
                commit(&self.env.log, plan, position, context).await?;
                return Ok(Outcome::Conflict);
            }
            None if !is_forced => {
                let last = past::last_state(&self.env, id).await?;
                check(context, last.as_ref())?;
            }
            _ => {}
        }
        let stream = Stream::Record(id.clone());
        let positions = self.with_payloads(&stream, position, part_of).await?;
        // The last version of a record that stays is empty, and is not erased.
        let last = head.map(|head| head.position);
        let positions: Positions = positions.iter().filter(|it| Some(*it) != last).collect();
        let scope = ErasureScope::Record(stream.clone());
        if positions.is_empty() && !self.is_kept_beside(slice::from_ref(&scope)).await? {
            return Err(nothing(id));
        }
        let sought = command.with_files.then(|| positions.iter().collect());
        let request = ErasureRequest {
            part_of,
            ..ErasureRequest::new(scope, why.clone(), positions)
        };
        let read = (position, vec![ConflictKey::record(id)]);
        self.request((Plan::default(), request), sought, read, context)
            .await
    }

    /// Returns whether a record is not a user's: after the user's was deleted, another one can have
    /// been created under its id.
    pub(super) async fn is_of_others(
        &self,
        id: &RecordId,
        head: Option<&Head>,
        user: &UserId,
    ) -> Result<bool, ApiError> {
        let last = match head {
            Some(head) => Some(head.record.clone()),
            None => past::last_state(&self.env, id).await?,
        };
        Ok(last.is_some_and(|record| record.owner.as_ref() != Some(user)))
    }

    /// Returns whether a holder keeps something about any of these scopes that is not in the log:
    /// changes by SQL that could not be imported.
    pub(super) async fn is_kept_beside(&self, scopes: &[ErasureScope]) -> Result<bool, ApiError> {
        // After this, what waited is parked or in the log.
        self.env.captured.drain().await?;
        for holder in &self.holders {
            if holder.keeps_beside(scopes).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Loads a record whose past is to be erased, if it exists, and checks the caller's rights.
    /// Returns the position as of which it is known.
    pub(super) async fn load_checked(
        &self,
        id: &RecordId,
        context: &RequestContext,
    ) -> Result<(u64, Option<Arc<Head>>), ApiError> {
        let (position, head) = self.env.load_head(id).await?;
        self.env.applied.wait_for(position).await?;
        let last = match &head {
            Some(head) => Some(head.record.clone()),
            None => past::last_state(&self.env, id).await?,
        };
        check(context, last.as_ref())?;
        Ok((position, head))
    }

    async fn delete(&self, command: DeleteRecords) -> Result<(), ApiError> {
        let results = self.records.delete(command).await?;
        for result in results {
            match result {
                // Another request deleted it first.
                Err(item) if item.error.code == Code::ResourceNotFound => {}
                Err(item) => return Err(item.error),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Finds the events of a record's stream that have a payload, and those that the owner's erasure
    /// `part_of` has made blank: until the record is deleted, the store has their content, and keeps
    /// it as the past of a temporal type.
    pub(super) async fn with_payloads(
        &self,
        stream: &Stream,
        until: u64,
        part_of: Option<u64>,
    ) -> Result<Positions, ApiError> {
        const HOLDING: [EventKind; 3] = [
            EventKind::RecordCreated,
            EventKind::RecordChanged,
            EventKind::RecordReplaced,
        ];
        let is_holding = |event: &Event| {
            let is_left = match event.body.erased() {
                None => true,
                Some(mark) => part_of.is_some() && mark.map(|mark| mark.position) == part_of,
            };
            is_left && HOLDING.contains(&event.body.kind())
        };
        let found = self.in_stream(stream, until, is_holding).await?;
        Ok(found.into_iter().collect())
    }

    /// Commits the intent, after the events that the plan already has, unless something that it
    /// rests on has changed. The files that are sought are erased as well, unless something else
    /// names them.
    pub(super) async fn request(
        &self,
        (mut plan, mut request): (Plan, ErasureRequest),
        sought: Option<FilesSought>,
        (position, reads): (u64, Vec<ConflictKey>),
        context: &RequestContext,
    ) -> Result<Outcome<Erased>, ApiError> {
        let mut files = NamedFiles::default();
        if let Some(sought) = sought {
            let files_of = self.files_of(sought, &request.positions, &plan.events, position);
            files = files_of.await?;
        }
        for name in &files.erased {
            // Of this and a save at once that names the file, the second is decided again.
            plan.reads.insert(ConflictKey::uses_of_file(name));
            let file = ConflictKey::stream(&Stream::Asset(name.clone()));
            plan.reads.insert(file);
            plan.writes.insert(file);
        }
        request.files = files.erased.iter().cloned().collect();
        let erasure = Stream::Erasure(Uuid::now_v7());
        let num_events = request.positions.len();
        plan.push(erasure.clone(), 1, EventBody::ErasureRequested(request));
        // What rests on the past of these is decided again.
        plan.writes.extend(&reads);
        plan.reads.extend(reads);
        let done = commit(&self.env.log, plan, position, context).await?;
        Ok(done.map(|commit| Erased {
            erasure,
            position: commit.last_position(),
            num_events,
            files,
            finished: false,
        }))
    }

    /// Waits until an erasure is done everywhere, as long as the answer can wait.
    pub(super) async fn await_end(
        &self,
        requested: Erased,
        context: &RequestContext,
    ) -> Result<Erased, ApiError> {
        let wait_until = Instant::now() + MAX_WAIT;
        let wait_until = context.deadline.map_or(wait_until, |deadline| {
            wait_until.min(deadline.checked_sub(MARGIN).unwrap_or(deadline))
        });
        let is_finished = || {
            let erasure = self.erasures.get(requested.position);
            erasure.is_some_and(|erasure| erasure.is_finished())
        };
        let mut num_open = self.erasures.watch();
        while !is_finished() {
            let change = tokio::time::timeout_at(wait_until, num_open.changed());
            match self.stopping.run_until_cancelled(change).await {
                Some(Ok(Ok(()))) => {}
                _ => return Ok(requested),
            }
        }
        Ok(Erased {
            finished: true,
            ..requested
        })
    }
}

/// Refuses to let an administrator erase what only the master key can: another user's private
/// record. A record of which nothing is known is let through.
pub(super) fn check(context: &RequestContext, record: Option<&Record>) -> Result<(), ApiError> {
    let caller = &context.caller;
    let belongs_to_user = |record: &Record| match &record.database {
        Database::Public => true,
        Database::Private(owner) => caller.user.as_ref() == Some(owner),
    };
    if caller.is_master() || record.is_none_or(belongs_to_user) {
        Ok(())
    } else {
        Err(no_permission())
    }
}

/// Returns the error that there is nothing to erase.
pub(super) fn nothing(what: &dyn std::fmt::Display) -> ApiError {
    let message = format!("the log contains nothing of {what}");
    ApiError::new(Code::ResourceNotFound, message)
}
