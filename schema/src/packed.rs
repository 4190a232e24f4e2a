//! Heads of records packed into few bytes, for memory.
//!
//! A record as the program handles it takes some thirty allocations and more than a kilobyte; the
//! packed bytes are a tenth of that. They never leave the process, so they have no version. The id
//! is not included, because every lookup already has it.
//!
//! ```text
//! head   = position u64 | version: varint | database: user | owner: user | created by: user
//!          | updated by: user | created i64 | updated i64 | access | count: varint (name: text value)*
//! user   = 0, nobody | n: varint, the nth user so far | one more than the users so far, text
//! access = 0, none | count + 1: varint (flags u8 [relation: text] [role: text] [user])*
//! value  = kind u8 | what belongs to it
//! ```

use std::sync::Arc;

use serde_json::Value as Json;

use crate::acl::{AccessEntry, Acl, Level};
use crate::codec::CodecError;
use crate::codec::bytes::{Reader, put_length, put_text, put_varint};
use crate::id::{Database, RecordId, RecordKey, RoleName, TypeName, UserId};
use crate::json;
use crate::record::{Fields, Head, Record};
use crate::time::Timestamp;
use crate::value::{Asset, Point, Value};

/// A packed head, without its id.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedHead(Box<[u8]>);

impl PackedHead {
    /// Packs a head.
    ///
    /// # Errors
    /// A part is too long to be written.
    pub fn pack(head: &Head) -> Result<Self, CodecError> {
        let record = &head.record;
        let mut packer = Packer {
            out: Vec::with_capacity(256),
            users: Vec::new(),
        };
        packer.out.extend_from_slice(&head.position.to_le_bytes());
        put_varint(&mut packer.out, head.version.into());
        packer.user(match &record.database {
            Database::Public => None,
            Database::Private(user) => Some(user),
        })?;
        packer.user(record.owner.as_ref())?;
        packer.user(record.created_by.as_ref())?;
        packer.user(record.updated_by.as_ref())?;
        packer.time(record.created_at);
        packer.time(record.updated_at);
        packer.access(record.access.as_ref())?;
        put_length(&mut packer.out, record.fields.len())?;
        for (name, value) in &record.fields {
            packer.text(name)?;
            packer.value(value)?;
        }
        Ok(Self(packer.out.into_boxed_slice()))
    }

    /// Returns the log position of the head's version.
    pub fn position(&self) -> Option<u64> {
        Reader::new(&self.0).array().ok().map(u64::from_le_bytes)
    }

    /// Returns the number of bytes.
    pub fn size_bytes(&self) -> usize {
        self.0.len()
    }

    /// Unpacks the head; `id` is the record's id.
    ///
    /// # Errors
    /// The bytes are not those of a head, which is a bug in this program.
    pub fn unpack(&self, id: &RecordId) -> Result<Head, CodecError> {
        let mut unpacker = Unpacker {
            bytes: Reader::new(&self.0),
            users: Vec::new(),
        };
        let position = u64::from_le_bytes(unpacker.bytes.array()?);
        let version = unpacker.bytes.number()?;
        let database = unpacker.user()?;
        let record = Record {
            id: id.clone(),
            database: database.map_or(Database::Public, Database::Private),
            owner: unpacker.user()?,
            created_by: unpacker.user()?,
            updated_by: unpacker.user()?,
            created_at: unpacker.time()?,
            updated_at: unpacker.time()?,
            access: unpacker.access()?,
            fields: unpacker.fields()?,
        };
        unpacker.bytes.finish()?;
        Ok(Head {
            version,
            position,
            record,
        })
    }
}

/// The byte before a value.
mod kind {
    pub(super) const NULL: u8 = 0;
    pub(super) const FALSE: u8 = 1;
    pub(super) const TRUE: u8 = 2;
    pub(super) const NUMBER: u8 = 3;
    pub(super) const STRING: u8 = 4;
    pub(super) const JSON: u8 = 5;
    pub(super) const DATE: u8 = 6;
    pub(super) const ASSET: u8 = 7;
    pub(super) const REFERENCE: u8 = 8;
    pub(super) const LOCATION: u8 = 9;
    pub(super) const GEOMETRY: u8 = 10;
    pub(super) const SEQUENCE: u8 = 11;
    pub(super) const UNKNOWN: u8 = 12;
}

