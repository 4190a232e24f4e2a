//! Record types: their fields, defaults and who may create records of them.

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
    /// Text.
    String,
    /// Text whose comparisons and uniqueness ignore case (`user.username`, `user.email`).
    CaselessString,
    /// 64-bit float.
    Number,
    /// 32-bit whole number.
    Integer,
    /// Truth value.
    Boolean,
    /// Object or array.
    Json,
    /// Point in time.
    DateTime,
    /// File.
    Asset,
    /// Reference to a record of that type.
    Reference(TypeName),
    /// Point on earth.
    Location,
    /// GeoJSON object.
    Geometry,
    /// Whole number that the server assigns; unique.
    Sequence,
}

impl FieldType {
    /// Derives the type of a value; `None` for values that have none (null, unknown).
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

    /// Whether a field of this type takes values of type `other`: all numbers go
    /// together, text with text, references only to the same type.
    pub fn is_compatible(&self, other: &Self) -> bool {
        self == other
            || (self.is_numeric() && other.is_numeric())
            || (self.is_text() && other.is_text())
    }

    /// Whether values are numbers.
    pub fn is_numeric(&self) -> bool {
        matches!(self, Self::Number | Self::Integer | Self::Sequence)
    }

    /// Whether values refer to records of `target`.
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

    /// Parses a name that clients use.
    pub fn from_wire_name(text: &str) -> Option<Self> {
        Self::parse(text).filter(|kind| *kind != Self::CaselessString)
    }

    /// Returns the name that clients see; caseless text is just `string` to them.
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

/// A record type as it stands: the fold of its schema events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeDefinition {
    /// The name.
    pub name: TypeName,
    /// Whether records of it exist or may exist; settings can precede the type itself.
    pub is_created: bool,
    /// User fields, by name.
    pub fields: BTreeMap<String, FieldType>,
    /// Sets of fields whose values must be unique together; sequence fields are implied.
    pub unique: Vec<Vec<String>>,
    /// The access list of records that bring none; `None` leaves it null.
    pub default_access: Option<Acl>,
    /// Roles that may create records; empty lets every signed-in user.
    pub creation_roles: BTreeSet<RoleName>,
    /// The version of the type's stream, 0 before the first event.
    pub version: u32,
    /// The position of its last event; the largest there is when that is not known.
    #[serde(default = "unknown_position")]
    pub position: u64,
    /// The version at which a field got another name or went last, 0 before the first time: what
    /// was read of its records before fits no more.
    #[serde(default)]
    pub reshaped: u32,
    /// The position from which on the store keeps what its records were, with when it held; `None`
    /// when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals_since: Option<u64>,
    /// How much of its records' past is kept; `None` for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Whether what is written to its records is sealed with their owners' keys, and goes with them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_personal: bool,
}

fn unknown_position() -> u64 {
    u64::MAX
}

impl TypeDefinition {
    /// Returns a type of which nothing is known yet.
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
            position: 0,
            intervals_since: None,
            retention: None,
            is_personal: false,
        }
    }

    /// Gives a field another name, also in the unique sets. Says whether it did: there must be
    /// such a field, and none of the new name.
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

    /// Takes a field out, and the unique sets that it is in. Says whether there was one.
    pub fn delete_field(&mut self, field: &str) -> bool {
        let is_free = |set: &Vec<String>| set.iter().all(|name| name != field);
        self.unique.retain(is_free);
        self.fields.remove(field).is_some()
    }

    /// Returns the names of the fields that the server numbers.
    pub fn sequence_fields(&self) -> impl Iterator<Item = &str> {
        self.fields
            .iter()
            .filter(|(_, field)| **field == FieldType::Sequence)
            .map(|(name, _)| name.as_str())
    }
}
