//! Record types: their fields, their defaults, and who may create records of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::acl::Acl;
use crate::event::Retention;
use crate::id::{RoleName, TypeName};
use crate::value::Value;

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// String.
    String,
    /// String whose comparisons and uniqueness ignore case (`user.username`, `user.email`).
    CaselessString,
    /// 64-bit float.
    Number,
    /// 32-bit integer.
    Integer,
    /// Boolean.
    Boolean,
    /// Object or array.
    Json,
    /// Point in time.
    DateTime,
    /// File.
    Asset,
    /// Reference to a record of this type.
    Reference(TypeName),
    /// Point on Earth.
    Location,
    /// GeoJSON object.
    Geometry,
    /// Integer that the server assigns; unique.
    Sequence,
}

impl FieldType {
    /// Returns the type of a value; `None` for values without one (null, unknown).
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null | Value::Unknown(_) => return None,
            Value::Bool(_) => Self::Boolean,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::Json(_) => Self::Json,
            Value::Date(_) => Self::DateTime,
            Value::Asset(_) => Self::Asset,
            Value::Reference(id) => Self::Reference(id.record_type.clone()),
            Value::Location(_) => Self::Location,
            Value::Geometry(_) => Self::Geometry,
            Value::Sequence => Self::Sequence,
        })
    }

    /// Returns whether a field of this type accepts values of type `other`.
    ///
    /// All numeric types are compatible with each other, and so are the string types. References
    /// are compatible only if they refer to the same type.
    pub fn is_compatible(&self, other: &Self) -> bool {
        self == other
            || (self.is_numeric() && other.is_numeric())
            || (self.is_text() && other.is_text())
    }

    /// Returns whether values are numbers.
    pub fn is_numeric(&self) -> bool {
        matches!(self, Self::Number | Self::Integer | Self::Sequence)
    }

    /// Returns whether values refer to records of `target`.
    pub fn refers_to(&self, target: &TypeName) -> bool {
        matches!(self, Self::Reference(name) if name == target)
    }

    fn is_text(&self) -> bool {
        matches!(self, Self::String | Self::CaselessString)
    }

    /// Parses a schema name such as `string` or `ref(note)`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(target) = text
            .strip_prefix("ref(")
            .and_then(|rest| rest.strip_suffix(')'))
        {
            return Some(Self::Reference(TypeName::new(target)));
        }
        Some(match text {
            "string" => Self::String,
            "string!caseless" => Self::CaselessString,
            "number" => Self::Number,
            "integer" => Self::Integer,
            "boolean" => Self::Boolean,
            "json" => Self::Json,
            "datetime" => Self::DateTime,
            "asset" => Self::Asset,
            "location" => Self::Location,
            "geometry" => Self::Geometry,
            "sequence" => Self::Sequence,
            _ => return None,
        })
    }

    /// Parses a type name that clients use.
    pub fn from_wire_name(text: &str) -> Option<Self> {
        Self::parse(text).filter(|kind| *kind != Self::CaselessString)
    }

    /// Returns the name that clients see; a caseless string is just `string` to them.
    pub fn wire_name(&self) -> String {
        match self {
            Self::CaselessString => "string".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for FieldType {
    /// Writes the stored name, which [`FieldType::parse`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Reference(target) => return write!(f, "ref({target})"),
            Self::String => "string",
            Self::CaselessString => "string!caseless",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Json => "json",
            Self::DateTime => "datetime",
            Self::Asset => "asset",
            Self::Location => "location",
            Self::Geometry => "geometry",
            Self::Sequence => "sequence",
        };
        f.write_str(name)
    }
}

impl Serialize for FieldType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FieldType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("unknown field type"))
    }
}

/// The current state of a record type: the fold of its schema events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeDefinition {
    /// The name.
    pub name: TypeName,
    /// Whether records of it exist or can exist; settings can precede the type itself.
    pub is_created: bool,
    /// User fields, by name.
    pub fields: BTreeMap<String, FieldType>,
    /// Sets of fields whose values must be unique together; sequence fields are always unique and
    /// not listed.
    pub unique: Vec<Vec<String>>,
    /// The access list of records that are saved without one; `None` leaves it null.
    pub default_access: Option<Acl>,
    /// Roles that may create records; if empty, every signed-in user may.
    pub creation_roles: BTreeSet<RoleName>,
    /// The version of the type's stream, 0 before the first event.
    pub version: u32,
    /// The position of its last event; the maximum value if that is not known.
    #[serde(default = "unknown_position")]
    pub position: u64,
    /// The version at which a field was last renamed or deleted, 0 before the first time. Data read
    /// from its records before that version no longer fits.
    #[serde(default)]
    pub reshaped: u32,
    /// The positions at which existing records got numbers, because a sequence field was added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbered: Vec<u64>,
    /// The position from which the store keeps past versions of its records, each with the time for
    /// which it held; `None` if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals_since: Option<u64>,
    /// How much of its records' past is kept; `None` means all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Whether data written to its records is sealed with their owners' keys, and is erased with
    /// the owners.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_personal: bool,
}

fn unknown_position() -> u64 {
    u64::MAX
}

impl TypeDefinition {
    /// Returns a type about which nothing is known yet.
    pub fn empty(name: TypeName) -> Self {
        Self {
            name,
            is_created: false,
            fields: BTreeMap::new(),
            unique: Vec::new(),
            default_access: None,
            creation_roles: BTreeSet::new(),
            version: 0,
            reshaped: 0,
            numbered: Vec::new(),
            position: 0,
            intervals_since: None,
            retention: None,
            is_personal: false,
        }
    }

    /// Renames a field, also in the unique sets. Returns whether it did: the field must exist, and
    /// the new name must be free.
    pub fn rename_field(&mut self, from: &str, to: &str) -> bool {
        if self.fields.contains_key(to) {
            return false;
        }
        let Some(kind) = self.fields.remove(from) else {
            return false;
        };
        self.fields.insert(to.to_owned(), kind);
        for name in self.unique.iter_mut().flatten() {
            if name == from {
                to.clone_into(name);
            }
        }
        true
    }

    /// Deletes a field, and the unique sets that contain it. Returns whether it existed.
    pub fn delete_field(&mut self, field: &str) -> bool {
        let is_free = |set: &Vec<String>| set.iter().all(|name| name != field);
        self.unique.retain(is_free);
        self.fields.remove(field).is_some()
    }

    /// Returns the names of the sequence fields.
    pub fn sequence_fields(&self) -> impl Iterator<Item = &str> {
        self.fields
            .iter()
            .filter(|(_, field)| **field == FieldType::Sequence)
            .map(|(name, _)| name.as_str())
    }
}
