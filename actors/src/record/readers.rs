//! Who could read a record at a moment, and why: judged by what was true then, all of it folded
//! from the log.
//!
//! 1. The record as it was, with its access list; its type, to tell whether that list was the
//!    type's default.
//! 2. The candidates: its owner, users whom the list names, and those who had a role that it names.
//!    Members of a role are found by walking all changes of users' roles up to then.
//! 3. Each of them as they were: whether they existed, were locked out, and which roles they had.
//!    The answer is what access control says about them, with the fields that the rules of then hid
//!    from them.
//!
//! What was erased since is unknown, and is not treated as empty: neither the record's list, nor
//! who a user was.
//!
//! In addition, administrators see old versions of records in the public database
//! ([`super::history`]), and the master key sees everything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use skytrail_schema::acl::{Acl, Level};
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{
    Blank, ErasureMark, Event, EventBody, EventKind, RoleFlags, Stream, UserState,
};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, RecordId, RoleName, UserId};
use skytrail_schema::record::Record;
use skytrail_schema::time::Timestamp;

use super::env::RecordEnv;
use super::past::{Moment, Walk};
use super::{apply, as_of};
use crate::log::seek::{load_event, load_events};

/// How many users are named at most.
const MAX_USERS: usize = 1000;
/// How many events of users are searched for members of roles, at most.
const MAX_LOOKED_AT: usize = 200_000;
/// How many of them are read at once.
const BATCH_SIZE: usize = 512;

/// Events that change which roles a user has.
const OF_ROLES: [EventKind; 3] = [
    EventKind::UserCreated,
    EventKind::UserChanged,
    EventKind::UserRemoved,
];

/// Who could read a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Readers {
    /// The record.
    pub record: String,
    /// The moment's position in the log.
    pub position: u64,
    /// Whether the record existed. If not, nobody could read it; `None` if that is not known.
    pub exists: Option<bool>,
    /// The erasure that took the record's state of then, if that is why it is not known.
    pub erased: Option<ErasureMark>,
    /// The user in whose private database it was; `None` for the public one.
    pub private_of: Option<UserId>,
    /// Its access list; `None` if everybody could do everything.
    pub access: Option<serde_json::Value>,
    /// Whether that was the type's default then.
    pub is_default_access: bool,
    /// Whether everybody could read it, and which fields were hidden from callers who were not
    /// signed in.
    pub everyone: Option<Everyone>,
    /// Users with a right of their own.
    pub users: Vec<Reader>,
    /// Users who had a right, but were locked out.
    pub locked_out: Vec<Reader>,
    /// Administrators, who could read it as a version (`history:list`).
    pub administrators: Vec<UserId>,
    /// Whether nobody is missing: there are bounds on how many are named and looked at, and what
    /// was erased is not known.
    pub is_complete: bool,
}

/// See [`Readers::everyone`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Everyone {
    /// Why.
    pub reason: String,
    /// Fields that were hidden from callers who were not signed in.
    pub hidden: Vec<String>,
    /// Fields that were hidden from a user without any right of their own.
    pub hidden_from_users: Vec<String>,
}

/// A user who could read the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reader {
    /// The user.
    pub user: UserId,
    /// Why: `owner`, `user`, `role editor`, `private database`.
    pub reasons: Vec<String>,
    /// Fields that were hidden from this user.
    pub hidden: Vec<String>,
}

/// Finds out who could read a record.
///
/// # Errors
/// 108 for a moment in the future; the log cannot be read.
pub async fn find(env: &RecordEnv, id: &RecordId, at: Moment) -> Result<Readers, ApiError> {
    let position = at.find(env, "at").await?;
    let mut found = Readers {
        record: id.to_string(),
        position,
        exists: Some(false),
        erased: None,
        private_of: None,
        access: None,
        is_default_access: false,
        everyone: None,
        users: Vec::new(),
        locked_out: Vec::new(),
        administrators: Vec::new(),
        is_complete: true,
    };
    let walk = Walk::begin(env, id, position).await?;
    if !walk.is_whole()
        && let Some(blank) = taken(env, walk.stream(), position).await?
    {
        found.exists = None;
        found.erased = blank.by.as_deref().cloned();
        found.is_complete = false;
        return Ok(found);
    }
    let Some(record) = walk.into_record() else {
        return Ok(found);
    };
    found.exists = Some(true);
    found.access = record.access.as_ref().map(Acl::to_wire);
    let definition = as_of::type_at(env, &id.record_type, position).await?;
    found.is_default_access = record.access == definition.default_access;
    let then = Then {
        env,
        position,
        time: time_of(env, at, position).await?,
        rules: rules_at(env, position).await?,
        record: &record,
    };
    let admin_roles = then.admin_roles().await?;
    let mut candidates: BTreeSet<UserId> = record.owner.iter().cloned().collect();
    let mut roles = BTreeSet::new();
    match &record.database {
        Database::Private(user) => {
            found.private_of = Some(user.clone());
            candidates = BTreeSet::from([user.clone()]);
        }
        Database::Public => {
            found.everyone = then.everyone();
            for entry in record.access.iter().flat_map(|acl| &acl.0) {
                candidates.extend(entry.user_id.clone());
                roles.extend(entry.role.clone());
            }
            roles.extend(admin_roles.iter().cloned());
        }
    }
    let (members, is_complete) = then.members(&roles).await?;
    found.is_complete = is_complete;
    candidates.extend(members);
    for user in candidates {
        if found.users.len() + found.locked_out.len() >= MAX_USERS {
            found.is_complete = false;
            break;
        }
        let state = match then.user(&user).await? {
            Was::There(state) => state,
            Was::Absent => continue,
            Was::Erased => {
                found.is_complete = false;
                continue;
            }
        };
        let is_out = state.check_enabled(then.time).is_err();
        if !is_out && found.private_of.is_none() && !state.roles.is_disjoint(&admin_roles) {
            found.administrators.push(user.clone());
        }
        if let Some(reader) = then.reader(user, &state) {
            let list = if is_out {
                &mut found.locked_out
            } else {
                &mut found.users
            };
            list.push(reader);
        }
    }
    Ok(found)
}

