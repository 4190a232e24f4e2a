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
    /// Sets of fields that are unique together from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unique: Vec<Vec<String>>,
    /// Sets of fields that need not be unique any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_longer_unique: Vec<Vec<String>>,
    /// The last numbers that sequence fields gave elsewhere: the next ones are greater.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, i64>,
    /// New sequence fields in which the records that are there get their numbers in the order in which
    /// the log created them, and how many these are. Of a field that is not named, as older logs have
    /// them, they get them in the order of the times of their creation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbered: BTreeMap<String, i64>,
}

/// See [`EventBody::TypeDefaultAccessSet`](super::EventBody::TypeDefaultAccessSet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultAccess {
    /// The list; new records that bring none get it.
    pub access: Acl,
}

/// See [`EventBody::TypeCreationRolesSet`](super::EventBody::TypeCreationRolesSet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreationRoles {
    /// The roles; none means every signed-in user may create.
    pub roles: BTreeSet<RoleName>,
}

/// How much of the past of a type's records is kept: whatever is more of what is said, all of it when
/// nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// So many versions of each record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<u32>,
    /// What records were within so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// Whether files stay that only what is not kept named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_files: bool,
}

impl Retention {
    /// Whether everything is kept.
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
    /// Whether the store keeps them from here on.
    pub are_kept: bool,
}

/// See [`EventBody::TypePersonalSet`](super::EventBody::TypePersonalSet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal {
    /// Whether what is written to the type's records is sealed with their owners' keys from here on.
    pub is_personal: bool,
}

/// See [`EventBody::TypeFieldRenamed`](super::EventBody::TypeFieldRenamed).
///
/// Events from before keep the old name: whoever folds records across this one renames the field
/// in what it has folded so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldRename {
    /// The name until now.
    pub from: String,
    /// The name from now on.
    pub to: String,
}

/// See [`EventBody::TypeFieldDeleted`](super::EventBody::TypeFieldDeleted).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDeletion {
    /// The field.
    pub field: String,
}
