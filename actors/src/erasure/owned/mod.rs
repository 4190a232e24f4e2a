//! The records of erased users. A user's erasure says that they are to be erased, too; here they are,
//! one after the other, each by a request of its own, while nobody waits. Several users are in
//! progress at once.
//!
//! 1. **Which.** All that the user owns, or owned when they were deleted; without `all` only those of
//!    personal types. Those whose events the user's key sealed are found by the events that the
//!    user's erasure names: once the key is destroyed, nothing says who owned a deleted one.
//! 2. **How.** In the name of whoever erased the user, with the rights that they had then, through
//!    access control and hooks, once the plugins are ready. Of personal types, none can be refused.
//! 3. **What was written meanwhile.** Saves that were in progress may have added records, and their
//!    events may have been sealed with a new key: the user is looked for again, and then erased again.
//! 4. **What fails.** Refusals are final and noted at the end. Anything else, such as a plugin that is
//!    not connected, keeps the user's erasure open, and is tried again. Until then no other record of
//!    that type is tried: for each of them, a plugin that does not answer would take its time again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, ErasureScope, OwnedRecords, RefusedRecord, Stream};
use skytrail_schema::id::{AssetName, RecordId, RoleName, TypeName, UserId};
use tokio::sync::Semaphore;
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
/// The records of how many users are erased at once.
const MAX_USERS: usize = 16;
/// How long the holders wait for a user's records, so that they are called once for all of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far the records of an erased user are.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned {
    pub(super) state: OwnedState,
    /// Why some could not be erased at the last try.
    failure: Option<String>,
    /// Whether no holder has the user's own events any more, though records are left.
    is_user_forgotten: bool,
    /// Files that stay, because something else names them.
    pub(super) kept_files: BTreeSet<AssetName>,
    /// Records that could not be erased, with the reasons.
    pub(super) refused: Vec<Refused>,
    /// The same, as the log has them.
    noted: Vec<RefusedRecord>,
}

/// Whether an erased user's records are still to be erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OwnedState {
    /// It has only just begun, and is mostly over at once.
    #[default]
    Begun,
    /// They are being erased, or wait for it.
    GoingOn,
    /// Some could not be erased at present; that is tried again later.
    Pausing,
    /// Their erasures are requested, except for those that are refused.
    Settled,
}

/// What the holders can be called for, of what is erased with a user.
pub(super) struct Ready {
    /// The user's own events.
    pub(super) user: bool,
    /// The records that are erased so far. While they follow each other, the holders are not called
    /// for each.
    pub(super) records: bool,
}

/// One look through an erased user's records.
struct Pass<'a> {
    command: &'a EraseUser,
    /// The position of the user's erasure.
    position: u64,
    /// The types of which nothing can be refused.
    personal: BTreeSet<TypeName>,
    /// Why the other records of some types are not tried in this pass.
    put_off: BTreeMap<TypeName, ApiError>,
    tries: &'a mut FailedTries,
    owned: &'a mut Owned,
}

