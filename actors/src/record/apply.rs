//! Folding events into state. Pure and total: an event in the log is a fact.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value as Json;
use skytrail_schema::event::{
    AccountLinked, ChangeStamp, Event, EventBody, EventKind, Link, PasswordSet, PastPassword,
    RecordPatch, RecordState, Service, Stream, TypeExtension, UserPatch, UserState,
};
use skytrail_schema::id::{Database, RecordId};
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::Value;

/// The state after an event, of a record or of anything else that has a history.
#[derive(Clone, Debug, PartialEq)]
pub enum Folded<T = Head> {
    /// The state is known. `None` means that there is none.
    Known(Option<T>),
    /// The event is a patch, and the earlier state is not available.
    Unknown,
}

/// Folds an event into a record.
pub fn record(before: Option<&Head>, id: &RecordId, event: &Event) -> Folded {
    body(before, id, &event.body, (event.version, event.position))
}

/// Folds an event's body into a record, given the version and the position that the event has or
/// will have.
pub(super) fn body(
    before: Option<&Head>,
    id: &RecordId,
    body: &EventBody,
    (version, position): (u32, u64),
) -> Folded {
    let record = match body {
        EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => full(id, state),
        EventBody::RecordChanged(patch) => match before {
            Some(before) => patched(&before.record, patch),
            None => return Folded::Unknown,
        },
        EventBody::RecordDeleted(_) => return Folded::Known(None),
        // An erased change counts as one that changed nothing. After an erased full state the
        // record is unknown until the next full state.
        EventBody::Erased(blank) => match before {
            Some(before) if blank.kind == EventKind::RecordChanged => before.record.clone(),
            _ => return Folded::Unknown,
        },
        _ => return before.map_or(Folded::Unknown, |head| Folded::Known(Some(head.clone()))),
    };
    Folded::Known(Some(Head {
        version,
        position,
        record,
    }))
}

/// Builds a record from a full state.
pub fn full(id: &RecordId, state: &RecordState) -> Record {
    let created = state.creation();
    Record {
        id: id.clone(),
        database: state
            .database
            .clone()
            .map_or(Database::Public, Database::Private),
        owner: state.owner.clone(),
        access: state.access.clone(),
        created_at: created.at,
        created_by: created.by.clone(),
        updated_at: state.updated.at,
        updated_by: state.updated.by.clone(),
        fields: fields_from_wire(&state.fields),
    }
}

/// Writes a record as a full state; the inverse of [`full`].
pub fn state_of(record: &Record) -> RecordState {
    let updated = ChangeStamp {
        at: record.updated_at,
        by: record.updated_by.clone(),
    };
    let created = ChangeStamp {
        at: record.created_at,
        by: record.created_by.clone(),
    };
    RecordState {
        database: match &record.database {
            Database::Public => None,
            Database::Private(user) => Some(user.clone()),
        },
        owner: record.owner.clone(),
        access: record.access.clone(),
        created: (created != updated).then_some(created),
        updated,
        fields: record
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), value.to_wire()))
            .collect(),
    }
}

fn patched(before: &Record, patch: &RecordPatch) -> Record {
    let mut record = before.clone();
    for name in &patch.unset {
        record.fields.remove(name);
    }
    record.fields.extend(fields_from_wire(&patch.set));
    if let Some(access) = &patch.access {
        record.access = Some(access.clone());
    }
    record.updated_at = patch.updated.at;
    record.updated_by = patch.updated.by.clone();
    record
}

/// Reads stored fields. A value that cannot be read as a typed value is kept as plain JSON.
fn fields_from_wire(fields: &BTreeMap<String, Json>) -> Fields {
    fields
        .iter()
        .map(|(name, wire)| {
            let value =
                Value::from_wire(wire.clone()).unwrap_or_else(|_| Value::Json(wire.clone()));
            (name.clone(), value)
        })
        .filter(|(_, value)| !value.is_null())
        .collect()
}

/// Folds an event into a type's definition.
pub fn record_type(before: &TypeDefinition, event: &Event) -> TypeDefinition {
    let mut definition = before.clone();
    definition.version = event.version;
    definition.position = event.position;
    match &event.body {
        EventBody::TypeExtended(extension) => {
            if numbers(before, extension) {
                definition.numbered.push(event.position);
            }
            extend(&mut definition, extension);
        }
        EventBody::TypeDefaultAccessSet(change) => {
            definition.default_access = Some(change.access.clone());
        }
        EventBody::TypeCreationRolesSet(change) => {
            definition.creation_roles = change.roles.clone();
        }
        EventBody::TypeRetentionSet(retention) => {
            definition.retention = (!retention.is_endless()).then_some(*retention);
        }
        EventBody::TypePersonalSet(change) => definition.is_personal = change.is_personal,
        EventBody::TypeIntervalsSet(change) => {
            let since = definition.intervals_since.unwrap_or(event.position);
            definition.intervals_since = change.are_kept.then_some(since);
        }
        EventBody::TypeFieldRenamed(change) => {
            definition.reshaped = event.version;
            definition.rename_field(&change.from, &change.to);
        }
        EventBody::TypeFieldDeleted(change) => {
            definition.reshaped = event.version;
            definition.delete_field(&change.field);
        }
        _ => {}
    }
    definition
}

/// Returns whether an extension gives numbers to the records that a type has.
pub(super) fn numbers(before: &TypeDefinition, extension: &TypeExtension) -> bool {
    let mut fields = extension.fields.iter();
    let is_new = |(name, kind): (&String, &FieldType)| {
        *kind == FieldType::Sequence && !before.fields.contains_key(name)
    };
    before.is_created && fields.any(is_new)
}

