//! Drafts: records as a save would leave them, before hooks and decision. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::acl::{Acl, Level};
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::Provenance;
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, RecordId};
use skytrail_schema::record::{Head, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;

use super::messages::SaveItem;

/// A record on its way to being saved.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The record as it would be stored. Can contain `Null`s: fields to be cleared.
    pub record: Record,
    /// The record that it replaces: the stored one, or what an earlier draft in the same save
    /// leaves. `None` for a new one.
    pub original: Option<Arc<Head>>,
    /// The hooks that changed it.
    pub provenance: Vec<Provenance>,
    /// Fields that hooks left out of their answers: they count as not sent.
    pub left_out: BTreeSet<String>,
}

impl Draft {
    /// Takes over what an earlier draft of the same save, which has passed the hooks, changed in
    /// the record that it knew.
    ///
    /// A value of the item counts if the hooks left it as it was, even if it equals the stored one.
    /// A value that a hook reset to the stored one cannot be told from an untouched one: hooks
    /// answer with the whole record. The times are those that the hooks were shown, unless the
    /// record was saved later.
    pub fn take_over(&mut self, earlier: Self) {
        match &self.original {
            Some(head) => {
                let stored = head.record.updated_at;
                self.record.updated_at = earlier.record.updated_at.max(stored);
            }
            None if earlier.original.is_none() => {
                self.record.created_at = earlier.record.created_at;
                self.record.updated_at = earlier.record.updated_at;
            }
            // The record that was changed has been deleted: this is another one, with its own
            // times.
            None => {}
        }
        let original = earlier.original.as_ref().map(|head| &head.record);
        let stored = self.original.as_ref().map(|head| &head.record.fields);
        let brought = std::mem::take(&mut self.record.fields);
        self.record.fields = stored.cloned().unwrap_or_default();
        for (name, value) in earlier.record.fields {
            let before = original.and_then(|record| record.fields.get(&name));
            let is_sent = !earlier.left_out.contains(&name) && brought.get(&name) == Some(&value);
            if before != Some(&value) || is_sent {
                self.record.fields.insert(name, value);
            }
        }
        if original.is_none_or(|record| record.access != earlier.record.access) {
            self.record.access = earlier.record.access;
        }
        self.provenance = earlier.provenance;
        self.left_out = earlier.left_out;
    }

    /// Returns the record as this draft leaves it, which a later draft in the same save builds on.
    /// Its position in the log is not known yet.
    pub fn outcome(&self) -> Head {
        let mut record = self.record.clone();
        record.fields.retain(|_, value| !value.is_null());
        let version = self.original.as_ref().map_or(0, |head| head.version) + 1;
        Head {
            version,
            position: 0,
            record,
        }
    }
}

/// Everything that a draft is made from, in addition to the item.
#[derive(Clone, Copy, Debug)]
pub struct DraftContext<'a> {
    /// The caller.
    pub caller: &'a Caller,
    /// Where new records go.
    pub database: &'a Database,
    /// The record's type.
    pub definition: &'a TypeDefinition,
    /// The time of the request.
    pub now: Timestamp,
}

/// Merges an item into the stored record, or starts a new one.
///
/// # Errors
/// 102 without write access or without the right to create.
pub fn make(
    item: &SaveItem,
    original: Option<Arc<Head>>,
    at: DraftContext<'_>,
) -> Result<Draft, ApiError> {
    let record = match &original {
        Some(head) => update(item, &head.record, at)?,
        None => create(item, at)?,
    };
    Ok(Draft {
        record,
        original,
        provenance: Vec::new(),
        left_out: BTreeSet::new(),
    })
}

fn update(item: &SaveItem, stored: &Record, at: DraftContext<'_>) -> Result<Record, ApiError> {
    if !at.caller.may(Level::Write, stored) {
        return Err(no_permission());
    }
    let mut record = stored.clone();
    merge(&mut record, item, at);
    let default = at.definition.default_access.as_ref();
    record.access = match &item.restored {
        Some(past) => past.record.access.clone(),
        None => item.access.after(Some(stored), default),
    };
    record.updated_at = at.now;
    record.updated_by.clone_from(&at.caller.user);
    Ok(record)
}

