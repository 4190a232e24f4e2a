//! What happens to records.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::acl::Acl;
use crate::id::UserId;
use crate::json;
use crate::time::Timestamp;

/// The full state of a record, fields in wire form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordState {
    /// The user of the private database; absent for the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<UserId>,
    /// The owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserId>,
    /// The access list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Acl>,
    /// When and by whom it was created, if that differs from the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<ChangeStamp>,
    /// When and by whom it was last changed.
    pub updated: ChangeStamp,
    /// The fields, in wire form; sequence fields hold their number.
    #[serde(deserialize_with = "json::members")]
    pub fields: BTreeMap<String, Json>,
}

impl RecordState {
    /// Returns when and by whom it was created.
    pub fn creation(&self) -> &ChangeStamp {
        self.created.as_ref().unwrap_or(&self.updated)
    }
}

/// What changed in a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordPatch {
    /// New values of fields, in wire form.
    #[serde(
        default,
        deserialize_with = "json::members",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub set: BTreeMap<String, Json>,
    /// Fields that lost their value.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unset: BTreeSet<String>,
    /// The new access list, if it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Acl>,
    /// When and by whom.
    pub updated: ChangeStamp,
}

/// When and by whom something was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeStamp {
    /// When, in microseconds.
    #[serde(with = "micros")]
    pub at: Timestamp,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
}

/// Serializes a timestamp as microseconds: small and sortable.
mod micros {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::time::Timestamp;

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_i64(time.micros())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp::from_micros)
    }
}
