//! One look through the records of an erased user.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, ErasureScope, Stream};
use skytrail_schema::id::{RecordId, RoleName, TypeName, UserId};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use super::fates::{self, Fate};
use super::{Owned, OwnedState, Selection};
use crate::context::{RequestContext, RequestId};
use crate::erasure::request::Way;
use crate::erasure::{EraseRecord, EraseUser, Eraser};
use crate::log::Erasure;
use crate::log::seek::{load_event, load_events};
use crate::record::attempt::retry_on_conflict;
use crate::record::delete::find_referrer;

/// How many events are read at once.
const BATCH_SIZE: usize = 1000;
/// How long records of a user wait for those of others that refer to them, before the user's place
/// among those who are erased at once goes to others and the holders are called.
const REFERRER_TIME: Duration = Duration::from_secs(2);

/// How often records could not be erased at present. Those that failed most often are tried last: a
/// record that always fails does not hold up the others of its type.
pub(super) type FailedTries = BTreeMap<RecordId, u32>;

struct Pass<'a> {
    command: &'a EraseUser,
    /// The position of the user's erasure.
    position: u64,
    /// The types of which nothing can be refused.
    personal: BTreeSet<TypeName>,
    tries: &'a mut FailedTries,
    owned: &'a mut Owned,
    /// Why something is to be tried again.
    failure: Option<ApiError>,
    refused: Vec<(RecordId, ApiError)>,
    /// Those of them that others referred to.
    referred: BTreeSet<RecordId>,
}

impl Eraser {
    /// Erases a user's records, as far as that is possible at present. Returns
    /// [`OwnedState::Pausing`] if some wait only for others that refer to them and will be erased.
    pub(super) async fn erase_records_of(
        &self,
        erasure: &Erasure,
        places: &Semaphore,
        (tries, owned, since): (&mut FailedTries, &mut Owned, &mut u64),
    ) -> Result<OwnedState, ApiError> {
        // This comes first: it is quick, and takes effect in every copy of the log.
        let keys = self.log.destroy_keys(erasure.request.keys.clone()).await;
        keys.map_err(|error| ApiError::unexpected(error.to_string()))?;
        // Before that, nobody knows which hooks there are.
        self.env.plugins.points().readiness.check(false)?;
        let command = self.command_of(erasure).await?;
        let named = self.records_named_by(erasure).await?;
        let mut personal = self.personal_types();
        personal.extend(named.iter().map(|id| id.record_type.clone()));
        let selection = Selection {
            all: command.with_records,
            types: personal.clone(),
        };
        let mut pass = Pass {
            command: &command,
            position: erasure.mark.position,
            personal,
            tries,
            owned,
            failure: None,
            refused: Vec::new(),
            referred: BTreeSet::new(),
        };
        // All who wait for a place share one look.
        self.deleted_of(&command.user, &selection).await?;
        let place = places.acquire().await;
        let mut ids = self.still_owned(named, &command.user).await?;
        let mut tried = BTreeSet::new();
        loop {
            ids.extend(self.records_of(&command.user, &selection).await?);
            ids.retain(|id| tried.insert(id.clone()));
            self.leave_out_done(erasure, &mut ids).await?;
            if ids.is_empty() {
                break;
            }
            let some = std::mem::take(&mut ids);
            self.request_records(&mut pass, some).await?;
            if self.env.has_user(&command.user).await? {
                // An import has brought the user back, and what is written from now on stays.
                break;
            }
        }
        drop(place);
        let mut went_on = false;
        while let Some(freed) = self.freed_soon(&pass, since).await {
            let _place = places.acquire().await;
            self.request_records(&mut pass, freed).await?;
            went_on = true;
        }
        if went_on {
            // By now, what referred to the refused ones may be gone, or be erased with its owner.
            fates::forget_refused(&mut pass.owned.fates);
        }
        let again = |_| self.try_request_user(&command, Some(erasure.mark.position));
        match retry_on_conflict(None, again).await {
            Err(error) if error.code == Code::ResourceNotFound => {}
            Err(error) => return Err(error),
            Ok(erased) => pass.owned.kept_files.extend(erased.files.kept),
        }
        if let Some(failure) = pass.failure {
            return Err(failure);
        }
        let is_stale = went_on && !pass.refused.is_empty();
        if is_stale || fates::has_held(&pass.owned.fates) {
            return Ok(OwnedState::Pausing);
        }
        let mut refused = Vec::new();
        for (id, error) in pass.refused {
            let referrer = find_referrer(&self.env, &id, self.env.log.head()).await?;
            if referrer.is_none() && pass.referred.contains(&id) {
                // What referred to it has gone meanwhile.
                return Ok(OwnedState::Pausing);
            }
            refused.push((id, error, referrer));
        }
        for (id, error, referrer) in refused {
            pass.owned.note_refused(id, error, referrer);
        }
        Ok(OwnedState::Settled)
    }

