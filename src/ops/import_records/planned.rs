//! What a dry run would have imported so far: types with their fields, and records.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use serde_json::{Map, Value as Json, json};
use skytrail_schema::types::FieldType;
use skytrail_schema::value::Value;

use crate::ops::export::Schema;

/// See the module's overview.
#[derive(Debug, Default)]
pub(super) struct Planned {
    types: Schema,
    /// The hashes of the records' ids: the ids of a large file may not fit into memory.
    records: HashSet<u64>,
    hasher: RandomState,
}

impl Planned {
    /// Returns the type of a field that would have been imported.
    pub(super) fn kind(&self, record_type: &str, field: &str) -> Option<&String> {
        self.types.get(record_type)?.get(field)
    }

    /// Notes types that would have been imported.
    pub(super) fn note_types(&mut self, types: &Schema) {
        for (name, fields) in types {
            let planned_fields = self.types.entry(name.clone()).or_default();
            for (field, kind) in fields {
                planned_fields
                    .entry(field.clone())
                    .or_insert_with(|| kind.clone());
            }
        }
    }

    /// Notes a record that would have been imported, and the new fields of its type.
    pub(super) fn note(&mut self, record: &Json) {
        let Some(id) = record.get("_id").and_then(Json::as_str) else {
            return;
        };
        self.records.insert(self.hasher.hash_one(id));
        let name = id.split_once('/').map_or(id, |(name, _)| name);
        let planned_fields = self.types.entry(name.to_owned()).or_default();
        for (field, value) in fields(record) {
            let kind = || FieldType::of(&Value::from_wire(value.clone()).ok()?);
            if !planned_fields.contains_key(field)
                && let Some(kind) = kind()
            {
                planned_fields.insert(field.clone(), kind.wire_name());
            }
        }
    }

    /// Returns the targets of these records' references that would have been imported.
    pub(super) fn expected<'a>(&self, records: &[&'a Json]) -> Vec<&'a str> {
        let mut ids = references(records);
        ids.retain(|id| self.records.contains(&self.hasher.hash_one(id)));
        ids
    }

    /// Returns the types in the form of `schema:create`, without the fields that are `here`
    /// already.
    pub(super) fn to_wire(&self, here: &Schema) -> Json {
        let is_new = |name: &str, field: &str| {
            let here = here.get(name);
            here.is_none_or(|fields| !fields.contains_key(field))
        };
        let types = self.types.iter().map(|(name, fields)| {
            let fields = fields.iter().filter(|(field, _)| is_new(name, field));
            (name.clone(), type_to_wire(fields))
        });
        types.collect::<Map<_, _>>().into()
    }
}

/// Returns the fields of a type in the form of `schema:create`.
pub(super) fn type_to_wire<'a>(fields: impl Iterator<Item = (&'a String, &'a String)>) -> Json {
    let fields = fields.map(|(name, kind)| json!({"name": name, "type": kind}));
    json!({"fields": fields.collect::<Vec<_>>()})
}

/// Returns the ids of the records that these refer to.
pub(super) fn references<'a>(records: &[&'a Json]) -> Vec<&'a str> {
    let fields = records.iter().flat_map(|record| fields(record));
    let ids = fields.filter_map(|(_, value)| {
        let is_reference = value.get("$type").and_then(Json::as_str) == Some("ref");
        value.get("$id").filter(|_| is_reference)?.as_str()
    });
    ids.collect()
}

fn fields(record: &Json) -> impl Iterator<Item = (&String, &Json)> {
    let members = record.as_object().into_iter().flatten();
    members.filter(|(name, _)| !name.starts_with('_'))
}