/// Folds an event of a type into one of its records: what was saved before gets the type's present
/// field names and fields.
pub fn reshape(record: &mut Record, event: &EventBody) {
    match event {
        EventBody::TypeFieldRenamed(change) => {
            if let Some(value) = record.fields.remove(&change.from) {
                record.fields.insert(change.to.clone(), value);
            }
        }
        EventBody::TypeFieldDeleted(change) => {
            record.fields.remove(&change.field);
        }
        _ => {}
    }
}

/// Whether an event of a type also changes the type's records.
pub fn reshapes(event: &EventBody) -> bool {
    matches!(
        event,
        EventBody::TypeFieldRenamed(_) | EventBody::TypeFieldDeleted(_)
    )
}

/// Adds an extension's fields and unique sets to a definition.
pub fn extend(definition: &mut TypeDefinition, extension: &TypeExtension) {
    definition.is_created = true;
    for (name, field) in &extension.fields {
        definition
            .fields
            .entry(name.clone())
            .or_insert_with(|| field.clone());
    }
    for set in &extension.unique {
        if !definition.unique.contains(set) {
            definition.unique.push(set.clone());
        }
    }
    let is_kept = |set: &Vec<String>| !extension.no_longer_unique.contains(set);
    definition.unique.retain(is_kept);
}

/// A user's auth row, with the version of its stream.
pub type VersionedUser = (u32, UserState);

/// Folds an event into a user's auth row.
pub fn user(before: Option<&VersionedUser>, event: &Event) -> Folded<VersionedUser> {
    match &event.body {
        EventBody::UserCreated(state) => {
            return Folded::Known(Some((event.version, state.clone())));
        }
        EventBody::UserRemoved(_) => return Folded::Known(None),
        _ => {}
    }
    let Some((_, before)) = before else {
        return Folded::Unknown;
    };
    let mut state = before.clone();
    match &event.body {
        EventBody::UserChanged(patch) => patch_user(&mut state, patch),
        EventBody::UserLoggedIn(login) => state.last_seen_at = Some(login.at),
        EventBody::UserPasswordSet(set) => set_password(&mut state, set),
        EventBody::UserPasswordRehashed(new) => {
            let old = state.password_hash.replace(new.hash.clone());
            let same = |past: &&mut PastPassword| Some(&past.hash) == old.as_ref();
            for past in state.password_history.iter_mut().filter(same) {
                past.hash.clone_from(&new.hash);
            }
        }
        EventBody::AccountLinked(linked) => link(&mut state, linked),
        EventBody::AccountUnlinked(unlinked) => unlink(&mut state, &unlinked.service),
        EventBody::UserDisabled(disabled) => state.disabled = Some(disabled.clone()),
        EventBody::UserEnabled(_) => state.disabled = None,
        _ => {}
    }
    Folded::Known(Some((event.version, state)))
}

fn set_password(state: &mut UserState, set: &PasswordSet) {
    state.password_hash = Some(set.hash.clone());
    state.token_valid_since = Some(set.at);
    let past = PastPassword {
        hash: set.hash.clone(),
        set_at: set.at,
    };
    state.password_history.insert(0, past);
    state.password_history.truncate(set.num_kept);
}

fn link(state: &mut UserState, linked: &AccountLinked) {
    let (principal, profile) = (linked.principal.clone(), linked.profile.clone());
    if let Service::Provider(name) = &linked.service {
        let name = provider_key(name, &principal);
        state.provider_info.insert(name, profile);
        return;
    }
    let before = state.links.get(&linked.service);
    let before = before.filter(|before| before.principal == principal);
    let link = Link {
        linked_at: before.map_or(linked.at, |before| before.linked_at),
        updated_at: linked.at,
        principal,
        profile,
    };
    state.links.insert(linked.service.clone(), link);
}

fn unlink(state: &mut UserState, service: &Service) {
    if let Service::Provider(name) = service {
        let prefix = provider_key(name, "");
        state
            .provider_info
            .retain(|key, _| !key.starts_with(&prefix));
    }
    state.links.remove(service);
}

/// Returns the name under which the auth row has an account at a plugin's auth provider.
pub fn provider_key(name: &str, principal: &str) -> String {
    format!("{name}:{principal}")
}

fn patch_user(state: &mut UserState, patch: &UserPatch) {
    state.last_seen_at = patch.last_seen_at.or(state.last_seen_at);
    state.roles.extend(patch.roles_added.iter().cloned());
    for role in &patch.roles_removed {
        state.roles.remove(role);
    }
}

/// Returns a record's head after events, given its head before them. Events of other streams are
/// skipped.
pub fn head_after<'a>(
    before: Option<Arc<Head>>,
    id: &RecordId,
    events: impl IntoIterator<Item = &'a Event>,
) -> Option<Arc<Head>> {
    let stream = Stream::Record(id.clone());
    let of_record = events.into_iter().filter(|event| event.stream == stream);
    of_record.fold(before, |head, event| {
        match record(head.as_deref(), id, event) {
            Folded::Known(head) => head.map(Arc::new),
            Folded::Unknown => head,
        }
    })
}

/// Returns the heads of records after events, given their heads before them.
///
/// A request can have many events of one record: every event is folded once.
pub fn heads_after<'a>(
    mut heads: HashMap<RecordId, Option<Arc<Head>>>,
    events: impl IntoIterator<Item = &'a Event>,
) -> HashMap<RecordId, Arc<Head>> {
    for event in events {
        let Stream::Record(id) = &event.stream else {
            continue;
        };
        if let Some(head) = heads.get_mut(id) {
            *head = head_after(head.take(), id, [event]);
        }
    }
    let found = heads.into_iter();
    found.filter_map(|(id, head)| Some((id, head?))).collect()
}
