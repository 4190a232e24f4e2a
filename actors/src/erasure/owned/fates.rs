//! What becomes of records that others refer to. They can be erased once those are, which may be
//! other erased users'.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RecordId, UserId};

use super::Selection;
use crate::erasure::Eraser;

/// What is known of some records of a user; of those that are not in it, nothing is decided.
pub(super) type Fates = BTreeMap<RecordId, Fate>;

/// What becomes of a record that is to be erased with its owner, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It will be tried.
    Open,
    /// It waits until this one, which refers to it, is erased.
    Held(RecordId),
    Refused,
}

/// Returns whether any records wait for others.
pub(super) fn has_held(fates: &Fates) -> bool {
    held(fates).next().is_some()
}

/// Forgets what is refused, so that it is open again.
pub(super) fn forget_refused(fates: &mut Fates) {
    fates.retain(|_, fate| *fate != Fate::Refused);
}

/// Returns the records that wait for others, each with the one that it waits for.
fn held(fates: &Fates) -> impl Iterator<Item = (&RecordId, &RecordId)> {
    fates.iter().filter_map(|(id, fate)| match fate {
        Fate::Held(by) => Some((id, by)),
        Fate::Open | Fate::Refused => None,
    })
}

impl Eraser {
    /// Returns whether a record that refers to another one is still to be erased, with this user or
    /// with another one, so that the other one can be erased afterwards.
    pub(super) async fn is_erased_later(
        &self,
        (user, fates): (&UserId, &Fates),
        id: &RecordId,
        referrer: &RecordId,
    ) -> Result<bool, ApiError> {
        let (mut seen, mut next) = (BTreeSet::from([id.clone()]), referrer.clone());
        while seen.insert(next.clone()) {
            let (_, head) = self.env.load_head(&next).await?;
            let Some(head) = head else {
                return Ok(true);
            };
            let Some(owner) = &head.record.owner else {
                return Ok(false);
            };
            let fate = if owner == user && fates.contains_key(&next) {
                fates.get(&next).cloned()
            } else {
                self.fate_of(&next, owner)
            };
            match fate {
                Some(Fate::Open) => return Ok(true),
                Some(Fate::Held(by)) => next = by,
                Some(Fate::Refused) | None => return Ok(false),
            }
        }
        // They refer to each other in a circle.
        Ok(false)
    }

    /// Returns what is known of a record that may be erased with its owner.
    fn fate_of(&self, id: &RecordId, owner: &UserId) -> Option<Fate> {
        let personal = self.personal_types();
        let of_owner = self.erasures.open_of_user(owner).into_iter();
        let covering = of_owner.filter(|erasure| {
            let selection = Selection {
                all: erasure.request.records.is_some_and(|records| records.all),
                types: personal.clone(),
            };
            selection.covers(&id.record_type)
        });
        let fates = covering.map(|erasure| self.fate_in(erasure.mark.position, id));
        // Of several erasures, each that has not decided yet may erase it.
        fates.min()
    }

    /// Returns what a user's erasure has decided on a record so far.
    fn fate_in(&self, position: u64, id: &RecordId) -> Fate {
        let owned = self.owned.lock();
        let fate = owned.get(&position).and_then(|owned| owned.fates.get(id));
        fate.cloned().unwrap_or(Fate::Open)
    }

    /// Waits until some of the records that others wait for are erased, but not for ever; returns those
    /// that need no longer wait. What was erased up to a position is known already; it is moved on.
    pub(super) async fn freed(
        &self,
        fates: &Fates,
        since: &mut u64,
        at_most: Duration,
    ) -> Option<BTreeSet<RecordId>> {
        let mut freed = BTreeSet::new();
        let mut num_open = self.erasures.watch();
        let is_any_freed = num_open.wait_for(|_| {
            let now = self.env.log.head();
            let is_erased = |by: &RecordId| self.erasures.is_record_erased_after(by, *since);
            let some = held(fates).filter(|(_, by)| is_erased(by));
            freed = some.map(|(id, _)| id.clone()).collect();
            *since = now;
            !freed.is_empty()
        });
        let is_any_freed = tokio::time::timeout(at_most, is_any_freed).await;
        is_any_freed.is_ok().then_some(freed)
    }
}