/// The flags before an access entry.
mod entry_flag {
    pub(super) const WRITE: u8 = 1;
    pub(super) const PUBLIC: u8 = 2;
    pub(super) const RELATION: u8 = 4;
    pub(super) const ROLE: u8 = 8;
}

struct Packer<'a> {
    out: Vec<u8>,
    /// Users in the order of their first appearance: most records name only one.
    users: Vec<&'a UserId>,
}

impl<'a> Packer<'a> {
    fn text(&mut self, text: &str) -> Result<(), CodecError> {
        put_text(&mut self.out, text)
    }

    fn maybe_text(&mut self, text: Option<&str>) -> Result<(), CodecError> {
        self.out.push(text.is_some().into());
        text.map_or(Ok(()), |text| self.text(text))
    }

    fn json(&mut self, json: &Json) -> Result<(), CodecError> {
        let text = serde_json::to_string(json).map_err(|_| CodecError::Malformed("JSON"))?;
        put_length(&mut self.out, text.len())?;
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn time(&mut self, time: Timestamp) {
        self.out.extend_from_slice(&time.micros().to_le_bytes());
    }

    fn user(&mut self, user: Option<&'a UserId>) -> Result<(), CodecError> {
        let Some(user) = user else {
            self.out.push(0);
            return Ok(());
        };
        let met = self.users.iter().position(|met| *met == user);
        let number = met.unwrap_or(self.users.len()) + 1;
        put_length(&mut self.out, number)?;
        if met.is_none() {
            self.users.push(user);
            self.text(user.as_str())?;
        }
        Ok(())
    }

    fn access(&mut self, access: Option<&'a Acl>) -> Result<(), CodecError> {
        let Some(Acl(entries)) = access else {
            self.out.push(0);
            return Ok(());
        };
        put_length(&mut self.out, entries.len() + 1)?;
        for entry in entries {
            let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
            self.out.push(
                flag(entry.level == Level::Write, entry_flag::WRITE)
                    | flag(entry.public, entry_flag::PUBLIC)
                    | flag(entry.relation.is_some(), entry_flag::RELATION)
                    | flag(entry.role.is_some(), entry_flag::ROLE),
            );
            if let Some(relation) = &entry.relation {
                self.text(relation)?;
            }
            if let Some(role) = &entry.role {
                self.text(role.as_str())?;
            }
            self.user(entry.user_id.as_ref())?;
        }
        Ok(())
    }

    fn value(&mut self, value: &Value) -> Result<(), CodecError> {
        self.out.push(match value {
            Value::Null => kind::NULL,
            Value::Bool(false) => kind::FALSE,
            Value::Bool(true) => kind::TRUE,
            Value::Number(_) => kind::NUMBER,
            Value::String(_) => kind::STRING,
            Value::Json(_) => kind::JSON,
            Value::Date(_) => kind::DATE,
            Value::Asset(_) => kind::ASSET,
            Value::Reference(_) => kind::REFERENCE,
            Value::Location(_) => kind::LOCATION,
            Value::Geometry(_) => kind::GEOMETRY,
            Value::Sequence => kind::SEQUENCE,
            Value::Unknown(_) => kind::UNKNOWN,
        });
        match value {
            Value::Null | Value::Bool(_) | Value::Sequence => Ok(()),
            Value::Number(number) => {
                self.out.extend_from_slice(&number.to_le_bytes());
                Ok(())
            }
            Value::String(text) => self.text(text),
            Value::Json(json) | Value::Geometry(json) => self.json(json),
            Value::Date(time) => {
                self.time(*time);
                Ok(())
            }
            Value::Asset(asset) => {
                self.text(&asset.name)?;
                self.maybe_text(asset.content_type.as_deref())?;
                self.maybe_text(asset.url.as_deref())
            }
            Value::Reference(id) => {
                self.text(id.record_type.as_str())?;
                self.text(id.key.as_str())
            }
            Value::Location(Point { lng, lat }) => {
                self.out.extend_from_slice(&lng.to_le_bytes());
                self.out.extend_from_slice(&lat.to_le_bytes());
                Ok(())
            }
            Value::Unknown(name) => self.maybe_text(name.as_deref()),
        }
    }
}

struct Unpacker<'a> {
    bytes: Reader<'a>,
    users: Vec<UserId>,
}

