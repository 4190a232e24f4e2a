//! Maps the columns of a table to the fields of records.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use skytrail_schema::types::FieldType;

use super::Records;
use crate::import::table;
use crate::ops::export::{SYSTEM, Schema};
use crate::spreadsheet::unguarded;

/// The types that a column can have, as listed in the help.
const TYPES: &str = "string, number, integer, boolean, datetime, json, asset, location, geometry, \
                     ref(TYPE), sequence";

/// Which column is which field, and its type.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    record_type: Option<String>,
    /// The field by column; `None` for a column that is left out.
    pub(super) fields: BTreeMap<String, Option<String>>,
    /// The field types that the command names.
    kinds: BTreeMap<String, FieldType>,
    /// The types of the fields that exist here, by record type.
    here: BTreeMap<String, BTreeMap<String, FieldType>>,
}

impl Mapping {
    pub(super) fn read(command: &Records, schema: &Schema) -> Result<Self, String> {
        let here = schema.iter().map(|(name, fields)| {
            let kind_of = |(field, kind): (&String, &String)| {
                Some((field.clone(), FieldType::from_wire_name(kind)?))
            };
            (name.clone(), fields.iter().filter_map(kind_of).collect())
        });
        let mut mapping = Self {
            record_type: command.record_type.clone(),
            here: here.collect(),
            ..Self::default()
        };
        for map in &command.map {
            let wrong = || format!("--map {map:?}: expected COLUMN=FIELD or COLUMN=FIELD:TYPE");
            let (column, field) = map.split_once('=').ok_or_else(wrong)?;
            let (field, kind) = match field.split_once(':') {
                Some((field, kind)) => (field, Some(kind)),
                None => (field, None),
            };
            if let Some(kind) = kind {
                let unknown = || {
                    format!(
                        "--map {map:?}: {kind:?} is not a type; the types are \
                                          {TYPES}"
                    )
                };
                let kind = FieldType::from_wire_name(kind).ok_or_else(unknown)?;
                mapping.kinds.insert(field.to_owned(), kind);
            }
            let field = (!field.is_empty()).then(|| field.to_owned());
            if mapping.fields.insert(column.to_owned(), field).is_some() {
                return Err(format!("--map {map:?}: the column has a --map already"));
            }
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
        let here = self.type_of(head, row);
        let here = here.and_then(|name| self.here.get(name));
        let kind_of = |field: &str| {
            let said = self.kinds.get(field);
            said.or_else(|| here.and_then(|here| here.get(field)))
        };
        for (column, cell) in head.iter().zip(row) {
            let Some(field) = self.field_of(column) else {
                continue;
            };
            let kind = match field {
                "_access" => &FieldType::Json,
                name if SYSTEM.contains(&name) => &FieldType::String,
                name => kind_of(name).unwrap_or(&FieldType::String),
            };
            let value = table::value(kind, cell).map_err(|why| format!("{column}: {why}"))?;
            // For these members, an empty cell means that there is no value.
            if !value.is_null() || field == "_access" || !field.starts_with('_') {
                record.insert(field.to_owned(), value);
            }
        }
        Ok(record.into())
    }

    /// Returns the record type of a row: the one that the command names, else the one in the id.
    fn type_of<'a>(&'a self, head: &[String], row: &'a csv::StringRecord) -> Option<&'a str> {
        if let Some(name) = &self.record_type {
            return Some(name);
        }
        let mut cells = head.iter().zip(row);
        let (_, id) = cells.find(|(column, _)| self.field_of(column) == Some("_id"))?;
        unguarded(id).split_once('/').map(|(name, _)| name)
    }

    /// Adds the type to an id that lacks it.
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
