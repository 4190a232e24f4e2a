//! Values that no two records have: those of unique sets of fields, and of sequence fields. Pure.

use std::collections::BTreeSet;

use skytrail_schema::id::{TypeName, UserId};
use skytrail_schema::predicate::like::fold;
use skytrail_schema::record::{Head, Record};
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::Value;

use super::draft::Draft;
use crate::log::ConflictKey;

/// A value of a unique set of fields: the type, the fields and the values in the form in which they
/// are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UniqueValue {
    /// The type.
    pub record_type: TypeName,
    /// Field names and normalised values, alternating.
    pub parts: Vec<String>,
}

impl UniqueValue {
    /// Returns a record's unique values, each with the fields of its set.
    pub fn of<'a>(record: &'a Record, definition: &'a TypeDefinition) -> Vec<(Self, Vec<&'a str>)> {
        let declared = definition
            .unique
            .iter()
            .map(|set| set.iter().map(String::as_str).collect());
        let sequences = definition.sequence_fields().map(|field| vec![field]);
        let sets: Vec<Vec<&str>> = declared.chain(sequences).collect();
        let value_of = |set: Vec<&'a str>| {
            let mut parts = Vec::new();
            for field in &set {
                let value = Self::part(record, field)?;
                parts.push((*field).to_owned());
                parts.push(comparable(definition, field, &value));
            }
            Some((
                Self {
                    record_type: definition.name.clone(),
                    parts,
                },
                set,
            ))
        };
        sets.into_iter().filter_map(value_of).collect()
    }

    /// Returns a record's value for a field of a unique set, or for one of the record's own string
    /// columns. A missing value equals no other.
    pub fn part(record: &Record, field: &str) -> Option<Value> {
        let user = |user: &Option<UserId>| {
            let user = user.as_ref().map_or("", UserId::as_str);
            Some(Value::String(user.to_owned()))
        };
        match field {
            "_database_id" => Some(Value::String(record.database.as_stored().to_owned())),
            "_owner_id" => user(&record.owner),
            _ => record
                .fields
                .get(field)
                .filter(|value| !value.is_null())
                .cloned(),
        }
    }

    pub(super) fn key(&self) -> ConflictKey {
        let parts: Vec<_> = self.parts.iter().map(String::as_str).collect();
        ConflictKey::unique(&self.record_type, &parts)
    }
}

/// Returns a text that two values of a field share if they count as equal.
pub(crate) fn comparable(definition: &TypeDefinition, field: &str, value: &Value) -> String {
    let text = value.to_wire().to_string();
    match definition.fields.get(field) {
        Some(FieldType::CaselessString) => fold(&text).into_owned(),
        _ => text,
    }
}

/// Returns the unique values that a draft newly takes.
pub fn new_unique_values<'a>(
    draft: &'a Draft,
    definition: &'a TypeDefinition,
) -> Vec<(UniqueValue, Vec<&'a str>)> {
    values_beside(draft, draft.original.as_deref(), definition)
}

/// Returns the unique values that a draft has and the earlier record does not.
pub(super) fn values_beside<'a>(
    draft: &'a Draft,
    before: Option<&Head>,
    definition: &'a TypeDefinition,
) -> Vec<(UniqueValue, Vec<&'a str>)> {
    let before: BTreeSet<_> = before
        .iter()
        .flat_map(|head| UniqueValue::of(&head.record, definition))
        .map(|(value, _)| value)
        .collect();
    let mut values = UniqueValue::of(&draft.record, definition);
    values.retain(|(value, _)| !before.contains(value));
    values
}