/// How often records could not be erased at present. Those that failed most often are tried last: a
/// record that always fails does not hold up the others of its type.
type FailedTries = BTreeMap<RecordId, u32>;

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
            .map(|owned| owned.state)
            .unwrap_or_default()
    }

    /// Returns what the holders can be called for, of what is erased with a user.
    pub(super) fn owned_ready(&self, position: u64) -> Ready {
        let owned = self.owned.lock();
        let ready = owned.get(&position).map(Owned::ready);
        ready.unwrap_or_else(|| Owned::default().ready())
    }

    /// Returns why records of erased users could not be erased yet, if any could not.
    pub(super) fn owned_failure(&self) -> Option<String> {
        let owned = self.owned.lock();
        owned.values().find_map(|owned| owned.failure.clone())
    }

    /// Notes that no holder has the user's own events any more.
    pub(super) fn note_forgotten(&self, position: u64) {
        self.update_owned(position, |owned| owned.is_user_forgotten = true);
    }

    fn update_owned(&self, position: u64, update: impl FnOnce(&mut Owned)) {
        update(self.owned.lock().entry(position).or_default());
        self.erasures.wake();
    }

    /// Notes why a record is not erased yet: those who ask for the health learn it at once.
    fn note_failure(&self, position: u64, error: &ApiError) {
        self.update_owned(position, |owned| {
            owned.failure = Some(error.message.clone());
            owned.state = OwnedState::GoingOn;
        });
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
        let places = Semaphore::new(MAX_USERS);
        let (mut users, mut settling) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            for position in self.with_records_left() {
                if settling.insert(position) {
                    users.push(self.settle(position, &places));
                }
            }
            tokio::select! {
                changed = num_open.changed() => if changed.is_err() {
                    return;
                },
                Some(settled) = users.next() => {
                    settling.remove(&settled);
                }
            }
        }
    }

    /// Returns the erasures of users whose records are not settled yet, in order.
    fn with_records_left(&self) -> Vec<u64> {
        let mut positions = self.erasures.with_open_records();
        positions.retain(|it| self.owned_state(*it) != OwnedState::Settled);
        positions
    }

    /// Erases a user's records, in as many passes as it takes; returns the user's erasure.
    async fn settle(&self, position: u64, places: &Semaphore) -> u64 {
        let (mut pause, mut tries) = (PAUSES.0, FailedTries::new());
        while let Some(erasure) = self.erasures.get(position) {
            let mut owned = Owned {
                kept_files: self.owned_of(position).kept_files,
                ..Owned::default()
            };
            let done = self.pass_in_time(&erasure, places, (&mut tries, &mut owned));
            owned.state = match done.await {
                Ok(()) => OwnedState::Settled,
                Err(error) => {
                    let erasure = &erasure.stream;
                    tracing::warn!(%erasure, %error, "records of an erased user are not erased yet; trying again");
                    owned.failure = Some(error.message);
                    OwnedState::Pausing
                }
            };
            let is_settled = owned.state == OwnedState::Settled;
            self.update_owned(position, |before| {
                owned.is_user_forgotten = before.is_user_forgotten;
                *before = owned;
            });
            if is_settled {
                break;
            }
            // Meanwhile others have the place.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
            self.update_owned(position, |owned| owned.state = OwnedState::GoingOn);
        }
        position
    }

    /// Looks through a user's records. If that is not over soon, the holders forget the user before.
    async fn pass_in_time(
        &self,
        erasure: &Erasure,
        places: &Semaphore,
        (tries, owned): (&mut FailedTries, &mut Owned),
    ) -> Result<(), ApiError> {
        let pass = async {
            let _place = places.acquire().await;
            self.erase_records_of(erasure, tries, owned).await
        };
        tokio::pin!(pass);
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut pass).await {
            return done;
        }
        let position = erasure.mark.position;
        self.update_owned(position, |owned| owned.state = OwnedState::GoingOn);
        pass.await
    }

    async fn erase_records_of(
        &self,
        erasure: &Erasure,
        tries: &mut FailedTries,
        owned: &mut Owned,
    ) -> Result<(), ApiError> {
        // This comes first: it is quick, and takes effect in every copy of the log.
        let keys = self.log.destroy_keys(erasure.request.keys.clone()).await;
        keys.map_err(|error| ApiError::unexpected(error.to_string()))?;
        // Before that, nobody knows which hooks there are.
        self.env.plugins.points().readiness.check(false)?;
        let command = self.command_of(erasure).await?;
        let named = self.records_named_by(erasure).await?;
        let mut personal = self.personal_types();
        personal.extend(named.iter().map(|id| id.record_type.clone()));
        let mut pass = Pass {
            command: &command,
            position: erasure.mark.position,
            personal: personal.clone(),
            put_off: BTreeMap::new(),
            tries,
            owned,
        };
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
            let failed = self.request_records(&mut pass, std::mem::take(&mut ids));
            for (id, mut error) in failed.await {
                if personal.contains(&id.record_type) {
                    match self.request_part(&mut pass, &id, true).await {
                        Ok(()) => continue,
                        Err(after) => error = after,
                    }
                }
                if is_passing(&error) {
                    self.note_failure(pass.position, &error);
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
        let again = |_| self.try_request_user(&command, Some(erasure.mark.position));
        match retry_on_conflict(None, again).await {
            Err(error) if error.code == Code::ResourceNotFound => {}
            Err(error) => return Err(error),
            Ok(erased) => pass.owned.kept_files.extend(erased.files.kept),
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        for (id, error) in refused {
            let referrer = find_referrer(&self.env, &id, self.env.log.head()).await?;
            pass.owned.note_refused(id, error, referrer);
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
            context: context_of(&commit, erasure.request.roles.clone()),
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
        pass: &mut Pass<'_>,
        ids: BTreeSet<RecordId>,
    ) -> Vec<(RecordId, ApiError)> {
        let (mut ids, mut failed): (Vec<RecordId>, _) = (ids.into_iter().collect(), Vec::new());
        ids.sort_by_key(|id| pass.tries.get(id).copied());
        loop {
            let (mut is_further, mut held) = (false, Vec::new());
            for id in ids {
                if let Some(error) = pass.put_off.get(&id.record_type) {
                    failed.push((id, error.clone()));
                    continue;
                }
                match self.request_part(pass, &id, false).await {
                    Ok(()) => is_further = true,
                    Err(error) if error.code == Code::ConstraintViolated => held.push((id, error)),
                    Err(error) => {
                        if is_passing(&error) {
                            self.put_off(pass, &id, &error);
                        }
                        failed.push((id, error));
                    }
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

    /// Notes that a record could not be erased at present, nor could others of its type. Those of
    /// personal types are erased all the same.
    fn put_off(&self, pass: &mut Pass<'_>, id: &RecordId, error: &ApiError) {
        pass.put_off.insert(id.record_type.clone(), error.clone());
        *pass.tries.entry(id.clone()).or_default() += 1;
        if !pass.personal.contains(&id.record_type) {
            self.note_failure(pass.position, error);
        }
    }

    async fn request_part(
        &self,
        pass: &mut Pass<'_>,
        id: &RecordId,
        is_forced: bool,
    ) -> Result<(), ApiError> {
        let command = pass.command;
        let of_record = EraseRecord {
            context: command.context.clone(),
            id: id.clone(),
            why: command.why.clone(),
            with_files: command.with_files,
        };
        let way = Way {
            is_forced,
            part_of: Some(pass.position),
        };
        let erased = self.request_record(&of_record, way).await?;
        pass.owned.kept_files.extend(erased.files.kept);
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
    fn ready(&self) -> Ready {
        use OwnedState::{Begun, Pausing, Settled};
        Ready {
            user: self.state == Settled || self.state != Begun && !self.is_user_forgotten,
            records: matches!(self.state, Pausing | Settled),
        }
    }

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
/// after a restart.
fn context_of(commit: &Commit, roles: BTreeSet<RoleName>) -> RequestContext {
    let actor = commit.actor.clone();
    RequestContext {
        caller: Caller {
            key: actor.key,
            rights: actor.rights,
            user: actor.user,
            roles,
        },
        request: RequestId::shared(commit.request_id.unwrap_or_else(Uuid::now_v7)),
        origin: actor.origin,
        plugin: actor.plugin,
        on_behalf: actor.on_behalf,
        ..RequestContext::system()
    }
}
