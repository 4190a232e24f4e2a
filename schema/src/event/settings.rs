//! What happens to record types.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::acl::Acl;
use crate::id::RoleName;
use crate::types::FieldType;

/// A type's new fields and unique sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeExtension {
    /// Fields that are new.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, FieldType>,
    /// Sets of fields that must be unique together from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unique: Vec<Vec<String>>,
    /// Sets of fields that no longer need to be unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_longer_unique: Vec<Vec<String>>,
    /// The last numbers that sequence fields assigned elsewhere: the next numbers are greater.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, i64>,
    /// New sequence fields that number the existing records in the order in which the log created
    /// them, with the number of these records.
    ///
    /// For a field that is not listed, as in older logs, existing records are numbered by the time
    /// of their creation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbered: BTreeMap<String, i64>,
}

/// See [`EventBody::TypeDefaultAccessSet`](super::EventBody::TypeDefaultAccessSet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultAccess {
    /// The list; new records that are saved without one get it.
    pub access: Acl,
}

/// See [`EventBody::TypeCreationRolesSet`](super::EventBody::TypeCreationRolesSet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreationRoles {
    /// The roles; if there are none, every signed-in user may create records.
    pub roles: BTreeSet<RoleName>,
}

/// How much of the past of a type's records is kept. If both limits are set, the one that keeps
/// more applies. If none is set, everything is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// This many versions of each record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<u32>,
    /// What records were within this many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// Whether files are kept that only erased versions named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_files: bool,
}

impl Retention {
    /// Returns whether everything is kept.
    pub fn is_endless(self) -> bool {
        self.versions.is_none() && self.days.is_none()
    }
}

impl std::fmt::Display for Retention {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.versions, self.days) {
            (None, None) => out.write_str("everything"),
            (Some(versions), None) => write!(out, "{versions} versions"),
            (None, Some(days)) => write!(out, "{days} days"),
            (Some(versions), Some(days)) => write!(out, "{versions} versions and {days} days"),
        }
    }
}

/// See [`EventBody::TypeIntervalsSet`](super::EventBody::TypeIntervalsSet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervals {
    /// Whether the store keeps them from now on.
    pub are_kept: bool,
}

/// See [`EventBody::TypePersonalSet`](super::EventBody::TypePersonalSet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal {
    /// Whether data written to the type's records is sealed with their owners' keys from now on.
    pub is_personal: bool,
}

/// See [`EventBody::TypeFieldRenamed`](super::EventBody::TypeFieldRenamed).
///
/// Earlier events keep the old name. Code that folds records across this event renames the field in
/// what it has folded so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldRename {
    /// The old name.
    pub from: String,
    /// The new name.
    pub to: String,
}

/// See [`EventBody::TypeFieldDeleted`](super::EventBody::TypeFieldDeleted).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDeletion {
    /// The field.
    pub field: String,
}
