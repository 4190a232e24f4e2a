//! The records of an erased user. The user's erasure says that they are to be erased, too; here they
//! are, one after the other, each by a request of its own, while nobody waits.
//!
//! 1. **Which.** All that the user owns, or owned when they were deleted; without `all` only those of
//!    personal types. Those whose events the user's key sealed are found by the events that the
//!    user's erasure names: once the key is destroyed, nothing says who owned a deleted one.
//! 2. **How.** In the name of whoever erased the user, through access control and hooks, once the
//!    plugins are ready. Of personal types, none can be refused.
//! 3. **What was written meanwhile.** Saves that were in progress may have added records, and their
//!    events may have been sealed with a new key: the user is looked for again, and then erased again.
//! 4. **What fails.** Refusals are final and noted at the end. Anything else, such as a plugin that is
//!    not connected, keeps the user's erasure open, and is tried again.

use std::collections::{BTreeMap, BTreeSet};

use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, ErasureScope, OwnedRecords, RefusedRecord, Stream};
use skytrail_schema::id::{AssetName, RecordId, TypeName, UserId};
use uuid::Uuid;

use super::request::Way;
use super::work::PAUSES;
use super::{EraseRecord, EraseUser, Eraser, Refused};
use crate::context::{RequestContext, RequestId};
use crate::log::Erasure;
use crate::log::seek::{load_event, load_events};
use crate::record::attempt::retry_on_conflict;
use crate::record::delete::find_referrer;
use crate::record::past;

/// How many events are read at once.
const BATCH_SIZE: usize = 1000;
/// How many refused records the end of an erasure names.
const MAX_REFUSED: usize = 1000;

/// How far the records of an erased user are.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned {
    pub(super) state: OwnedState,
    /// Files that stay, because something else names them.
    pub(super) kept_files: BTreeSet<AssetName>,
    /// Records that could not be erased, with the reasons.
    pub(super) refused: Vec<Refused>,
    /// The same, as the log has them.
    noted: Vec<RefusedRecord>,
}

/// Whether an erased user's records are still to be erased.
#[derive(Clone, Debug, Default)]
pub(super) enum OwnedState {
    /// They are being erased, or wait for it.
    #[default]
    Begun,
    /// Some could not be erased at present.
    Failing(String),
    /// Their erasures are requested, except for those that are refused.
    Settled,
}

/// By the position of the user's erasure.
pub(super) type OwnedByErasure = BTreeMap<u64, Owned>;

impl Eraser {
    /// Returns how far the records of a user's erasure are.
    pub(super) fn owned_of(&self, position: u64) -> Owned {
        let owned = self.owned.lock();
        owned.get(&position).cloned().unwrap_or_default()
    }

    /// Returns whether the records of a user's erasure are still to be erased.
    pub(super) fn owned_state(&self, position: u64) -> OwnedState {
        let owned = self.owned.lock();
        owned
            .get(&position)
            .map(|owned| owned.state.clone())
            .unwrap_or_default()
    }

    /// Returns what the end of an erasure says of refused records: how many, and the first of them.
    pub(super) fn refused_of(&self, position: u64) -> (u64, Vec<RefusedRecord>) {
        let mut noted = self.owned_of(position).noted;
        let num_refused = noted.len().try_into().unwrap_or(u64::MAX);
        noted.truncate(MAX_REFUSED);
        (num_refused, noted)
    }

    /// Returns which records are to be erased with a user.
    pub(super) fn owned_records(
        &self,
        command: &EraseUser,
        has_sealed: bool,
    ) -> Option<OwnedRecords> {
        let has_some = command.with_records || has_sealed || !self.personal_types().is_empty();
        has_some.then_some(OwnedRecords {
            all: command.with_records,
            files: command.with_files,
        })
    }