/// A user's state at the moment.
enum Was {
    There(UserState),
    Absent,
    /// The state was erased.
    Erased,
}

/// What was true at the moment.
struct Then<'a> {
    env: &'a RecordEnv,
    position: u64,
    time: Timestamp,
    rules: FieldRules,
    record: &'a Record,
}

impl Then<'_> {
    /// Returns whether everybody could read the record.
    fn everyone(&self) -> Option<Everyone> {
        let reason = match &self.record.access {
            None => "no access list",
            Some(acl) if acl.0.iter().any(|entry| entry.public) => "public",
            Some(_) => return None,
        };
        let nobody = Caller {
            key: KeyKind::Client,
            ..Caller::default()
        };
        let somebody = Caller {
            user: Some(UserId::from("\0")),
            ..nobody.clone()
        };
        Some(Everyone {
            reason: reason.to_owned(),
            hidden: self.hidden(&nobody),
            hidden_from_users: self.hidden(&somebody),
        })
    }

    /// Returns whether and why a user could read the record by a right of their own.
    fn reader(&self, user: UserId, state: &UserState) -> Option<Reader> {
        let caller = Caller {
            key: KeyKind::Client,
            user: Some(user.clone()),
            roles: state.roles.clone(),
            ..Caller::default()
        };
        let mut reasons = Vec::new();
        if let Database::Private(_) = &self.record.database {
            reasons.push("private database".to_owned());
        } else {
            if caller.owns(self.record) {
                reasons.push("owner".to_owned());
            }
            for entry in self.record.access.iter().flat_map(|acl| &acl.0) {
                if entry.user_id.as_ref() == Some(&user) {
                    reasons.push("user".to_owned());
                }
                let role = entry.role.as_ref();
                if let Some(role) = role.filter(|role| state.roles.contains(*role)) {
                    reasons.push(format!("role {role}"));
                }
            }
        }
        reasons.dedup();
        let is_private = self.record.database != Database::Public;
        let may_read = is_private || caller.may(Level::Read, self.record);
        (may_read && !reasons.is_empty()).then(|| Reader {
            hidden: self.hidden(&caller),
            user,
            reasons,
        })
    }

    /// Lists the fields that the rules hide from a caller.
    fn hidden(&self, caller: &Caller) -> Vec<String> {
        let mut seen = self.record.clone();
        self.rules.hide_unreadable(caller, &mut seen);
        let names = self.record.fields.keys();
        let hidden = names.filter(|name| !seen.fields.contains_key(*name));
        hidden.cloned().collect()
    }

    /// Folds a user's state.
    async fn user(&self, id: &UserId) -> Result<Was, ApiError> {
        let stream = Stream::User(id.clone());
        let (mut state, mut is_erased) = (None, false);
        let streams = self.env.streams();
        for (_, event) in streams.read(&stream, 1..=self.position).await? {
            is_erased = is_unknown_after(&event.body, is_erased);
            if let apply::Folded::Known(folded) = apply::user(state.as_ref(), &event) {
                state = folded;
            }
        }
        Ok(match state {
            _ if is_erased => Was::Erased,
            Some((_, state)) => Was::There(state),
            None => Was::Absent,
        })
    }

    /// Finds the users who had one of the roles. Also returns whether all events were looked at and
    /// are known.
    async fn members(
        &self,
        roles: &BTreeSet<RoleName>,
    ) -> Result<(BTreeSet<UserId>, bool), ApiError> {
        let mut held: BTreeMap<UserId, BTreeSet<RoleName>> = BTreeMap::new();
        let mut erased = BTreeSet::new();
        if roles.is_empty() {
            return Ok((BTreeSet::new(), true));
        }
        let mut positions = Vec::new();
        for kind in OF_ROLES {
            let store = &self.env.store;
            let listed = store.list_positions_of_kind(kind, 1, self.position);
            positions.extend(listed.await?);
        }
        positions.sort_unstable();
        let were_few = positions.len() <= MAX_LOOKED_AT;
        positions.truncate(MAX_LOOKED_AT);
        for some in positions.chunks(BATCH_SIZE) {
            for (_, event) in load_events(&*self.env.log, some).await? {
                note_roles(&mut held, &event, roles);
                if let Stream::User(user) = &event.stream {
                    if is_unknown_after(&event.body, erased.contains(user)) {
                        erased.insert(user.clone());
                    } else {
                        erased.remove(user);
                    }
                }
            }
        }
        let members = held.into_iter().filter(|(_, roles)| !roles.is_empty());
        let is_complete = were_few && erased.is_empty();
        Ok((members.map(|(user, _)| user).collect(), is_complete))
    }

    /// Returns the roles that gave access to the administrators' actions.
    async fn admin_roles(&self) -> Result<BTreeSet<RoleName>, ApiError> {
        let mut admin_roles = BTreeSet::new();
        for role in self.env.model.get_roles().into_keys() {
            let stream = Stream::Role(role.clone());
            let flags = last(self.env, &stream, self.position, |body| match body {
                EventBody::RoleDefined(flags) => Some(*flags),
                _ => None,
            });
            if flags.await?.is_some_and(|flags: RoleFlags| flags.is_admin) {
                admin_roles.insert(role);
            }
        }
        Ok(admin_roles)
    }
}

