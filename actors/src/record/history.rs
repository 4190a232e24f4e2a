//! A record's history: every version that it ever had, with who created it and what it changed; and
//! restoring a version.
//!
//! A version is what an event of the record's stream left. The store knows the positions of these
//! events, the log has the events. States are folded as in [`super::past`], so each is shown under
//! the names that its fields had then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;
use skytrail_schema::acl::{Acl, Level};
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, Event, EventKind, Provenance, Stream};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::types::FieldType;
use skytrail_schema::value::Value;

use super::draft::no_permission;
use super::env::RecordEnv;
use super::messages::{ItemAccess, SaveItem};
use super::past::{self, Moment, Walk};
use super::past_rules::PastRules;
use super::{apply, read};
use crate::context::RequestContext;

/// How many versions a page has at most.
pub const MAX_PAGE: usize = 1000;
/// How many events one request looks at, whatever the filter is.
const MAX_LOOKED_AT: usize = 2000;

/// Lists versions of a record, the newest first.
#[derive(Clone, Debug)]
pub struct ListVersions {
    /// The request's context.
    pub context: RequestContext,
    /// Which histories the caller may see.
    pub right: HistoryRight,
    /// The record.
    pub id: RecordId,
    /// The newest moment that counts; `None` for the present.
    pub until: Option<Moment>,
    /// Versions up to this moment do not count.
    pub after: Option<Moment>,
    /// Only what this user did.
    pub user: Option<UserId>,
    /// Only these kinds of events; `None` for all.
    pub kinds: Option<BTreeSet<EventKind>>,
    /// How many versions.
    pub limit: usize,
}

/// Restores a record to what it was at a moment, by a save like any other.
#[derive(Clone, Debug)]
pub struct RestoreRecord {
    /// The request's context.
    pub context: RequestContext,
    /// Which histories the caller may see.
    pub right: HistoryRight,
    /// The record.
    pub id: RecordId,
    /// The moment.
    pub as_of: Moment,
}

/// Which histories a caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryRight {
    /// Everybody's: the master key.
    All,
    /// Those of records in the public database, and of the caller's own: an administrator.
    Public,
    /// Those of records that the caller owns, or was the last to own.
    Own,
}

/// A version of a record.
#[derive(Clone, Debug)]
pub struct Version {
    /// The commit that created it.
    pub commit: Arc<Commit>,
    /// The event that created it. What hooks changed in fields that the caller may not see is left
    /// out.
    pub event: Event,
    /// The record after the event; `None` if it was deleted.
    pub record: Option<Record>,
    /// What changed, by field; access list and owner are `_access` and `_ownerID`.
    pub changes: BTreeMap<String, Change>,
}

/// A field's value before and after, in wire form; `None` if it had no value.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Before.
    pub before: Option<Json>,
    /// After.
    pub after: Option<Json>,
}

/// A page of versions.
#[derive(Clone, Debug, Default)]
pub struct VersionPage {
    /// The versions, the newest first.
    pub versions: Vec<Version>,
    /// Where the next page begins: its `until`. `None` if there are no more versions.
    pub next: Option<u64>,
}

/// Lists versions.
///
/// # Errors
/// 110 for a record that never existed, 102 for a history that the caller may not see.
pub async fn list(env: &RecordEnv, command: ListVersions) -> Result<VersionPage, ApiError> {
    let caller = &command.context.caller;
    read::under_steady_rules(env, caller, || find(env, &command)).await
}

async fn find(env: &RecordEnv, command: &ListVersions) -> Result<VersionPage, ApiError> {
    let present = Moment::Position(env.log.head());
    let mut until = command.until.unwrap_or(present).find(env, "until").await?;
    let after = match command.after {
        Some(moment) => moment.find(env, "after").await?,
        None => 0,
    };
    let caller = &command.context.caller;
    let (first, last) = check_right(env, &command.id, command.right, caller).await?;
    let after = after.max(first.saturating_sub(1));
    let stream = Stream::Record(command.id.clone());
    let mut page = VersionPage::default();
    let mut remaining = MAX_LOOKED_AT;
    while until > after && page.versions.len() < command.limit && remaining > 0 {
        let num_needed = (command.limit - page.versions.len()).max(32).min(remaining);
        let reach = env.streams().reach_back(&stream, until, num_needed).await?;
        let Some((oldest, num_looked_at)) = reach else {
            return Ok(page);
        };
        remaining -= num_looked_at;
        let from = oldest.max(after + 1);
        let versions = load(env, command, last.as_ref(), (from, until)).await?;
        for version in versions.into_iter().rev() {
            if page.versions.len() == command.limit {
                page.next = Some(version.event.position);
                return Ok(page);
            }
            page.versions.push(version);
        }
        until = oldest - 1;
    }
    page.next = (until > after).then_some(until);
    Ok(page)
}