    /// Returns whether a user who is gone has left records that can be erased.
    pub(super) async fn has_records_left(
        &self,
        user: &UserId,
        records: Option<OwnedRecords>,
    ) -> Result<bool, ApiError> {
        let Some(records) = records else {
            return Ok(false);
        };
        let personal = self.personal_types();
        let is_selected = |name: &TypeName| records.all || personal.contains(name);
        for id in self.records_of(user, 1, is_selected).await? {
            if self.is_left(&id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether there is anything left of a record.
    async fn is_left(&self, id: &RecordId) -> Result<bool, ApiError> {
        let (position, head) = self.env.load_head(id).await?;
        if let Some(head) = &head
            && !self.is_emptied(head).await?
        {
            return Ok(true);
        }
        let last = head.map(|head| head.position);
        let stream = Stream::Record(id.clone());
        let positions = self.with_payloads(&stream, position, None).await?;
        if positions.iter().any(|it| Some(it) != last) {
            return Ok(true);
        }
        self.is_kept_beside(&ErasureScope::Record(stream)).await
    }

    /// Erases the records of erased users, for ever.
    pub(super) async fn erase_owned(&self) {
        let mut num_open = self.erasures.watch();
        let mut pause = PAUSES.0;
        loop {
            let is_left = |_: &usize| !self.with_records_left().is_empty();
            if num_open.wait_for(is_left).await.is_err() {
                return;
            }
            let positions = self.with_records_left();
            for erasure in positions.iter().filter_map(|it| self.erasures.get(*it)) {
                self.settle(&erasure).await;
            }
            if self.with_records_left().is_empty() {
                pause = PAUSES.0;
                continue;
            }
            // A new one need not wait for those that failed.
            let more = num_open.wait_for(|_| self.with_records_left().last() > positions.last());
            let _ = tokio::time::timeout(pause, more).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Returns the erasures of users whose records are not settled yet, in order.
    fn with_records_left(&self) -> Vec<u64> {
        let mut positions = self.erasures.with_open_records();
        positions.retain(|it| !matches!(self.owned_state(*it), OwnedState::Settled));
        positions
    }

    async fn settle(&self, erasure: &Erasure) {
        let position = erasure.mark.position;
        let mut owned = Owned {
            kept_files: self.owned_of(position).kept_files,
            ..Owned::default()
        };
        owned.state = match self.erase_records_of(erasure, &mut owned).await {
            Ok(()) => OwnedState::Settled,
            Err(error) => {
                let erasure = &erasure.stream;
                tracing::warn!(%erasure, %error, "records of an erased user are not erased yet; trying again");
                OwnedState::Failing(error.message)
            }
        };
        self.owned.lock().insert(position, owned);
        self.erasures.wake();
    }

    async fn erase_records_of(&self, erasure: &Erasure, owned: &mut Owned) -> Result<(), ApiError> {
        // This comes first: it is quick, and takes effect in every copy of the log.
        let keys = self.log.destroy_keys(erasure.request.keys.clone()).await;
        keys.map_err(|error| ApiError::unexpected(error.to_string()))?;
        // Before that, nobody knows which hooks there are.
        self.env.plugins.points().readiness.check(false)?;
        let command = self.command_of(erasure).await?;
        let by = (&command, erasure.mark.position);
        let named = self.records_named_by(erasure).await?;
        let mut personal = self.personal_types();
        personal.extend(named.iter().map(|id| id.record_type.clone()));
        let is_selected = |name: &TypeName| command.with_records || personal.contains(name);
        let (mut refused, mut failure) = (Vec::new(), None);
        let (mut ids, mut tried) = (
            self.still_owned(named, &command.user).await?,
            BTreeSet::new(),
        );
        // Deletions before this position are known.
        let mut from = 1;
        loop {
            let begun_at = self.env.log.head();
            ids.extend(self.records_of(&command.user, from, is_selected).await?);
            from = begun_at + 1;
            ids.retain(|id| tried.insert(id.clone()));
            self.leave_out_done(erasure, &mut ids).await?;
            if ids.is_empty() {
                break;
            }
            let failed = self.request_records(by, std::mem::take(&mut ids), owned);
            for (id, mut error) in failed.await {
                if personal.contains(&id.record_type) {
                    match self.request_part(by, &id, true, owned).await {
                        Ok(()) => continue,
                        Err(after) => error = after,
                    }
                }
                if is_passing(&error) {
                    failure = failure.or(Some(error));
                } else if error.code != Code::ResourceNotFound {
                    // Else it is gone, or others refer to it and an earlier erasure has emptied it.
                    refused.push((id, error));
                }
            }
            if self.env.has_user(&command.user).await? {
                // An import has brought the user back, and what is written from now on stays.
                break;
            }
        }
        let again = |_| self.try_request_user(&command, Some(by.1));
        match retry_on_conflict(None, again).await {
            Err(error) if error.code == Code::ResourceNotFound => {}
            Err(error) => return Err(error),
            Ok(erased) => owned.kept_files.extend(erased.files.kept),
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        for (id, error) in refused {
            let referrer = find_referrer(&self.env, &id, self.env.log.head()).await?;
            owned.note_refused(id, error, referrer);
        }
        Ok(())
    }

    /// Returns the command that led to a user's erasure, in the name of whoever gave it.
    async fn command_of(&self, erasure: &Erasure) -> Result<EraseUser, ApiError> {
        let (commit, _) = load_event(&*self.env.log, erasure.mark.position).await?;
        let ErasureScope::User(user) = &erasure.request.scope else {
            return Err(ApiError::unexpected("records of nobody are to be erased"));
        };
        let records = erasure.request.records;
        Ok(EraseUser {
            context: context_of(&commit),
            user: user.clone(),
            why: erasure.request.why.clone(),
            with_records: records.is_some_and(|records| records.all),
            with_files: records.is_some_and(|records| records.files),
        })
    }

    /// Finds the records whose events the user's key sealed.
    async fn records_named_by(&self, erasure: &Erasure) -> Result<BTreeSet<RecordId>, ApiError> {
        let positions: Vec<u64> = erasure.request.positions.iter().collect();
        let mut named = BTreeSet::new();
        for some in positions.chunks(BATCH_SIZE) {
            for (_, event) in load_events(&*self.env.log, some).await? {
                if let Stream::Record(id) = event.stream
                    && !id.record_type.is_user()
                {
                    named.insert(id);
                }
            }
        }
        Ok(named)
    }

    /// Returns those of the records that have not got another owner.
    async fn still_owned(
        &self,
        named: BTreeSet<RecordId>,
        user: &UserId,
    ) -> Result<BTreeSet<RecordId>, ApiError> {
        self.env.applied.wait_for(self.env.log.head()).await?;
        let mut owned = BTreeSet::new();
        for id in named {
            let (_, head) = self.env.load_head(&id).await?;
            let last = match head {
                Some(head) => Some(head.record.clone()),
                None => past::last_state(&self.env, &id).await?,
            };
            if last.is_none_or(|record| record.owner.as_ref() == Some(user)) {
                owned.insert(id);
            }
        }
        Ok(owned)
    }

    /// Leaves out records whose erasure was requested before an interruption, unless they exist.
    async fn leave_out_done(
        &self,
        erasure: &Erasure,
        ids: &mut BTreeSet<RecordId>,
    ) -> Result<(), ApiError> {
        for part in self.erasures.parts_of(erasure.mark.position) {
            let ErasureScope::Record(Stream::Record(id)) = &part.request.scope else {
                continue;
            };
            if !ids.contains(id) {
                continue;
            }
            let (_, head) = self.env.load_head(id).await?;
            let is_done = match head {
                Some(head) => self.is_emptied(&head).await?,
                None => true,
            };
            if is_done {
                ids.remove(id);
            }
        }
        Ok(())
    }

    /// Requests the erasure of records; a record that others of them refer to comes after those.
    /// Returns what failed.
    async fn request_records(
        &self,
        by: (&EraseUser, u64),
        ids: BTreeSet<RecordId>,
        owned: &mut Owned,
    ) -> Vec<(RecordId, ApiError)> {
        let (mut ids, mut failed): (Vec<RecordId>, _) = (ids.into_iter().collect(), Vec::new());
        loop {
            let (mut is_further, mut held) = (false, Vec::new());
            for id in ids {
                match self.request_part(by, &id, false, owned).await {
                    Ok(()) => is_further = true,
                    Err(error) if error.code == Code::ConstraintViolated => held.push((id, error)),
                    Err(error) => failed.push((id, error)),
                }
            }
            if held.is_empty() || !is_further {
                failed.extend(held);
                return failed;
            }
            // References often all point one way through the list; then the reverse order succeeds.
            ids = held.into_iter().rev().map(|(id, _)| id).collect();
        }
    }

    async fn request_part(
        &self,
        (command, part_of): (&EraseUser, u64),
        id: &RecordId,
        is_forced: bool,
        owned: &mut Owned,
    ) -> Result<(), ApiError> {
        let of_record = EraseRecord {
            context: command.context.clone(),
            id: id.clone(),
            why: command.why.clone(),
            with_files: command.with_files,
        };
        let way = Way {
            is_forced,
            part_of: Some(part_of),
        };
        let erased = self.request_record(&of_record, way).await?;
        owned.kept_files.extend(erased.files.kept);
        Ok(())
    }

    /// Lists the records of some types that a user owns, or owned when the record was deleted, at a
    /// position or later.
    async fn records_of(
        &self,
        user: &UserId,
        from: u64,
        is_selected: impl Fn(&TypeName) -> bool,
    ) -> Result<BTreeSet<RecordId>, ApiError> {
        self.env.applied.wait_for(self.env.log.head()).await?;
        let mut found = BTreeSet::new();
        let is_selected = |name: &TypeName| !name.is_user() && is_selected(name);
        let mut types = self.env.model.get_types();
        types.retain(|definition| is_selected(&definition.name));
        if types.is_empty() {
            return Ok(found);
        }
        for definition in types {
            let mut after = 0;
            loop {
                let store = &self.env.store;
                let heads = store.scan(&definition, Some(user), after, BATCH_SIZE);
                let heads = heads.await?;
                let Some((last, _)) = heads.last() else { break };
                after = *last;
                found.extend(heads.into_iter().map(|(_, head)| head.record.id));
            }
        }
        let range = from..=self.env.applied.position();
        found.extend(past::deleted_of(&self.env, user, range, is_selected).await?);
        Ok(found)
    }
}

impl Owned {
    fn note_refused(&mut self, id: RecordId, error: ApiError, referrer: Option<RecordId>) {
        self.refused.push(Refused {
            record: id.to_string(),
            message: error.message,
            referred_by: referrer.as_ref().map(RecordId::to_string),
        });
        self.noted.push(RefusedRecord {
            record: Stream::Record(id),
            code: error.code.number(),
            referred_by: referrer.map(Stream::Record),
        });
    }
}

/// Returns whether something failed that may succeed later.
fn is_passing(error: &ApiError) -> bool {
    let is_of_plugin = matches!(error.code, Code::PluginTimeout | Code::PluginInitializing);
    is_of_plugin || error.status() == 503
}

/// Returns the circumstances of a request that goes on when nobody waits for it any more, and
/// after a restart. Whoever made it has the roles that they have now.
fn context_of(commit: &Commit) -> RequestContext {
    let actor = commit.actor.clone();
    RequestContext {
        caller: Caller {
            key: actor.key,
            rights: actor.rights,
            user: actor.user,
            roles: BTreeSet::new(),
        },
        request: RequestId::shared(commit.request_id.unwrap_or_else(Uuid::now_v7)),
        origin: actor.origin,
        plugin: actor.plugin,
        on_behalf: actor.on_behalf,
        ..RequestContext::system()
    }
}
