//! Converts between the cells of a table and the values of records.
//!
//! | field | cell |
//! | --- | --- |
//! | string | as it is; if it is empty or quotes alone, two quotes more: an empty cell is null |
//! | number, integer, sequence | `1.5` |
//! | boolean | `true` or `false` |
//! | datetime | RFC 3339 |
//! | ref | `type/id` |
//! | asset | its name |
//! | location | `longitude latitude` |
//! | json, geometry, access lists | JSON |
//!
//! The apostrophe in front of what a spreadsheet would calculate ([`crate::spreadsheet`]) is
//! removed.

use serde_json::{Value as Json, json};
use skytrail_schema::json;
use skytrail_schema::types::FieldType;

use crate::spreadsheet;

/// The prefix of a string that consists of quotes alone.
const QUOTES: &str = "\"\"";

/// Returns the cell for a wire value.
pub fn cell(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) if is_quotes(text) => format!("{QUOTES}{text}"),
        Json::String(text) => text.clone(),
        Json::Object(object) => {
            let text = |name: &str| object.get(name).and_then(Json::as_str).map(str::to_owned);
            let typed = match object.get("$type").and_then(Json::as_str) {
                Some("date") => text("$date"),
                Some("ref") => text("$id"),
                Some("asset") => text("$name"),
                Some("geojson") => object.get("$val").map(ToString::to_string),
                Some("geo") => object
                    .get("$lng")
                    .zip(object.get("$lat"))
                    .map(|(lng, lat)| format!("{lng} {lat}")),
                _ => None,
            };
            typed.unwrap_or_else(|| value.to_string())
        }
        other => other.to_string(),
    }
}

fn is_quotes(text: &str) -> bool {
    text.chars().all(|it| it == '"')
}

/// Returns the wire value of a cell; null for an empty one.
///
/// # Errors
/// Returns what is wrong with the cell.
pub fn value(kind: &FieldType, cell: &str) -> Result<Json, String> {
    let cell = spreadsheet::unguarded(cell);
    if cell.is_empty() {
        return Ok(Json::Null);
    }
    let wrong = |what: &str| format!("{cell:?} is not {what}");
    Ok(match kind {
        FieldType::String | FieldType::CaselessString => match cell.strip_prefix(QUOTES) {
            Some(text) if is_quotes(text) => text.into(),
            _ => cell.into(),
        },
        FieldType::Number | FieldType::Integer | FieldType::Sequence => {
            let number: f64 = cell.trim().parse().map_err(|_| wrong("a number"))?;
            let number = Some(number).filter(|number| number.is_finite());
            skytrail_schema::value::number_to_wire(number.ok_or_else(|| wrong("a number"))?)
        }
        FieldType::Boolean => match cell.trim().to_ascii_lowercase().as_str() {
            "true" => true.into(),
            "false" => false.into(),
            _ => return Err(wrong("a boolean: true or false")),
        },
        FieldType::DateTime => json!({"$type": "date", "$date": cell.trim()}),
        FieldType::Asset => json!({"$type": "asset", "$name": cell}),
        FieldType::Reference(target) => {
            let id = match cell.split_once('/') {
                Some((name, _)) if name == target.as_str() => cell.to_owned(),
                _ => format!("{target}/{cell}"),
            };
            json!({"$type": "ref", "$id": id})
        }
        FieldType::Location => {
            let mut parts = cell.split_whitespace().map(str::parse::<f64>);
            let (Some(Ok(lng)), Some(Ok(lat)), None) = (parts.next(), parts.next(), parts.next())
            else {
                return Err(wrong("a location: longitude and latitude"));
            };
            json!({"$type": "geo", "$lng": lng, "$lat": lat})
        }
        FieldType::Json => json::from_str(cell).map_err(|_| wrong("JSON"))?,
        FieldType::Geometry => {
            let shape = json::from_str(cell).map_err(|_| wrong("GeoJSON"))?;
            json!({"$type": "geojson", "$val": shape})
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_come_back() {
        let cases = [
            (FieldType::String, json!("")),
            (FieldType::String, json!("a \"b\", c\n")),
            (FieldType::Number, json!(-1.5)),
            (FieldType::Integer, json!(7)),
            (FieldType::Boolean, json!(false)),
            (
                FieldType::DateTime,
                json!({"$type": "date", "$date": "2017-01-01T00:00:00Z"}),
            ),
            (
                FieldType::Asset,
                json!({"$type": "asset", "$name": "a/b.png"}),
            ),
            (
                FieldType::Reference("note".into()),
                json!({"$type": "ref", "$id": "note/a/b"}),
            ),
            (
                FieldType::Location,
                json!({"$type": "geo", "$lng": 1.25, "$lat": -2.0}),
            ),
            (FieldType::Json, json!({"a": [1, null]})),
            (
                FieldType::Geometry,
                json!({"$type": "geojson", "$val": {"type": "Point"}}),
            ),
        ];
        for (kind, wire) in cases {
            assert_eq!(value(&kind, &cell(&wire)), Ok(wire));
        }
        assert_eq!(value(&FieldType::String, ""), Ok(Json::Null));
        assert_eq!(value(&FieldType::Number, "'-1"), Ok(json!(-1)));
        let wrong = value(&FieldType::Boolean, "yes");
        assert_eq!(
            wrong,
            Err("\"yes\" is not a boolean: true or false".to_owned())
        );
    }

    proptest! {
        #[test]
        fn texts_and_numbers_come_back(
            text in prop_oneof!["['\"=+@a,\t\r\n]{0,6}", any::<String>()],
            number in any::<f64>(),
        ) {
            prop_assume!(number.is_finite());
            let wire = skytrail_schema::value::number_to_wire(number);
            let row = spreadsheet::row([cell(&json!(text)), cell(&wire)]);
            let mut rows = csv::ReaderBuilder::new()
                .has_headers(false)
                .from_reader(row.as_bytes());
            let row = rows.records().next().unwrap().unwrap();
            prop_assert_eq!(value(&FieldType::String, &row[0]), Ok(json!(text)));
            prop_assert_eq!(value(&FieldType::Number, &row[1]), Ok(wire));
        }
    }
}
