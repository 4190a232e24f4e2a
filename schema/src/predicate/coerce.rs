//! Conversion of literals to cells of a column's kind.

use std::borrow::Cow;

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::Value as Json;

use super::{Cell, CellClass, ColumnKind};
use crate::json;
use crate::time::Timestamp;
use crate::value::{Value, number_to_wire};

impl ColumnKind {
    /// Returns how cells of this kind are compared; `None` for shapes, which cannot be compared.
    pub fn class(&self) -> Option<CellClass> {
        Some(match self {
            Self::Text | Self::Reference(_) => CellClass::Text,
            Self::CaselessText => CellClass::CaselessText,
            Self::Number | Self::Integer => CellClass::Number,
            Self::Bool => CellClass::Bool,
            Self::Time => CellClass::Time,
            Self::Json => CellClass::Json,
            Self::Location => CellClass::Point,
            Self::Geometry => return None,
        })
    }

    /// Converts a literal to a cell of this kind as v1's database would; `None` if it would refuse.
    pub fn coerce(&self, literal: &Value) -> Option<Cell<'static>> {
        match self {
            Self::Text | Self::CaselessText | Self::Reference(_) => to_text(literal),
            Self::Number => to_number(literal).map(Cell::Number),
            Self::Integer => to_number(literal)
                .filter(|number| number.fract() == 0.0)
                .map(Cell::Number),
            Self::Bool => to_bool(literal).map(Cell::Bool),
            Self::Time => to_time(literal).map(Cell::Time),
            Self::Json => to_json(literal).map(|json| Cell::Json(Cow::Owned(json))),
            Self::Location => match literal {
                Value::Location(point) => Some(Cell::Point(*point)),
                _ => None,
            },
            Self::Geometry => None,
        }
    }
}

/// Converts a literal to cells of all kinds that take it.
pub(super) fn to_any(literal: &Value) -> impl Iterator<Item = Cell<'static>> + use<> {
    let kinds = [
        ColumnKind::Text,
        ColumnKind::Number,
        ColumnKind::Bool,
        ColumnKind::Time,
        ColumnKind::Json,
        ColumnKind::Location,
    ];
    // The others take the same as these, or less.
    let cells = kinds.map(|kind| kind.coerce(literal));
    cells.into_iter().flatten()
}

/// Converts a literal to text: numbers without exponent, references by their key, files by their
/// name.
pub(super) fn to_text(literal: &Value) -> Option<Cell<'static>> {
    let text = match literal {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Reference(id) => id.key.to_string(),
        Value::Asset(asset) => asset.name.clone(),
        Value::Date(time) => time.to_string(),
        _ => return None,
    };
    Some(Cell::Text(Cow::Owned(text)))
}