fn create(item: &SaveItem, at: DraftContext<'_>) -> Result<Record, ApiError> {
    let roles = &at.definition.creation_roles;
    // A user created later under this key would find somebody else's record in place of their own.
    let belongs_to_other_user = item.id.record_type.is_user()
        && (at.caller.user.as_ref()).is_none_or(|user| user.as_str() != item.id.key.as_str());
    let has_role = roles.is_empty() || !roles.is_disjoint(&at.caller.roles);
    let may_create = at.caller.is_master() || has_role && !belongs_to_other_user;
    if !may_create {
        return Err(ApiError::new(
            Code::PermissionDenied,
            "no permission to create",
        ));
    }
    let mut record = create_unchecked(item, at);
    if let Some(past) = item.restored.as_ref().map(|it| &it.record) {
        if !at.caller.may(Level::Write, past) {
            return Err(no_permission());
        }
        record.access.clone_from(&past.access);
        record.owner.clone_from(&past.owner);
        record.created_at = past.created_at;
        record.created_by.clone_from(&past.created_by);
    }
    Ok(record)
}

/// Starts a new record, whether or not the caller may create one of its type.
pub fn create_unchecked(item: &SaveItem, at: DraftContext<'_>) -> Record {
    let mut record = blank(item.id.clone(), at);
    merge(&mut record, item, at);
    let default = at.definition.default_access.as_ref();
    record.access = item.access.after(None, default);
    record
}

/// Returns a new record without fields, owned by the caller.
pub fn blank(id: RecordId, at: DraftContext<'_>) -> Record {
    let user = at.caller.user.clone();
    Record {
        id,
        database: at.database.clone(),
        owner: user.clone(),
        access: None::<Acl>,
        created_at: at.now,
        created_by: user.clone(),
        updated_at: at.now,
        updated_by: user,
        fields: Default::default(),
    }
}

/// Applies an item's fields. A null for a field that the type does not have changes nothing, and a
/// sequence or unknown marker is not a value.
fn merge(record: &mut Record, item: &SaveItem, at: DraftContext<'_>) {
    for (name, value) in &item.fields {
        let is_marker = matches!(value, Value::Sequence | Value::Unknown(_));
        let is_idle = value.is_null() && !at.definition.fields.contains_key(name);
        if !is_marker && !is_idle {
            record.fields.insert(name.clone(), value.clone());
        }
    }
}

/// Undoes changes to fields that the caller may not save.
///
/// # Errors
/// 123 in an atomic save, which drops nothing silently.
pub fn guard_fields(
    (mut draft, item): (Draft, &SaveItem),
    rules: &FieldRules,
    at: DraftContext<'_>,
    is_atomic: bool,
) -> Result<Draft, ApiError> {
    let new = blank(draft.record.id.clone(), at);
    let stored = draft.original.as_ref().map_or(&new, |head| &head.record);
    let denied = rules.find_unwritable(at.caller, stored, (&draft.record, &item.fields));
    if is_atomic && !denied.is_empty() {
        let message = "Unable to save to some record fields because of Field ACL denied update.";
        return Err(
            ApiError::new(Code::DeniedArgument, message).with_info("arguments", denied.into())
        );
    }
    for field in denied {
        match stored.fields.get(&field) {
            Some(value) => draft.record.fields.insert(field, value.clone()),
            None => draft.record.fields.remove(&field),
        };
    }
    Ok(draft)
}

/// Returns the error for a caller without access.
pub fn no_permission() -> ApiError {
    ApiError::new(Code::PermissionDenied, "no permission to perform operation")
}

/// Returns the error for a value that another record has.
pub fn taken() -> ApiError {
    ApiError::new(Code::Duplicated, "violate unique constraint")
}
