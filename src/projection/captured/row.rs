//! A row of the outbox as a record.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use skytrail_schema::acl::Acl;
use skytrail_schema::id::{Database, RecordId, UserId, check_length};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;
use skytrail_schema::value::{Asset, Point, Value};

use super::{Cell, Cells, is_sequence};
use crate::projection::layout::{Column, Table, TypeLayout, is_own, is_shared};

/// The longest value that a reason quotes, in bytes.
const MAX_SHOWN: usize = 200;

/// Reads these columns of a row as a record; also returns the names of its fields and system
/// columns among them.
pub(super) fn parse(
    layout: &TypeLayout,
    id: RecordId,
    row: &Cells,
    columns: &BTreeSet<String>,
) -> Result<(Record, BTreeSet<String>), String> {
    let table = layout.table.as_ref().ok_or("the type has no table")?;
    let mut record = blank(id, row, columns)?;
    let mut names = BTreeSet::new();
    for name in columns {
        if is_shared(name) {
            names.insert(name.clone());
        } else if let Some(column) = column_named(table, name) {
            let read = match row.get(name) {
                Some(Cell { json: None, .. }) => {
                    let reason = holds_none(column, None);
                    return Err(format!("{reason} that can be restored exactly"));
                }
                Some(Cell {
                    json: Some(value), ..
                }) => value_of(column, value),
                None => Some(Value::Null),
            };
            let read = read.ok_or_else(|| holds_none(column, row.json(name)))?;
            if read != Value::Null {
                record.fields.insert(column.field.clone(), read);
            }
            names.insert(column.field.clone());
        }
    }
    if names.is_empty() {
        let others: Vec<&str> = columns.iter().map(String::as_str).collect();
        return Err(format!(
            "none of these columns is a field: {}",
            others.join(", ")
        ));
    }
    Ok((record, names))
}

/// Returns the columns where the row has a value and that belong to no field.
pub(super) fn excess(layout: &TypeLayout, columns: &BTreeSet<String>, row: &Cells) -> Vec<String> {
    let Some(table) = &layout.table else {
        return Vec::new();
    };
    let is_ours = |name: &str| {
        is_shared(name) || is_own(name) || table.field_names().any(|ours| ours.as_str() == name)
    };
    let others = columns.iter().filter(|name| !is_ours(name));
    let others = others.filter(|name| {
        let cell = row.get(name);
        cell.is_some_and(|cell| !cell.is_null())
    });
    others.cloned().collect()
}

/// Returns whether any of the columns is a companion, which no field's value shows.
pub(super) fn is_beside(layout: &TypeLayout, columns: &BTreeSet<String>) -> bool {
    let companions = layout.table.iter().flat_map(|table| &table.columns);
    let mut companions = companions.filter_map(|column| column.companion.as_ref());
    companions.any(|name| columns.contains(name.as_str()))
}

/// Returns the values of a row's sequence fields.
pub(super) fn numbers(layout: &TypeLayout, row: &Cells) -> Fields {
    let columns = layout.table.iter().flat_map(|table| &table.columns);
    let sequences = columns.filter(|column| is_sequence(&column.kind));
    let numbers = sequences.filter_map(|column| {
        let value = value_of(column, row.json(column.name.as_str())?)?;
        (value != Value::Null).then(|| (column.field.clone(), value))
    });
    numbers.collect()
}

fn column_named<'a>(table: &'a Table, name: &str) -> Option<&'a Column> {
    let mut columns = table.columns.iter();
    columns.find(|column| column.name.as_str() == name)
}