pub(super) fn to_number(literal: &Value) -> Option<f64> {
    match literal {
        Value::Number(number) => Some(*number),
        Value::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

/// Accepts the words that SQL accepts, and their prefixes.
fn to_bool(literal: &Value) -> Option<bool> {
    let text = match literal {
        Value::Bool(value) => return Some(*value),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        _ => return None,
    };
    let begins = |word: &str| !text.is_empty() && word.starts_with(&text);
    if begins("true") || begins("yes") || text == "on" || text == "1" {
        return Some(true);
    }
    let is_false = begins("false") || begins("no") || text == "of" || text == "off" || text == "0";
    is_false.then_some(false)
}

fn to_time(literal: &Value) -> Option<Timestamp> {
    match literal {
        Value::Date(time) => Some(*time),
        Value::String(text) => parse_local_time(text.trim()),
        _ => None,
    }
}

/// Parses a time as v1's columns without time zone do: a zone in the text is ignored.
fn parse_local_time(text: &str) -> Option<Timestamp> {
    let midnight = |date: NaiveDate| date.and_hms_opt(0, 0, 0);
    let time = match text.split_once(['T', 't', ' ']) {
        None => NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()
            .and_then(midnight)?,
        Some((date, clock)) => {
            let clock = clock.split(['Z', 'z', '+', '-']).next()?.trim_end();
            let both = format!("{date}T{clock}");
            NaiveDateTime::parse_from_str(&both, "%Y-%m-%dT%H:%M:%S%.f").ok()?
        }
    };
    Some(Timestamp::from_micros(time.and_utc().timestamp_micros()))
}

fn to_json(literal: &Value) -> Option<Json> {
    match literal {
        Value::String(text) => json::from_str(text).ok(),
        Value::Number(number) => Some(number_to_wire(*number)),
        Value::Bool(value) => Some(Json::Bool(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cell(kind: &ColumnKind, wire: Json) -> Option<Cell<'static>> {
        kind.coerce(&Value::from_wire(wire).unwrap())
    }

    fn text(text: &str) -> Option<Cell<'static>> {
        Some(Cell::Text(Cow::Owned(text.to_owned())))
    }

    fn time(text: &str) -> Option<Cell<'static>> {
        Timestamp::parse(text).map(Cell::Time)
    }

    #[test]
    fn text_takes_the_text_of_other_values() {
        let kind = ColumnKind::Reference("note".into());
        assert_eq!(cell(&kind, json!(1)), text("1"));
        assert_eq!(cell(&kind, json!(1e21)), text("1000000000000000000000"));
        assert_eq!(cell(&kind, json!(true)), text("true"));
        assert_eq!(
            cell(&kind, json!({"$type": "ref", "$id": "a/b/c"})),
            text("b/c")
        );
        assert_eq!(cell(&kind, json!({"a": 1})), None);
    }

    #[test]
    fn numbers_take_numeric_text_and_integers_no_fractions() {
        let one = Some(Cell::Number(1.0));
        assert_eq!(cell(&ColumnKind::Number, json!(" 1 ")), one);
        assert_eq!(cell(&ColumnKind::Number, json!("abc")), None);
        assert_eq!(cell(&ColumnKind::Number, json!(true)), None);
        assert_eq!(cell(&ColumnKind::Integer, json!(1)), one);
        assert_eq!(cell(&ColumnKind::Integer, json!(1.5)), None);
    }

    #[test]
    fn truth_values_take_words() {
        for (wire, expected) in [
            (json!("true"), Some(true)),
            (json!("F"), Some(false)),
            (json!(1), Some(true)),
            (json!("off"), Some(false)),
            (json!("o"), None),
            (json!(""), None),
            (json!(2), None),
        ] {
            assert_eq!(cell(&ColumnKind::Bool, wire), expected.map(Cell::Bool));
        }
    }

    #[test]
    fn the_zone_of_a_text_is_ignored_but_not_that_of_a_date() {
        let expected = time("2015-04-10T17:35:20Z");
        for text in [
            "2015-04-10T17:35:20+08:00",
            "2015-04-10 17:35:20",
            "2015-04-10T17:35:20.000Z",
        ] {
            assert_eq!(cell(&ColumnKind::Time, json!(text)), expected, "{text}");
        }
        let date = json!({"$type": "date", "$date": "2015-04-10T17:35:20+08:00"});
        assert_eq!(cell(&ColumnKind::Time, date), time("2015-04-10T09:35:20Z"));
        assert_eq!(
            cell(&ColumnKind::Time, json!("2015-04-10")),
            time("2015-04-10T00:00:00Z")
        );
        assert_eq!(cell(&ColumnKind::Time, json!("yesterday")), None);
    }

    #[test]
    fn json_takes_json_text() {
        let parsed = Some(Cell::Json(Cow::Owned(json!({"a": 1}))));
        assert_eq!(cell(&ColumnKind::Json, json!("{\"a\":1}")), parsed);
        assert_eq!(cell(&ColumnKind::Json, json!("x")), None);
    }
}
