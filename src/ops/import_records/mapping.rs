//! How the columns of a table become the fields of records.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use skytrail_schema::types::FieldType;

use super::Records;
use crate::import::table;
use crate::ops::export::{SYSTEM, Schema};

/// The types that a column may be of, as the help has them.
const TYPES: &str = "string, number, integer, boolean, datetime, json, asset, location, geometry, \
                     ref(TYPE), sequence";

/// Which column is which field, and of which type.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping {
    record_type: Option<String>,
    /// By column; none for one that is left out.
    pub(super) fields: BTreeMap<String, Option<String>>,
    kinds: BTreeMap<String, FieldType>,
}

impl Mapping {
    pub(super) fn read(command: &Records, schema: &Schema) -> Result<Self, String> {
        let mut mapping = Self {
            record_type: command.record_type.clone(),
            ..Self::default()
        };
        let known = command
            .record_type
            .as_ref()
            .and_then(|name| schema.get(name));
        for (field, kind) in known.into_iter().flatten() {
            mapping
                .kinds
                .extend(FieldType::from_wire_name(kind).map(|kind| (field.clone(), kind)));
        }
        for map in &command.map {
            let wrong = || format!("--map {map:?}: expected COLUMN=FIELD or COLUMN=FIELD:TYPE");
            let (column, field) = map.split_once('=').ok_or_else(wrong)?;
            let (field, kind) = match field.split_once(':') {
                Some((field, kind)) => (field, Some(kind)),
                None => (field, None),
            };
            if let Some(kind) = kind {
                let unknown = || format!("--map {map:?}: {kind:?} is no type; there are {TYPES}");
                let kind = FieldType::from_wire_name(kind).ok_or_else(unknown)?;
                mapping.kinds.insert(field.to_owned(), kind);
            }
            let field = (!field.is_empty()).then(|| field.to_owned());
            mapping.fields.insert(column.to_owned(), field);
        }
        Ok(mapping)
    }

    pub(super) fn field_of<'a>(&'a self, column: &'a str) -> Option<&'a str> {
        match self.fields.get(column) {
            Some(field) => field.as_deref(),
            None => Some(column),
        }
    }

    pub(super) fn record(&self, head: &[String], row: &csv::StringRecord) -> Result<Json, String> {
        let mut record = Map::new();
        for (column, cell) in head.iter().zip(row) {
            let Some(field) = self.field_of(column) else {
                continue;
            };
            let kind = match field {
                "_access" => &FieldType::Json,
                name if SYSTEM.contains(&name) => &FieldType::String,
                name => self.kinds.get(name).unwrap_or(&FieldType::String),
            };
            let value = table::value(kind, cell).map_err(|why| format!("{column}: {why}"))?;
            // An empty cell of these says nothing.
            if !value.is_null() || field == "_access" || !field.starts_with('_') {
                record.insert(field.to_owned(), value);
            }
        }
        Ok(record.into())
    }

    /// Gives an id its type.
    pub(super) fn complete(&self, mut record: Json) -> Json {
        let id = record.get("_id").and_then(Json::as_str);
        if let (Some(id), Some(name)) = (id, &self.record_type)
            && !id.starts_with(&format!("{name}/"))
        {
            let id = format!("{name}/{id}");
            if let Some(object) = record.as_object_mut() {
                object.insert("_id".to_owned(), id.into());
            }
        }
        record
    }
}
