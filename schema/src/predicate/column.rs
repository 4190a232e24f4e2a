//! Columns of a record type, and their cells in records.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::KeyPath;
use crate::acl::Acl;
use crate::code::{ApiError, Code};
use crate::id::{RecordId, TypeName, UserId};
use crate::record::Record;
use crate::time::Timestamp;
use crate::types::{FieldType, TypeDefinition};
use crate::value::{Point, Value};

/// A column of the queried type, or of the type that one of its reference fields names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// The reference to follow first, if any.
    pub via: Option<Via>,
    /// The field or reserved column.
    pub name: String,
    /// The kind of its cells.
    pub kind: ColumnKind,
}

/// A reference that a path or an include follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// The reference field of the queried type; in includes also a reserved column with a user's
    /// id.
    pub field: String,
    /// The type that it refers to.
    pub target: TypeName,
}

/// The kind of a column's cells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// Strings; also record keys, user ids and asset names.
    Text,
    /// Strings whose comparisons ignore case.
    CaselessText,
    /// Keys of records of this type.
    Reference(TypeName),
    /// Numbers.
    Number,
    /// Whole numbers.
    Integer,
    /// Booleans.
    Bool,
    /// Points in time.
    Time,
    /// JSON.
    Json,
    /// Points on Earth.
    Location,
    /// GeoJSON.
    Geometry,
}

/// The value of a record in a column, as comparisons see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// A string, a key or a name.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
    /// A boolean.
    Bool(bool),
    /// A point in time.
    Time(Timestamp),
    /// JSON.
    Json(Cow<'a, Json>),
    /// A point on Earth.
    Point(Point),
}

/// The type definitions that a query can use.
pub trait Types {
    /// Finds a type.
    fn definition(&self, name: &TypeName) -> Option<&TypeDefinition>;
}

impl<T: AsRef<TypeDefinition>> Types for [T] {
    fn definition(&self, name: &TypeName) -> Option<&TypeDefinition> {
        let mut all = self.iter().map(AsRef::as_ref);
        all.find(|definition| definition.name == *name)
    }
}

/// The columns that every record type has, by the names used in paths.
const RESERVED: [(&str, ColumnKind); 8] = [
    ("_id", ColumnKind::Text),
    ("_database_id", ColumnKind::Text),
    ("_owner_id", ColumnKind::Text),
    ("_created_by", ColumnKind::Text),
    ("_updated_by", ColumnKind::Text),
    ("_created_at", ColumnKind::Time),
    ("_updated_at", ColumnKind::Time),
    ("_access", ColumnKind::Json),
];

impl ColumnKind {
    fn of(field: &FieldType) -> Self {
        match field {
            FieldType::String | FieldType::Asset => Self::Text,
            FieldType::CaselessString => Self::CaselessText,
            FieldType::Number => Self::Number,
            FieldType::Integer | FieldType::Sequence => Self::Integer,
            FieldType::Boolean => Self::Bool,
            FieldType::Json => Self::Json,
            FieldType::DateTime => Self::Time,
            FieldType::Reference(target) => Self::Reference(target.clone()),
            FieldType::Location => Self::Location,
            FieldType::Geometry => Self::Geometry,
        }
    }
}

/// Finds a field or reserved column of a type.
fn find(definition: &TypeDefinition, name: &str) -> Option<ColumnKind> {
    let reserved = RESERVED.iter().find(|(reserved, _)| *reserved == name);
    match reserved {
        Some((_, kind)) => Some(kind.clone()),
        None => definition.fields.get(name).map(ColumnKind::of),
    }
}

impl Column {
    /// Finds the column that a path names.
    ///
    /// # Errors
    /// 120: more than two components, no such field, or a component before the dot that is not a
    /// reference.
    pub fn resolve<T: Types + ?Sized>(
        path: &KeyPath,
        definition: &TypeDefinition,
        types: &T,
    ) -> Result<Self, ApiError> {
        match path.0.as_slice() {
            [name] => Self::plain(name, definition).ok_or_else(|| missing(path)),
            [field, name] => match find(definition, field) {
                None => Err(missing(path)),
                Some(ColumnKind::Reference(target)) => {
                    let kind = types.definition(&target).and_then(|of| find(of, name));
                    let kind = kind.ok_or_else(|| missing(path))?;
                    Ok(Self {
                        via: Some(Via {
                            field: field.clone(),
                            target,
                        }),
                        name: name.clone(),
                        kind,
                    })
                }
                Some(_) => Err(invalid(format!(
                    "field \"{field}\" in keypath \"{path}\" is not a reference"
                ))),
            },
            _ => Err(invalid(format!(
                "keypath \"{path}\" with more than 2 components is not supported"
            ))),
        }
    }

    /// Finds a field or reserved column of the queried type itself.
    pub fn plain(name: &str, definition: &TypeDefinition) -> Option<Self> {
        find(definition, name).map(|kind| Self {
            via: None,
            name: name.to_owned(),
            kind,
        })
    }

    /// Reads the column's cell from a record of the type that the column belongs to; `None` if it
    /// has no value.
    ///
    /// For a column with [`Column::via`], that is the record referred to.
    pub fn read<'a>(&self, record: &'a Record) -> Option<Cell<'a>> {
        read_column(record, &self.name)
    }
}

/// Reads a record's cell by the column's name; `None` if it has no value.
pub(super) fn read_column<'a>(record: &'a Record, name: &str) -> Option<Cell<'a>> {
    let user = |user: &'a Option<UserId>| user.as_ref().map(|user| text(user.as_str()));
    match name {
        "_id" => Some(text(record.id.key.as_str())),
        "_database_id" => Some(text(record.database.as_stored())),
        "_owner_id" => user(&record.owner),
        "_created_by" => user(&record.created_by),
        "_updated_by" => user(&record.updated_by),
        "_created_at" => Some(Cell::Time(record.created_at)),
        "_updated_at" => Some(Cell::Time(record.updated_at)),
        "_access" => {
            let access = record.access.as_ref().map(Acl::to_wire);
            access.map(|access| Cell::Json(Cow::Owned(access)))
        }
        field => record.fields.get(field).and_then(Cell::of),
    }
}

fn text(text: &str) -> Cell<'_> {
    Cell::Text(Cow::Borrowed(text))
}

impl<'a> Cell<'a> {
    /// Returns a value as comparisons see it; `None` for no value.
    pub fn of(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::Null | Value::Sequence | Value::Unknown(_) => return None,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(*number),
            Value::String(value) => text(value),
            Value::Json(value) | Value::Geometry(value) => Self::Json(Cow::Borrowed(value)),
            Value::Date(time) => Self::Time(*time),
            Value::Asset(asset) => text(&asset.name),
            Value::Reference(id) => text(id.key.as_str()),
            Value::Location(point) => Self::Point(*point),
        })
    }
}

impl Via {
    /// Returns the id of the record that `record` refers to.
    pub fn target_of(&self, record: &Record) -> Option<RecordId> {
        let user = match self.field.as_str() {
            "_owner_id" => &record.owner,
            "_created_by" => &record.created_by,
            "_updated_by" => &record.updated_by,
            field => match record.fields.get(field)? {
                Value::Reference(id) => {
                    let (record_type, key) = (self.target.clone(), id.key.clone());
                    return Some(RecordId { record_type, key });
                }
                _ => return None,
            },
        };
        user.as_ref().map(RecordId::user)
    }
}

fn missing(path: &KeyPath) -> ApiError {
    invalid(format!("keypath \"{path}\" does not exist"))
}

fn invalid(text: String) -> ApiError {
    ApiError::new(Code::RecordQueryInvalid, text)
}