impl Unpacker<'_> {
    fn maybe_text(&mut self) -> Result<Option<String>, CodecError> {
        match self.bytes.u8()? {
            0 => Ok(None),
            _ => self.bytes.text().map(Some),
        }
    }

    fn id_text(&mut self) -> Result<Arc<str>, CodecError> {
        self.bytes.with_text(|text| Arc::from(text))
    }

    fn json(&mut self) -> Result<Json, CodecError> {
        let length = self.bytes.number()?;
        let text = self.bytes.bytes(length)?;
        json::from_slice(text).map_err(|_| CodecError::Malformed("JSON"))
    }

    fn time(&mut self) -> Result<Timestamp, CodecError> {
        let micros = i64::from_le_bytes(self.bytes.array()?);
        Ok(Timestamp::from_micros(micros))
    }

    fn float(&mut self) -> Result<f64, CodecError> {
        Ok(f64::from_le_bytes(self.bytes.array()?))
    }

    fn user(&mut self) -> Result<Option<UserId>, CodecError> {
        let number: usize = self.bytes.number()?;
        let Some(index) = number.checked_sub(1) else {
            return Ok(None);
        };
        if let Some(user) = self.users.get(index) {
            return Ok(Some(user.clone()));
        }
        let user = UserId::new(self.id_text()?);
        self.users.push(user.clone());
        Ok(Some(user))
    }

    fn access(&mut self) -> Result<Option<Acl>, CodecError> {
        let number: usize = self.bytes.number()?;
        let Some(length) = number.checked_sub(1) else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        for _ in 0..length {
            let flags = self.bytes.u8()?;
            let relation = match flags & entry_flag::RELATION {
                0 => None,
                _ => Some(self.bytes.text()?),
            };
            let role = match flags & entry_flag::ROLE {
                0 => None,
                _ => Some(RoleName::new(self.id_text()?)),
            };
            let level = match flags & entry_flag::WRITE {
                0 => Level::Read,
                _ => Level::Write,
            };
            entries.push(AccessEntry {
                relation,
                role,
                level,
                user_id: self.user()?,
                public: flags & entry_flag::PUBLIC != 0,
            });
        }
        Ok(Some(Acl(entries)))
    }

    fn fields(&mut self) -> Result<Fields, CodecError> {
        let length: usize = self.bytes.number()?;
        let mut fields = Fields::new();
        for _ in 0..length {
            let name = self.bytes.text()?;
            let value = self.value()?;
            // Fields arrive in order, so each is inserted at the end.
            fields.insert(name, value);
        }
        Ok(fields)
    }

    fn value(&mut self) -> Result<Value, CodecError> {
        Ok(match self.bytes.u8()? {
            kind::NULL => Value::Null,
            kind::FALSE => Value::Bool(false),
            kind::TRUE => Value::Bool(true),
            kind::NUMBER => Value::Number(self.float()?),
            kind::STRING => Value::String(self.bytes.text()?),
            kind::JSON => Value::Json(self.json()?),
            kind::DATE => Value::Date(self.time()?),
            kind::ASSET => Value::Asset(Box::new(Asset {
                name: self.bytes.text()?,
                content_type: self.maybe_text()?,
                url: self.maybe_text()?,
            })),
            kind::REFERENCE => {
                let record_type = TypeName::new(self.id_text()?);
                Value::Reference(RecordId::new(record_type, RecordKey::new(self.id_text()?)))
            }
            kind::LOCATION => Value::Location(Point {
                lng: self.float()?,
                lat: self.float()?,
            }),
            kind::GEOMETRY => Value::Geometry(self.json()?),
            kind::SEQUENCE => Value::Sequence,
            kind::UNKNOWN => Value::Unknown(self.maybe_text()?),
            _ => return Err(CodecError::Malformed("value")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z_é]{0,8}",
            any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string()),
        ]
    }

    fn user() -> impl Strategy<Value = Option<UserId>> {
        let few = prop_oneof![Just("u1".to_owned()), Just("u2".to_owned()), name()];
        prop::option::of(few.prop_map(UserId::from))
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        any::<i64>().prop_map(Timestamp::from_micros)
    }

    fn json_value() -> impl Strategy<Value = Json> {
        prop_oneof![
            Just(json!([1, "a", null, {"b": {"c": [true]}}])),
            Just(json!({"type": "Point", "coordinates": [1.5, 2]})),
            name().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let number = prop_oneof![prop::num::f64::ANY, Just(-0.0), Just(3.0)];
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            number
                .prop_filter("equal to itself", |number| !number.is_nan())
                .prop_map(Value::Number),
            ".{0,40}".prop_map(Value::String),
            name().prop_map(Value::String),
            json_value().prop_map(Value::Json),
            json_value().prop_map(Value::Geometry),
            time().prop_map(Value::Date),
            (name(), prop::option::of(name()), prop::option::of(name())).prop_map(
                |(name, content_type, url)| Value::Asset(Box::new(Asset {
                    name,
                    content_type,
                    url,
                }))
            ),
            (name(), name()).prop_map(|(ty, key)| Value::Reference(RecordId::new(ty, key))),
            (-180.0..180.0, -90.0..90.0).prop_map(|(lng, lat)| Value::Location(Point { lng, lat })),
            Just(Value::Sequence),
            prop::option::of(name()).prop_map(Value::Unknown),
        ]
    }

    fn access() -> impl Strategy<Value = Option<Acl>> {
        let names = (prop::option::of(name()), prop::option::of(name()), user());
        let entry = (names, any::<[bool; 2]>()).prop_map(
            |((relation, role, user_id), [writes, public])| AccessEntry {
                relation,
                role: role.map(RoleName::from),
                level: if writes { Level::Write } else { Level::Read },
                user_id,
                public,
            },
        );
        prop::option::of(prop::collection::vec(entry, 0..4).prop_map(Acl))
    }

    fn head() -> impl Strategy<Value = Head> {
        let users = (user(), user(), user(), user());
        let fields = prop::collection::btree_map(name(), value(), 0..8);
        let parts = (
            any::<(u64, u32)>(),
            (name(), name()),
            users,
            (time(), time()),
        );
        (parts, access(), fields).prop_map(|(parts, access, fields)| {
            let ((position, version), (ty, key), users, times) = parts;
            let (database, owner, created_by, updated_by) = users;
            let record = Record {
                id: RecordId::new(ty, key),
                database: database.map_or(Database::Public, Database::Private),
                owner,
                access,
                created_at: times.0,
                created_by,
                updated_at: times.1,
                updated_by,
                fields: fields.into_iter().collect(),
            };
            Head {
                version,
                position,
                record,
            }
        })
    }

    proptest! {
        #[test]
        fn a_head_comes_back_as_it_was(head in head()) {
            let packed = PackedHead::pack(&head).unwrap();
            prop_assert_eq!(packed.position(), Some(head.position));
            let unpacked = packed.unpack(&head.record.id).unwrap();
            prop_assert_eq!(&unpacked, &head);
            // There is only one form: a head that was unpacked is packed into the same bytes.
            prop_assert!(PackedHead::pack(&unpacked).unwrap() == packed);
        }

        #[test]
        fn bytes_that_are_no_head_are_refused(head in head(), cut in any::<prop::sample::Index>()) {
            let PackedHead(bytes) = PackedHead::pack(&head).unwrap();
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert!(PackedHead(cut.into()).unpack(&head.record.id).is_err());
        }
    }
}
