//! The records of erased users. A user's erasure says that they are to be erased, too; here they are,
//! one after the other, each by a request of its own, while nobody waits. Several users are in
//! progress at once.
//!
//! 1. **Which.** All that the user owns, or owned when they were deleted; without `all` only those of
//!    personal types. Those whose events the user's key sealed are found by the events that the
//!    user's erasure names: once the key is destroyed, nothing says who owned a deleted one. The
//!    other deleted ones are looked for in the log, together for all users who wait (`deleted`).
//! 2. **How.** In the name of whoever erased the user, with the rights that they had then, through
//!    access control and hooks, once the plugins are ready. Of personal types, none can be refused.
//! 3. **What was written meanwhile.** Transactions that were open may have added records by SQL, and
//!    their events may have been sealed with a new key: the user is looked for again, and then erased
//!    again. Requests in the user's name add nothing: they are refused.
//! 4. **What fails.** Refusals are final and noted at the end, except of a record to which another one
//!    refers that will be erased with its owner. That one, and whatever else fails, such as a plugin
//!    that is not connected, keeps the user's erasure open, and is tried again (`pass`): the former once
//!    what refers to it is erased (`fates`). Until a type of which a record failed succeeds again, only
//!    one of its records is tried at a time (`put_off`).

mod deleted;
mod fates;
mod pass;
mod put_off;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{ErasureScope, OwnedRecords, RefusedRecord, Stream};
use skytrail_schema::id::{AssetName, RecordId, TypeName, UserId};
use tokio::sync::Semaphore;

pub(super) use self::deleted::DeletedRecords;
use self::fates::Fates;
use self::pass::FailedTries;
pub(super) use self::put_off::PutOffTypes;
use super::work::PAUSES;
use super::{EraseUser, Eraser, Refused};
use crate::log::Erasure;

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
    /// What the last look decided on records that it could not erase.
    fates: Fates,
}

/// Whether an erased user's records are still to be erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OwnedState {
    /// It has only just begun, and is mostly over at once.
    #[default]
    Begun,
    /// They are being erased, or wait for it.
    GoingOn,
    /// Some could not be erased at present, or others refer to them that are not erased yet; they are
    /// tried again later.
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

/// Which of a user's records are erased.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selection {
    all: bool,
    types: BTreeSet<TypeName>,
}

impl Selection {
    fn is_empty(&self) -> bool {
        !self.all && self.types.is_empty()
    }

    fn covers(&self, name: &TypeName) -> bool {
        !name.is_user() && (self.all || self.types.contains(name))
    }
}

/// A request that is to answer what became of a user's records.
pub(super) struct KeptOwned<'a> {
    eraser: &'a Eraser,
    user: UserId,
}

/// How many requests of each user wait for an answer.
pub(super) type Awaited = BTreeMap<UserId, usize>;

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

    /// Forgets what is known of an erasure that is finished. What became of the records is kept if a
    /// request is still to answer it.
    pub(super) async fn forget_owned(&self, erasure: &Erasure) {
        let ErasureScope::User(user) = &erasure.request.scope else {
            return;
        };
        self.deleted.forget(user).await;
        if !self.awaited.lock().contains_key(user) {
            self.owned.lock().remove(&erasure.mark.position);
        }
    }

    /// Keeps what is known of a user's erasures until a request has answered it.
    pub(super) fn keep_owned(&self, user: &UserId) -> KeptOwned<'_> {
        *self.awaited.lock().entry(user.clone()).or_default() += 1;
        KeptOwned {
            eraser: self,
            user: user.clone(),
        }
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
        let selection = Selection {
            all: records.all,
            types: self.personal_types(),
        };
        let ids = self.records_of(user, &selection).await;
        self.deleted.forget(user).await;
        for id in ids? {
            if self.is_left(&id, user).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether an erased user has got records since they were looked for. These are erased
    /// then, while the holders have nothing of the user themselves.
    pub(super) async fn erases_more(&self, erasure: &Erasure) -> Result<bool, ApiError> {
        let (ErasureScope::User(user), Some(records)) =
            (&erasure.request.scope, erasure.request.records)
        else {
            return Ok(false);
        };
        if self.env.has_user(user).await? {
            // An import has brought the user back.
            return Ok(false);
        }
        let position = erasure.mark.position;
        let noted = self.owned_of(position).noted;
        let refused: BTreeSet<_> = noted.into_iter().map(|it| it.record).collect();
        let selection = Selection {
            all: records.all,
            types: self.personal_types(),
        };
        for id in self.records_of(user, &selection).await? {
            if !refused.contains(&Stream::Record(id.clone())) && self.is_left(&id, user).await? {
                self.update_owned(position, |owned| {
                    owned.state = OwnedState::GoingOn;
                    owned.is_user_forgotten = true;
                });
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether there is anything left of a record of a user.
    async fn is_left(&self, id: &RecordId, user: &UserId) -> Result<bool, ApiError> {
        let (position, head) = self.env.load_head(id).await?;
        if self.is_of_others(id, head.as_deref(), user).await? {
            return Ok(false);
        }
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
        let scope = ErasureScope::Record(stream);
        self.is_kept_beside(std::slice::from_ref(&scope)).await
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
            let mut since = self.env.log.head();
            let num_before = self.erasures.count_records_of(position);
            let mut owned = Owned {
                kept_files: self.owned_of(position).kept_files,
                ..Owned::default()
            };
            let done = self.pass_in_time(&erasure, places, (&mut tries, &mut owned, &mut since));
            owned.state = match done.await {
                Ok(state) => state,
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
            if self.erasures.count_records_of(position) > num_before {
                pause = PAUSES.0;
            }
            let fates = self.owned_of(position).fates;
            // Meanwhile others have the place.
            self.freed(&fates, &mut since, pause).await;
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
        (tries, owned, since): (&mut FailedTries, &mut Owned, &mut u64),
    ) -> Result<OwnedState, ApiError> {
        let pass = self.erase_records_of(erasure, places, (tries, owned, since));
        tokio::pin!(pass);
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut pass).await {
            return done;
        }
        let position = erasure.mark.position;
        self.update_owned(position, |owned| owned.state = OwnedState::GoingOn);
        pass.await
    }
}

impl Drop for KeptOwned<'_> {
    fn drop(&mut self) {
        let Eraser {
            awaited,
            erasures,
            owned,
            ..
        } = self.eraser;
        let mut awaited = awaited.lock();
        if let Some(num_requests) = awaited.get_mut(&self.user) {
            *num_requests -= 1;
            if *num_requests > 0 {
                return;
            }
        }
        awaited.remove(&self.user);
        let of_user =
            |scope: &ErasureScope| matches!(scope, ErasureScope::User(user) if *user == self.user);
        let mut owned = owned.lock();
        owned.retain(|position, _| {
            let erasure = erasures.get(*position);
            erasure.is_none_or(|it| !it.is_finished() || !of_user(&it.request.scope))
        });
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