/// Creates a record from a row's system columns. Only those in `columns` must be valid: the others
/// were not put there by the row's author.
fn blank(id: RecordId, row: &Cells, columns: &BTreeSet<String>) -> Result<Record, String> {
    let text = |name: &str| row.json(name).and_then(Json::as_str).unwrap_or_default();
    for name in ["_database_id", "_owner_id", "_created_by", "_updated_by"] {
        if columns.contains(name) {
            check_length(name, text(name)).map_err(|error| error.message.to_string())?;
        }
    }
    let user = |name: &str| {
        Some(text(name))
            .filter(|id| !id.is_empty())
            .map(UserId::from)
    };
    let at = |name: &str| {
        let time = match columns.contains(name) {
            true => time(text(name)),
            false => Some(Timestamp::from_micros(0)),
        };
        time.ok_or_else(|| format!("{name} does not hold a time: {:?}", text(name)))
    };
    let access = row.get("_access").filter(|_| columns.contains("_access"));
    let access = match access.map(|cell| cell.json.as_ref()) {
        None | Some(Some(Json::Null)) => None,
        Some(None) => return Err("_access cannot be read".to_owned()),
        Some(Some(list)) => {
            let list: Result<Acl, _> = serde_json::from_value(list.clone());
            Some(list.map_err(|error| format!("_access does not hold an access list: {error}"))?)
        }
    };
    Ok(Record {
        id,
        database: Database::from_stored(text("_database_id")),
        owner: user("_owner_id"),
        access,
        created_at: at("_created_at")?,
        created_by: user("_created_by"),
        updated_at: at("_updated_at")?,
        updated_by: user("_updated_by"),
        fields: Fields::new(),
    })
}

/// Returns the reason for a column with a wrong value; long values are not quoted.
fn holds_none(column: &Column, value: Option<&Json>) -> String {
    let mut reason = format!(
        "column {:?} has no valid {}",
        column.name.as_str(),
        column.kind
    );
    let value = value.map(Json::to_string);
    if let Some(value) = value.filter(|value| value.len() <= MAX_SHOWN) {
        reason.push_str(": ");
        reason.push_str(&value);
    }
    reason
}

/// Reads a time in the form of the database's JSON: UTC, without a zone.
fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse(&format!("{text}Z"))
}

fn value_of(column: &Column, value: &Json) -> Option<Value> {
    Some(match (&column.kind, value) {
        (_, Json::Null) => Value::Null,
        (FieldType::String | FieldType::CaselessString, Json::String(text)) => {
            Value::String(text.clone())
        }
        (FieldType::Number | FieldType::Integer | FieldType::Sequence, Json::Number(number)) => {
            Value::Number(number.as_f64()?)
        }
        (FieldType::Boolean, Json::Bool(value)) => Value::Bool(*value),
        // What a request could not send, the log could not return.
        (FieldType::Json, json) => match Value::from_wire(json.clone()) {
            Ok(value @ Value::Json(_)) => value,
            _ => return None,
        },
        (FieldType::Geometry, json) => {
            Value::from_wire(json!({"$type": "geojson", "$val": json})).ok()?
        }
        (FieldType::DateTime, Json::String(text)) => Value::Date(time(text)?),
        (FieldType::Reference(target), Json::String(key)) => {
            Value::Reference(RecordId::new(target.clone(), key.as_str()))
        }
        (FieldType::Asset, Json::String(name)) if !name.is_empty() => {
            Value::Asset(Box::new(Asset {
                name: name.clone(),
                content_type: None,
                url: None,
            }))
        }
        (FieldType::Location, Json::String(text)) => Value::Location(point(text)?),
        (FieldType::Location, Json::Object(geo)) => {
            let places = geo.get("coordinates")?.as_array()?;
            let [lng, lat] = places.as_slice() else {
                return None;
            };
            Value::Location(Point {
                lng: lng.as_f64()?,
                lat: lat.as_f64()?,
            })
        }
        _ => return None,
    })
}

/// Reads a point in the database's format: `(lng,lat)`.
fn point(text: &str) -> Option<Point> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let (lng, lat) = inner.split_once(',')?;
    let read = |text: &str| {
        let number: f64 = text.parse().ok()?;
        number.is_finite().then_some(number)
    };
    Some(Point {
        lng: read(lng)?,
        lat: read(lat)?,
    })
}