/// Finds the record's last erased event; `None` after a deletion.
async fn taken(env: &RecordEnv, stream: &Stream, until: u64) -> Result<Option<Blank>, ApiError> {
    let taken = last(env, stream, until, |body| match body {
        _ if body.kind() == EventKind::RecordDeleted => Some(None),
        EventBody::Erased(blank) => Some(Some(blank.clone())),
        _ => None,
    });
    Ok(taken.await?.flatten())
}

/// Whether a user's state is unknown after one of their events. The kind of an event tells that the
/// user was removed, even if it was erased.
fn is_unknown_after(body: &EventBody, was_unknown: bool) -> bool {
    match body {
        _ if body.kind() == EventKind::UserRemoved => false,
        EventBody::Erased(_) => true,
        EventBody::UserCreated(_) => false,
        _ => was_unknown,
    }
}

/// Returns the time of the moment.
async fn time_of(env: &RecordEnv, at: Moment, position: u64) -> Result<Timestamp, ApiError> {
    match at {
        Moment::Time(time) => Ok(time),
        Moment::Position(_) if position == 0 => Ok(Timestamp::default()),
        Moment::Position(_) => Ok(load_event(&*env.log, position).await?.0.time),
    }
}

/// Returns the rules of access to fields. Before the first rules were set, those of a new app
/// apply.
pub(super) async fn rules_at(env: &RecordEnv, position: u64) -> Result<FieldRules, ApiError> {
    let access = last(env, &Stream::FieldAccess, position, |body| match body {
        EventBody::FieldAccessSet(access) => Some(access.clone()),
        _ => None,
    });
    let access = access
        .await?
        .unwrap_or_else(|| env.model.installed_access());
    Ok(FieldRules::new(&access))
}

/// Goes back through a stream's events from a position, and returns the first answer of `say`.
async fn last<T>(
    env: &RecordEnv,
    stream: &Stream,
    until: u64,
    say: impl Fn(&EventBody) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let mut back = env.streams().back(stream, until);
    while let Some((_, event)) = back.next().await? {
        if let Some(said) = say(&event.body) {
            return Ok(Some(said));
        }
    }
    Ok(None)
}

/// Tracks which of the given roles users hold.
fn note_roles(
    held: &mut BTreeMap<UserId, BTreeSet<RoleName>>,
    event: &Event,
    roles: &BTreeSet<RoleName>,
) {
    let Stream::User(user) = &event.stream else {
        return;
    };
    match &event.body {
        EventBody::UserCreated(state) => {
            let of_interest: BTreeSet<_> = state.roles.intersection(roles).cloned().collect();
            if !of_interest.is_empty() {
                held.insert(user.clone(), of_interest);
            }
        }
        EventBody::UserChanged(patch) => {
            let added: BTreeSet<_> = patch.roles_added.intersection(roles).cloned().collect();
            if !added.is_empty() {
                held.entry(user.clone()).or_default().extend(added);
            }
            if let Some(held) = held.get_mut(user) {
                held.retain(|role| !patch.roles_removed.contains(role));
            }
        }
        body if body.kind() == EventKind::UserRemoved => {
            held.remove(user);
        }
        _ => {}
    }
}
