//! Records and their wire form.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::acl::Acl;
use crate::id::{Database, RecordId, UserId};
use crate::time::Timestamp;
use crate::value::Value;

/// A record's own fields, by name. Never holds `Null`.
pub type Fields = BTreeMap<String, Value>;

/// A record: metadata and fields, as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The full id.
    pub id: RecordId,
    /// The database it lives in; never on the wire.
    pub database: Database,
    /// The owner; absent for records that nobody owns.
    pub owner: Option<UserId>,
    /// The access list; `None` lets everyone read and write.
    pub access: Option<Acl>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who created it.
    pub created_by: Option<UserId>,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Who last changed it.
    pub updated_by: Option<UserId>,
    /// The fields.
    pub fields: Fields,
}

impl Record {
    /// Returns the record as answers carry it: fields first by name, then metadata.
    ///
    /// `_access` is always there, also when null; empty metadata is left out.
    pub fn to_wire(&self) -> Map<String, Json> {
        let mut object: Map<String, Json> = self
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), value.to_wire()))
            .collect();
        object.insert("_id".into(), self.id.to_string().into());
        object.insert("_type".into(), "record".into());
        object.insert(
            "_access".into(),
            self.access.as_ref().map_or(Json::Null, Acl::to_wire),
        );
        let users = [
            ("_ownerID", &self.owner),
            ("_created_by", &self.created_by),
            ("_updated_by", &self.updated_by),
        ];
        for (name, user) in users {
            if let Some(user) = user {
                object.insert(name.into(), user.as_str().into());
            }
        }
        object.insert("_created_at".into(), self.created_at.to_string().into());
        object.insert("_updated_at".into(), self.updated_at.to_string().into());
        object
    }
}

/// Who wrote a version of a record, where in the log it stands, and the record itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The record's version: 1 at creation, then dense.
    pub version: u32,
    /// The log position of that version's event.
    pub position: u64,
    /// The record.
    pub record: Record,
}