    /// Returns the command that led to a user's erasure, in the name of whoever gave it.
    async fn command_of(&self, erasure: &Erasure) -> Result<EraseUser, ApiError> {
        // Erasures are known before the log can be read up to them.
        self.env.log.beyond(erasure.mark.position - 1).await;
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
            if !self.is_of_others(&id, head.as_deref(), user).await? {
                owned.insert(id);
            }
        }
        Ok(owned)
    }

    /// Lists the selected records that a user owns, or owned when they were deleted.
    pub(super) async fn records_of(
        &self,
        user: &UserId,
        selection: &Selection,
    ) -> Result<BTreeSet<RecordId>, ApiError> {
        let mut found = self.deleted_of(user, selection).await?;
        let mut types = self.env.model.get_types();
        types.retain(|definition| selection.covers(&definition.name));
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
        Ok(found)
    }

    async fn deleted_of(
        &self,
        user: &UserId,
        selection: &Selection,
    ) -> Result<BTreeSet<RecordId>, ApiError> {
        self.env.applied.wait_for(self.env.log.head()).await?;
        let known = (&self.env, &*self.erasures);
        self.deleted.of(known, user, selection).await
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

    /// Requests the erasure of records; one that others of them refer to comes after those.
    async fn request_records(
        &self,
        pass: &mut Pass<'_>,
        ids: BTreeSet<RecordId>,
    ) -> Result<(), ApiError> {
        let mut queue: Vec<RecordId> = ids.iter().cloned().collect();
        queue.sort_by_key(|id| pass.tries.get(id).copied());
        let (mut queue, mut open) = (VecDeque::from(queue), ids);
        // By the record that refers to them.
        let mut held: BTreeMap<RecordId, Vec<(RecordId, ApiError)>> = BTreeMap::new();
        let mut tried_again = BTreeSet::new();
        while let Some(id) = queue.pop_front() {
            pass.owned.fates.remove(&id);
            if let Err(error) = self.try_record(pass, &id).await {
                let is_referred = error.code == Code::ConstraintViolated;
                let referrer = match is_referred {
                    true => find_referrer(&self.env, &id, self.env.log.head()).await?,
                    false => None,
                };
                match referrer {
                    // What referred to it has gone meanwhile.
                    None if is_referred && tried_again.insert(id.clone()) => {
                        queue.push_back(id);
                        continue;
                    }
                    Some(referrer) if referrer != id && open.contains(&referrer) => {
                        held.entry(referrer).or_default().push((id, error));
                        continue;
                    }
                    referrer => self.failed(pass, (&id, referrer), error).await?,
                }
            }
            open.remove(&id);
            let freed = held.remove(&id).into_iter().flatten();
            queue.extend(freed.map(|(id, _)| id));
        }
        // These refer to each other in a circle.
        for (referrer, its) in held {
            for (id, error) in its {
                self.failed(pass, (&id, Some(referrer.clone())), error)
                    .await?;
            }
        }
        Ok(())
    }

    async fn try_record(&self, pass: &mut Pass<'_>, id: &RecordId) -> Result<(), ApiError> {
        let trial = self.put_off.begin(&id.record_type, Instant::now())?;
        let done = self.request_part(pass, id, false).await;
        match &done {
            Err(error) if is_passing(error) => {
                trial.failed(error, Instant::now());
                *pass.tries.entry(id.clone()).or_default() += 1;
            }
            _ => trial.succeeded(),
        }
        done
    }

    /// Waits for records of others that refer to some of a user's; returns those of the user's that can
    /// be tried again, if there are any soon.
    async fn freed_soon(&self, pass: &Pass<'_>, since: &mut u64) -> Option<BTreeSet<RecordId>> {
        let fates = &pass.owned.fates;
        if !fates::has_held(fates) {
            return None;
        }
        // Whether others wait for these in a circle is found out with this. Refusals are not told
        // before the end: others would take them for final.
        let mut told = fates.clone();
        fates::forget_refused(&mut told);
        self.update_owned(pass.position, |owned| owned.fates = told);
        self.freed(fates, since, REFERRER_TIME).await
    }

    /// Notes what becomes of a record that could not be erased; nothing can refuse the erasure of one
    /// of a personal type.
    async fn failed(
        &self,
        pass: &mut Pass<'_>,
        (id, referrer): (&RecordId, Option<RecordId>),
        mut error: ApiError,
    ) -> Result<(), ApiError> {
        if pass.personal.contains(&id.record_type) {
            match self.request_part(pass, id, true).await {
                Ok(()) => return Ok(()),
                Err(after) => error = after,
            }
        }
        if error.code == Code::ResourceNotFound {
            // It is gone, or others refer to it and an earlier erasure has emptied it.
            return Ok(());
        }
        if is_passing(&error) {
            self.note_failure(pass.position, &error);
            pass.failure.get_or_insert(error);
            return Ok(());
        }
        let fate = match referrer {
            Some(referrer)
                if self
                    .is_erased_later((&pass.command.user, &pass.owned.fates), id, &referrer)
                    .await? =>
            {
                Fate::Held(referrer)
            }
            referrer => {
                if referrer.is_some() {
                    pass.referred.insert(id.clone());
                }
                pass.refused.push((id.clone(), error));
                Fate::Refused
            }
        };
        pass.owned.fates.insert(id.clone(), fate);
        Ok(())
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
