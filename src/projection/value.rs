//! Converts field values to column values, and back.

use serde_json::Value as Json;
use skytrail_schema::id::RecordId;
use skytrail_schema::json;
use skytrail_schema::predicate::like;
use skytrail_schema::types::FieldType;
use skytrail_schema::value::{Asset, Value, with_whole_numbers};
use std::borrow::Cow;

use super::conn::Row;
use super::layout::Column;
use super::sql::{Arg, Kind};

/// The value of a field's column, and of its companion if it has one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    /// The column's value.
    pub(crate) main: Arg,
    /// The companion's value.
    pub(crate) companion: Arg,
}

impl Cell {
    /// No value.
    pub(crate) const NULL: Self = Self {
        main: Arg::Null,
        companion: Arg::Null,
    };

    fn plain(main: Arg) -> Self {
        Self {
            main,
            companion: Arg::Null,
        }
    }
}

/// Folds a caseless string to the form that is compared.
pub(crate) fn fold_case(text: &str) -> String {
    like::fold(text).into_owned()
}

/// Converts a field's wire form to column values; `None` when the field cannot hold it.
pub(crate) fn encode_wire(kind: &FieldType, wire: &Json) -> Option<Cell> {
    match (kind, wire) {
        // The most frequent values are converted without a copy of the JSON tree.
        (_, Json::Null) => Some(Cell::NULL),
        (FieldType::String, Json::String(text)) => Some(Cell::plain(Arg::text(text.as_str()))),
        (FieldType::Number, Json::Number(number)) => Some(Cell::plain(Arg::Real(number.as_f64()?))),
        (FieldType::Boolean, Json::Bool(value)) => Some(Cell::plain(Arg::Bool(*value))),
        _ => encode(kind, &Value::from_wire(wire.clone()).ok()?),
    }
}

/// Converts a field's value to column values; `None` when the field cannot hold it.
pub(crate) fn encode(kind: &FieldType, value: &Value) -> Option<Cell> {
    let main = match (kind, value) {
        (_, Value::Null) => Arg::Null,
        (FieldType::String, Value::String(text)) => Arg::text(text.as_str()),
        (FieldType::CaselessString, Value::String(text)) => {
            return Some(Cell {
                main: Arg::text(text.as_str()),
                companion: Arg::Text(fold_case(text)),
            });
        }
        (FieldType::Number, Value::Number(number)) => Arg::Real(*number),
        (FieldType::Integer | FieldType::Sequence, Value::Number(number)) => whole(*number),
        (FieldType::Boolean, Value::Bool(value)) => Arg::Bool(*value),
        (FieldType::Json, Value::Json(json)) | (FieldType::Geometry, Value::Geometry(json)) => {
            Arg::Json(json.to_string())
        }
        (FieldType::DateTime, Value::Date(time)) => Arg::Time(*time),
        (FieldType::Asset, Value::Asset(asset)) => {
            return Some(Cell {
                main: Arg::text(asset.name.as_str()),
                companion: Arg::maybe(asset.content_type.as_deref()),
            });
        }
        (FieldType::Reference(target), Value::Reference(id)) if *target == id.record_type => {
            Arg::text(id.key.as_str())
        }
        (FieldType::Location, Value::Location(point)) => Arg::Point(*point),
        _ => return None,
    };
    Some(Cell::plain(main))
}

/// Binds a number to a whole-number column; one with a fraction remains a float.
pub(crate) fn whole(number: f64) -> Arg {
    const LIMIT: f64 = 9.0e18;
    if number.fract() == 0.0 && number.abs() < LIMIT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 63 bits")]
        return Arg::Int(number as i64);
    }
    Arg::Real(number)
}

/// Reads a field's value from a row, starting at column `index`; `Null` for NULL.
pub(crate) fn decode(column: &Column, row: &Row, index: usize) -> Result<Value, sqlx::Error> {
    let kind = &column.kind;
    match kind {
        FieldType::Boolean => {
            return Ok(row.maybe_flag(index)?.map_or(Value::Null, Value::Bool));
        }
        FieldType::DateTime => {
            return Ok(row.maybe_time(index)?.map_or(Value::Null, Value::Date));
        }
        FieldType::Location => {
            let place = row.maybe_point(index)?;
            return Ok(place.map_or(Value::Null, Value::Location));
        }
        _ if kind.is_numeric() => {
            return Ok(row.maybe_real(index)?.map_or(Value::Null, Value::Number));
        }
        _ => {}
    }
    let Some(text) = row.maybe_text(index)? else {
        return Ok(Value::Null);
    };
    Ok(match kind {
        FieldType::Reference(target) => Value::Reference(RecordId::new(target.clone(), &*text)),
        FieldType::Asset => Value::Asset(Box::new(Asset {
            name: text.into(),
            content_type: row.maybe_text(index + 1)?.map(Cow::into_owned),
            url: None,
        })),
        FieldType::Json => parse_json(row, &text)?.map_or(Value::Null, Value::Json),
        FieldType::Geometry => parse_json(row, &text)?.map_or(Value::Null, Value::Geometry),
        _ => Value::String(text.into_owned()),
    })
}

fn parse_json(row: &Row, text: &str) -> Result<Option<Json>, sqlx::Error> {
    match (json::from_str(text), row) {
        (Ok(json), _) => Ok(Some(with_whole_numbers(json))),
        // Other programs can write JSON that the server cannot read. It counts as no value until it
        // is parked.
        (Err(_), Row::Postgres(_)) => Ok(None),
        (Err(error), Row::Sqlite(_)) => Err(sqlx::Error::Decode(error.into())),
    }
}

/// Returns the kind of value that a field's column holds.
pub(crate) fn kind_of(kind: &FieldType) -> Kind {
    match kind {
        FieldType::Number => Kind::Real,
        FieldType::Integer | FieldType::Sequence => Kind::Int,
        FieldType::Boolean => Kind::Bool,
        FieldType::DateTime => Kind::Time,
        FieldType::Json | FieldType::Geometry => Kind::Json,
        FieldType::Location => Kind::Point,
        FieldType::String
        | FieldType::CaselessString
        | FieldType::Asset
        | FieldType::Reference(_) => Kind::Text,
    }
}
