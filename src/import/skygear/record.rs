//! Converts rows to records.

use serde_json::Value as Json;
use skytrail_schema::acl::Acl;
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;
use skytrail_schema::value::{Asset, Point, Value};

use super::layout::{Table, text};
use super::source::Row;

/// Converts a record; an error says what is wrong with the row.
pub(super) fn record(table: &Table, row: &mut Row) -> Result<Record, String> {
    if table.name.is_reserved() {
        return Err("record types that start with _ are reserved".to_owned());
    }
    let id = RecordId::new(table.name.clone(), text(row, "_id"));
    if id.key.as_str().is_empty() {
        return Err("the id is empty".to_owned());
    }
    let access = row.get("_access").unwrap_or(&Json::Null);
    let access = Acl::from_wire(access).map_err(|error| error.to_string())?;
    let mut fields = Fields::default();
    for (name, kind) in &table.fields {
        let value = row.remove(name).unwrap_or_default();
        if !value.is_null() {
            let value = value_of(kind, value).and_then(readable);
            let value = value.map_err(|reason| format!("{name}: {reason}"))?;
            fields.insert(name.clone(), value);
        }
    }
    let database = match text(row, "_database_id") {
        "" => Database::Public,
        user => Database::Private(user.into()),
    };
    Ok(Record {
        id,
        database,
        owner: user(row, "_owner_id"),
        access,
        created_at: time(row, "_created_at")?,
        created_by: user(row, "_created_by"),
        updated_at: time(row, "_updated_at")?,
        updated_by: user(row, "_updated_by"),
        fields,
    })
}

/// Returns a user's id; `None` if it is empty.
pub(super) fn user(row: &Row, name: &str) -> Option<UserId> {
    let id = text(row, name);
    (!id.is_empty()).then(|| id.into())
}

/// Parses a time.
pub(super) fn time(row: &Row, name: &str) -> Result<Timestamp, String> {
    let text = text(row, name);
    moment(text).map_err(|reason| format!("{name}: {reason}"))
}

/// Parses an optional time.
pub(super) fn maybe_time(row: &Row, name: &str) -> Result<Option<Timestamp>, String> {
    match row.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(_) => time(row, name).map(Some),
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let micros = text.parse().map(Timestamp::from_micros);
    let moment = micros.map_err(|_| format!("{text:?} is not a time"))?;
    // The log also holds times as strings.
    let is_readable = Timestamp::parse(&moment.to_string()) == Some(moment);
    is_readable
        .then_some(moment)
        .ok_or_else(|| format!("{moment} is outside the years 0 to 9999"))
}

/// Refuses a value that would be read back from the log's form as something else, such as JSON with
/// a `$type`, which would be taken for a value of another type.
fn readable(value: Value) -> Result<Value, String> {
    match Value::from_wire(value.to_wire()) {
        Ok(read) if read == value => Ok(value),
        Ok(_) => Err("it would be read as a value of another type".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn value_of(kind: &FieldType, value: Json) -> Result<Value, String> {
    let unexpected = |value: &Json| format!("{value} is not of type {}", kind.wire_name());
    Ok(match (kind, value) {
        (FieldType::String | FieldType::CaselessString, Json::String(text)) => Value::String(text),
        (FieldType::Number | FieldType::Integer | FieldType::Sequence, Json::Number(number)) => {
            let number = number.as_f64().filter(|number| number.is_finite());
            Value::Number(number.ok_or_else(|| "the number is out of range".to_owned())?)
        }
        (FieldType::Boolean, Json::Bool(value)) => Value::Bool(value),
        (FieldType::Json, value @ (Json::Array(_) | Json::Object(_))) => Value::Json(value),
        (FieldType::DateTime, Json::String(text)) => Value::Date(moment(&text)?),
        (FieldType::Asset, Json::String(name)) => Value::Asset(Box::new(Asset {
            name,
            content_type: None,
            url: None,
        })),
        (FieldType::Reference(target), Json::String(key)) => {
            Value::Reference(RecordId::new(target.clone(), key))
        }
        (FieldType::Location, Json::Array(point)) => match point.as_slice() {
            [Json::Number(lng), Json::Number(lat)] => Value::Location(Point {
                lng: lng.as_f64().unwrap_or_default(),
                lat: lat.as_f64().unwrap_or_default(),
            }),
            _ => return Err("the point is empty".to_owned()),
        },
        (FieldType::Geometry, value @ Json::Object(_)) => Value::Geometry(value),
        (_, value) => return Err(unexpected(&value)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_no_value_is_named() {
        let cases = [
            (
                FieldType::Number,
                json!("NaN"),
                "\"NaN\" is not of type number",
            ),
            (
                FieldType::DateTime,
                json!("infinity"),
                "\"infinity\" is not a time",
            ),
            (
                FieldType::Json,
                json!("text"),
                "\"text\" is not of type json",
            ),
            (
                FieldType::Location,
                json!([null, null]),
                "the point is empty",
            ),
        ];
        for (kind, value, expected) in cases {
            assert_eq!(value_of(&kind, value), Err(expected.to_owned()));
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_refused() {
        let read = |kind: &FieldType, value: Json| value_of(kind, value).and_then(readable);
        let date = json!({"$type": "date", "$date": "2020-01-01T00:00:00Z"});
        for (value, is_good) in [
            (json!({"$type": "x"}), false),
            (date.clone(), false),
            (json!({"a": date}), true),
            (json!({"a": {"$type": "paragraph"}}), false),
            (json!([{"$type": "ref"}]), false),
            (json!([1, {"a": null}]), true),
        ] {
            let found = read(&FieldType::Json, value.clone());
            assert_eq!(found.is_ok(), is_good, "{value}");
        }
        // The first and the last microsecond of the years that have four digits.
        let (first, last) = (-62_167_219_200_000_000_i64, 253_402_300_799_999_999_i64);
        for (micros, is_good) in [
            (first - 1, false),
            (first, true),
            (last, true),
            (last + 1, false),
        ] {
            let found = read(&FieldType::DateTime, json!(micros.to_string()));
            assert_eq!(found.is_ok(), is_good, "{micros}");
        }
    }
}
