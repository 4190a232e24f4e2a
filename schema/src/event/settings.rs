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

/// See [`EventBody::TypeIntervalsSet`](super::EventBody::TypeIntervalsSet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervals {
    /// Whether the store keeps them from here on.
    pub are_kept: bool,
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
