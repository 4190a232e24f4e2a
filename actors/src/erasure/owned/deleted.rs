//! What erased users owned when it was deleted: the log is looked through once for all users who
//! wait, and from then on only what is new, for all who are known.

use std::collections::{BTreeSet, HashMap};
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
    ids: BTreeSet<RecordId>,
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
            ids: BTreeSet::new(),
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
        look((env, erasures), 1..=known.until, &mut joining).await?;
        // If the next look fails, these are known as of then, too.
        known.users.extend(joining);
        let range = known.until + 1..=now;
        let mut users = known.users.clone();
        look((env, erasures), range, &mut users).await?;
        *known = Known { users, until: now };
        let found = known.users.get(user);
        Ok(found.map(|it| it.ids.clone()).unwrap_or_default())
    }

    /// Forgets a user whose records are erased.
    pub(super) async fn forget(&self, user: &UserId) {
        self.known.lock().await.users.remove(user);
    }
}

/// Adds the deleted records of some users within a range.
async fn look(
    (env, erasures): (&RecordEnv, &Erasures),
    range: RangeInclusive<u64>,
    users: &mut Users,
) -> Result<(), ApiError> {
    if users.is_empty() {
        return Ok(());
    }
    let all = users.values().any(|it| it.selection.all);
    let types = users.values().flat_map(|it| &it.selection.types);
    let types: BTreeSet<TypeName> = types.cloned().collect();
    let of_anyone = Selection { all, types };
    let is_selected = |position, id: &RecordId| {
        of_anyone.covers(&id.record_type) && !erasures.is_record_erased_after(id, position)
    };
    past::each_deleted(env, range, is_selected, |record| {
        let owner = record.owner.as_ref();
        if let Some(deleted) = owner.and_then(|owner| users.get_mut(owner))
            && deleted.selection.covers(&record.id.record_type)
        {
            deleted.ids.insert(record.id);
        }
    })
    .await
}
