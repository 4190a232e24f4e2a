//! Records and their wire form.

use litemap::LiteMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json};

use crate::acl::Acl;
use crate::id::{Database, RecordId, UserId};
use crate::time::Timestamp;
use crate::value::Value;

/// A record's own fields, by name. It never contains `Null`.
///
/// Records have few fields, and many records are kept in memory: a sorted vector takes half the
/// space of a tree.
pub type Fields = LiteMap<String, Value>;

/// A record: metadata and fields, as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The full id.
    pub id: RecordId,
    /// The database that contains it; never on the wire.
    pub database: Database,
    /// The owner; absent for records without an owner.
    pub owner: Option<UserId>,
    /// The access list; with `None`, everyone may read and write.
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
    /// Returns the record as in answers: first the fields by name, then metadata.
    ///
    /// `_access` is always present, even when null; other empty metadata is left out.
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

impl Record {
    /// Writes the members of the wire form into an object, without building it as a tree first.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_members<M: SerializeMap>(&self, object: &mut M) -> Result<(), M::Error> {
        for (name, value) in &self.fields {
            object.serialize_entry(name, value)?;
        }
        object.serialize_entry("_id", &format_args!("{}", self.id))?;
        object.serialize_entry("_type", "record")?;
        object.serialize_entry("_access", &self.access.as_ref().map(Acl::to_wire))?;
        let users = [
            ("_ownerID", &self.owner),
            ("_created_by", &self.created_by),
            ("_updated_by", &self.updated_by),
        ];
        for (name, user) in users {
            if let Some(user) = user {
                object.serialize_entry(name, user)?;
            }
        }
        object.serialize_entry("_created_at", &self.created_at)?;
        object.serialize_entry("_updated_at", &self.updated_at)
    }
}

/// Serializes the same as [`Record::to_wire`].
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        self.write_members(&mut object)?;
        object.end()
    }
}

/// A version of a record: its number, its position in the log, and the record itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The record's version, from 1 at its creation without gaps.
    pub version: u32,
    /// The log position of this version's event.
    pub position: u64,
    /// The record.
    pub record: Record,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::acl::{AccessEntry, Level};

    #[test]
    fn both_ways_of_writing_a_record_agree() {
        let entry = AccessEntry {
            relation: None,
            role: Some("editor".into()),
            level: Level::Write,
            user_id: None,
            public: true,
        };
        let fields = [
            ("text", Value::String("hi".into())),
            ("n", Value::Number(1.0)),
            ("more", Value::Json(json!({"a": [1.5]}))),
            ("room", Value::Reference(RecordId::new("room", "a/b"))),
        ];
        let record = Record {
            id: RecordId::new("note", "1"),
            database: Database::Public,
            owner: Some("ada".into()),
            access: None,
            created_at: Timestamp::from_micros(1_500_000),
            created_by: Some("ada".into()),
            updated_at: Timestamp::from_micros(2_000_000),
            updated_by: None,
            fields: fields
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
        };
        let shared = Record {
            access: Some(Acl(vec![entry])),
            ..record.clone()
        };
        for record in [record, shared] {
            let written = serde_json::to_value(&record).unwrap();
            assert_eq!(written, Json::Object(record.to_wire()));
        }
    }
}