/// Compares a record before and after the event at a position, whoever may see it.
///
/// # Errors
/// 108 for a position where nothing happened to the record; the log cannot be read.
pub async fn changes_at(
    env: &RecordEnv,
    id: &RecordId,
    position: u64,
) -> Result<BTreeMap<String, Change>, ApiError> {
    env.applied.wait_for(position).await?;
    let mut walk = Walk::begin(env, id, position.saturating_sub(1)).await?;
    let before = walk.record().cloned();
    for (_, event) in walk.ahead(env, position).await? {
        walk.take(&event);
        if event.position == position && event.stream == *walk.stream() {
            return Ok(changes(before.as_ref(), walk.record()));
        }
    }
    let message = format!("nothing happened to {id} at position {position}");
    Err(ApiError::invalid_argument(message, &["position"]))
}

/// Loads the wanted versions between two positions, in order. `last` is the record as it is today,
/// or as it was last.
async fn load(
    env: &RecordEnv,
    command: &ListVersions,
    last: Option<&Record>,
    (from, until): (u64, u64),
) -> Result<Vec<Version>, ApiError> {
    let (caller, begin) = (&command.context.caller, from.saturating_sub(1));
    let past = PastRules::load(env, caller, &[&command.id.record_type], begin).await?;
    let mut rules = past.at(begin);
    let seen = |record: &Record, rules: &FieldRules| {
        let mut record = record.clone();
        rules.hide_unseen(caller, &mut record, last);
        record
    };
    let mut walk = Walk::begin(env, &command.id, begin).await?;
    let mut before = walk.record().map(|record| seen(record, &rules));
    let mut versions = Vec::new();
    for (commit, mut event) in walk.ahead(env, until).await? {
        walk.take(&event);
        if event.stream != *walk.stream() {
            // A renamed or deleted field is not a version, and not a change of one. Nor is a number
            // that a new field gave the record.
            if apply::reshapes(&event.body) {
                rules = past.at(event.position);
            }
            before = walk.record().map(|record| seen(record, &rules));
            continue;
        }
        let after = walk.record().map(|record| seen(record, &rules));
        let is_match = command
            .kinds
            .as_ref()
            .is_none_or(|kinds| kinds.contains(&event.body.kind()))
            && (command.user.as_ref()).is_none_or(|user| commit.actor.acts_for(user));
        if is_match {
            let then = walk.record().or(last);
            let is_shown = |field: &String| match then {
                Some(then) => rules.allows_seeing(field, caller, then, last),
                // Nothing is left that a rule could be about.
                None => caller.is_master(),
            };
            keep_fields(&mut event.provenance, is_shown);
            versions.push(Version {
                changes: changes(before.as_ref(), after.as_ref()),
                record: after.clone().map(|mut record| {
                    env.assets.sign(&mut record);
                    record
                }),
                commit,
                event,
            });
        }
        before = after;
    }
    Ok(versions)
}

/// Leaves out the fields that are not shown, and then the hooks that changed no others.
fn keep_fields(hooks: &mut Vec<Provenance>, is_shown: impl Fn(&String) -> bool) {
    for hook in &mut *hooks {
        hook.changed.retain(&is_shown);
    }
    hooks.retain(|hook| !hook.changed.is_empty());
}

/// Compares two states of a record. When and by whom they were changed is not compared: the version
/// says that.
fn changes(before: Option<&Record>, after: Option<&Record>) -> BTreeMap<String, Change> {
    let (before, after) = (before.map(members), after.map(members));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| {
        let change = Change {
            before: before.get(name).cloned(),
            after: after.get(name).cloned(),
        };
        (change.before != change.after).then(|| (name.clone(), change))
    };
    names.into_iter().filter_map(change).collect()
}

fn members(record: &Record) -> BTreeMap<String, Json> {
    let own = record.fields.iter();
    let own = own.map(|(name, value)| (name.clone(), value.to_wire()));
    let access = record.access.as_ref().map(Acl::to_wire);
    let owner = record.owner.as_ref().map(|owner| owner.as_str().into());
    let more = [("_access", access), ("_ownerID", owner)];
    let more = more
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    own.chain(more).collect()
}

