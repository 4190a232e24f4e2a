//! What erased users owned when it was deleted: the log is looked through once for all users who
//! wait, and from then on only what is new, for all who are known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::ops::RangeInclusive;

use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RecordId, TypeName, UserId};

use super::Selection;
use crate::log::Erasures;
use crate::record::env::RecordEnv;
use crate::record::past;

/// See the module's overview.
#[derive(Debug, Default)]
pub(in crate::erasure) struct DeletedRecords {
    /// Users for whom the log is still to be looked through.
    joining: Mutex<Users>,
    known: tokio::sync::Mutex<Known>,
}

type Users = HashMap<UserId, Deleted>;

/// What one user owned.
#[derive(Clone, Debug)]
struct Deleted {
    selection: Selection,
    /// Each with a position up to which its deletions are known.
    ids: BTreeMap<RecordId, u64>,
}

#[derive(Debug, Default)]
struct Known {
    users: Users,
    /// The last position that was looked at for them.
    until: u64,
}

impl DeletedRecords {
    /// Lists the selected records that a user owned when they were deleted, as of what the store has
    /// applied, except those whose erasure was requested since. The user is known until
    /// [`DeletedRecords::forget`].
    pub(super) async fn of(
        &self,
        (env, erasures): (&RecordEnv, &Erasures),
        user: &UserId,
        selection: &Selection,
    ) -> Result<BTreeSet<RecordId>, ApiError> {
        if selection.is_empty() {
            return Ok(BTreeSet::new());
        }
        let wanted = Deleted {
            selection: selection.clone(),
            ids: BTreeMap::new(),
        };
        self.joining.lock().insert(user.clone(), wanted.clone());
        let mut known = self.known.lock().await;
        let mut joining = mem::take(&mut *self.joining.lock());
        // Whoever looked for this user meanwhile may have failed.
        joining.entry(user.clone()).or_insert(wanted);
        let is_known = |user: &UserId, wanted: &Deleted| {
            let known = known.users.get(user);
            known.is_some_and(|known| known.selection == wanted.selection)
        };
        joining.retain(|user, wanted| !is_known(user, wanted));
        let now = env.applied.position();
        if known.users.is_empty() {
            known.until = 0;
        }
        let until = known.until;
        let found = look((env, erasures), 1..=until, &joining).await?;
        add(&mut joining, found, until);
        // If the next look fails, these are known as of then, too.
        known.users.extend(joining);
        let found = look((env, erasures), until + 1..=now, &known.users).await?;
        add(&mut known.users, found, now);
        known.until = now;
        let ids = known.users.get(user).into_iter().flat_map(|it| &it.ids);
        let left = ids.filter(|(id, until)| !erasures.is_record_erased_after(id, **until));
        Ok(left.map(|(id, _)| id.clone()).collect())
    }

    /// Forgets a user whose records are erased.
    pub(super) async fn forget(&self, user: &UserId) {
        self.known.lock().await.users.remove(user);
    }
}

/// Finds the records of some users that were deleted within a range, with their owners.
async fn look(
    (env, erasures): (&RecordEnv, &Erasures),
    range: RangeInclusive<u64>,
    users: &Users,
) -> Result<Vec<(UserId, RecordId)>, ApiError> {
    let mut found = Vec::new();
    if users.is_empty() {
        return Ok(found);
    }
    let all = users.values().any(|it| it.selection.all);
    let types = users.values().flat_map(|it| &it.selection.types);
    let types: BTreeSet<TypeName> = types.cloned().collect();
    let of_anyone = Selection { all, types };
    let is_selected = |position, id: &RecordId| {
        of_anyone.covers(&id.record_type) && !erasures.is_record_erased_after(id, position)
    };
    past::each_deleted(env, range, is_selected, |record| {
        if let Some(owner) = record.owner
            && let Some(deleted) = users.get(&owner)
            && deleted.selection.covers(&record.id.record_type)
        {
            found.push((owner, record.id));
        }
    })
    .await?;
    Ok(found)
}

fn add(users: &mut Users, found: Vec<(UserId, RecordId)>, until: u64) {
    for (owner, id) in found {
        if let Some(deleted) = users.get_mut(&owner) {
            deleted.ids.insert(id, until);
        }
    }
}
