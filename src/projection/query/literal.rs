//! Literals as values to bind: what a constant becomes beside a column of some class.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use skytrail_schema::code::ApiError;
use skytrail_schema::value::{Value, number_to_wire};

use super::path::Class;
use crate::projection::sql::Arg;
use crate::projection::value::{fold_case, whole};

/// Turns a literal into the value that a column of `class` is compared with; `Null` for null.
///
/// # Errors
/// 10000: the literal has no meaning there.
pub(super) fn bind(class: Class, value: &Value) -> Result<Arg, ApiError> {
    if value.is_null() {
        return Ok(Arg::Null);
    }
    let bound = match class {
        Class::Text => text_of(value).map(Arg::Text),
        Class::Folded => text_of(value).map(|text| Arg::Text(fold_case(&text))),
        Class::Number => number_of(value).map(Arg::Real),
        Class::Whole => number_of(value)
            .filter(|number| number.fract() == 0.0)
            .map(whole),
        Class::Boolean => boolean_of(value).map(|value| Arg::Int(value.into())),
        Class::Time => micros_of(value).map(Arg::Int),
        Class::Json | Class::Point | Class::Geometry => None,
    };
    bound.ok_or_else(mismatch)
}

/// The answer to a comparison that makes no sense for the field's type.
pub(super) fn mismatch() -> ApiError {
    ApiError::unexpected(
        "a value in the query does not fit the type of the field it is compared with",
    )
}

/// The text of a literal beside a text column; a reference counts by its key.
fn text_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number_to_wire(*number).to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Reference(id) => id.key.as_str().to_owned(),
        Value::Asset(asset) => asset.name.clone(),
        Value::Date(time) => time.to_string(),
        _ => return None,
    })
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Truth values may be written as words, of which a beginning is enough.
fn boolean_of(value: &Value) -> Option<bool> {
    let text = match value {
        Value::Bool(value) => return Some(*value),
        Value::Number(number) => number_to_wire(*number).to_string(),
        Value::String(text) => text.trim().to_lowercase(),
        _ => return None,
    };
    let begins = |word: &str| !text.is_empty() && word.starts_with(&text);
    if begins("true") || begins("yes") || text == "on" || text == "1" {
        return Some(true);
    }
    let is_false = begins("false") || begins("no") || text == "of" || text == "off" || text == "0";
    is_false.then_some(false)
}

/// A text beside a time counts by its digits; its zone is ignored, as in v1.
fn micros_of(value: &Value) -> Option<i64> {
    match value {
        Value::Date(time) => Some(time.micros()),
        Value::String(text) => Some(local_time(text.trim())?.and_utc().timestamp_micros()),
        _ => None,
    }
}

fn local_time(text: &str) -> Option<NaiveDateTime> {
    let normal = text.replacen(' ', "T", 1);
    if let Ok(time) = DateTime::parse_from_rfc3339(&normal) {
        return Some(time.naive_local());
    }
    if let Ok(time) = normal.parse() {
        return Some(time);
    }
    let date: NaiveDate = text.parse().ok()?;
    Some(date.and_time(NaiveTime::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn literals_take_the_type_of_the_column() {
        let cases = [
            (Class::Text, Value::Number(1.0), Arg::text("1")),
            (Class::Text, Value::Bool(true), Arg::text("true")),
            (Class::Folded, string("AbC"), Arg::text("abc")),
            (Class::Number, string(" 1.5 "), Arg::Real(1.5)),
            (Class::Whole, string("7"), Arg::Int(7)),
            (Class::Boolean, string("T"), Arg::Int(1)),
            (Class::Boolean, string("off"), Arg::Int(0)),
            (Class::Boolean, Value::Number(0.0), Arg::Int(0)),
            (
                Class::Time,
                string("1970-01-01T08:00:01+08:00"),
                Arg::Int(28_801_000_000),
            ),
            (
                Class::Time,
                string("1970-01-01 00:00:01.5"),
                Arg::Int(1_500_000),
            ),
            (Class::Time, string("1970-01-02"), Arg::Int(86_400_000_000)),
        ];
        for (class, value, expected) in cases {
            assert_eq!(
                bind(class, &value).unwrap(),
                expected,
                "{class:?} {value:?}"
            );
        }
    }

    #[test]
    fn literals_without_meaning_are_refused() {
        let cases = [
            (Class::Number, string("a")),
            (Class::Number, Value::Bool(true)),
            (Class::Whole, Value::Number(1.5)),
            (Class::Boolean, string("maybe")),
            (Class::Time, Value::Number(1.0)),
            (Class::Time, string("soon")),
        ];
        for (class, value) in cases {
            assert!(bind(class, &value).is_err(), "{class:?} {value:?}");
        }
    }
}