/// Returns what to save, and in which database, so that a record becomes what it was at a moment.
///
/// # Errors
/// 110 if it did not exist then, 102 for a history that the caller may not see, 108 for a position
/// beyond the log's end.
pub async fn restored(
    env: &RecordEnv,
    command: &RestoreRecord,
) -> Result<(SaveItem, Database), ApiError> {
    let position = command.as_of.find(env, "as_of").await?;
    let caller = &command.context.caller;
    let (first, last) = check_right(env, &command.id, command.right, caller).await?;
    if position < first {
        return Err(no_permission());
    }
    let mut walk = Walk::begin(env, &command.id, position).await?;
    let then = walk.record().cloned();
    // What it was then, under the names that its fields have now.
    walk.keep_up(env, env.applied.position()).await?;
    let (Some(then), Some(past)) = (then, walk.into_record()) else {
        let message = format!("{} did not exist at position {position}", command.id);
        return Err(ApiError::new(Code::ResourceNotFound, message));
    };
    let (_, now) = env.load_head(&command.id).await?;
    let definition = env.definition(&command.id.record_type);
    let is_number = |name: &String| definition.fields.get(name) == Some(&FieldType::Sequence);
    let mut fields = Fields::new();
    // A number that the record got later stays, also if the record was deleted since.
    let last = last.filter(|last| past::is_same(&past, last));
    let numbers = last.iter().flat_map(|last| last.fields.iter());
    let numbers = numbers.filter(|(name, _)| now.is_none() && is_number(name));
    fields.extend(numbers.map(|(name, value)| (name.clone(), value.clone())));
    if let Some(now) = now {
        let names = now.record.fields.iter().map(|(name, _)| name);
        let gone = names.filter(|name| !is_number(name));
        fields.extend(gone.map(|name| (name.clone(), Value::Null)));
    }
    fields.extend(past.fields.clone());
    let database = past.database.clone();
    let item = SaveItem {
        id: command.id.clone(),
        access: ItemAccess::Kept,
        fields,
        restored: Some(Arc::new(Restored {
            record: past,
            then,
            position,
        })),
    };
    Ok((item, database))
}

/// An earlier state of a record, which is saved again.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// The state, under the present names of its fields.
    pub record: Record,
    /// The same, under the names of then.
    then: Record,
    position: u64,
}

impl Restored {
    /// Refuses to save it if some of it has been erased since it was read.
    ///
    /// # Errors
    /// 110; the store or the log cannot be read.
    pub async fn check(&self, env: &RecordEnv) -> Result<(), ApiError> {
        let id = &self.then.id;
        let walk = Walk::begin(env, id, self.position).await?;
        if walk.record() == Some(&self.then) {
            return Ok(());
        }
        let message = format!("{id} has been erased");
        Err(ApiError::new(Code::ResourceNotFound, message))
    }
}

/// Returns the position from which a caller may see a record's history, and the record as it is
/// today, or refuses.
///
/// Rights are today's: the last owner counts as the record's owner. An earlier record under the
/// same id is not theirs.
async fn check_right(
    env: &RecordEnv,
    id: &RecordId,
    right: HistoryRight,
    caller: &Caller,
) -> Result<(u64, Option<Record>), ApiError> {
    let last = past::last_state(env, id).await?;
    let is_own = |record: &Record| caller.user.is_some() && record.owner == caller.user;
    let Some(last) = last else {
        return match right {
            HistoryRight::Own => Err(no_permission()),
            HistoryRight::All if has_past(env, id).await? => Ok((0, None)),
            _ => Err(ApiError::new(Code::ResourceNotFound, "record not found")),
        };
    };
    let may_see = match right {
        HistoryRight::All => return Ok((0, Some(last))),
        HistoryRight::Public if last.database == Database::Public => true,
        _ => is_own(&last) && caller.may(Level::Read, &last),
    };
    if !may_see {
        return Err(no_permission());
    }
    Ok((past::begin_of(env, &last).await?, Some(last)))
}

/// Whether the log has anything about a record: an erased record still has a history, of which only
/// times and users are left.
async fn has_past(env: &RecordEnv, id: &RecordId) -> Result<bool, ApiError> {
    let stream = Stream::Record(id.clone());
    let until = env.applied.position();
    let last = env.streams().back(&stream, until).next().await?;
    Ok(last.is_some())
}
