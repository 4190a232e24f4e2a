//! A row as the outbox has it.
//!
//! The database accepts JSON that cannot be read here: numbers of any size and precision, and
//! unlimited nesting. So each column is read separately.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Number, Value as Json};
use skytrail_schema::json;

use crate::projection::postgres::unescape_json;

/// How deep JSON may be nested: an answer that shows it nests it a few levels deeper.
const MAX_DEPTH: usize = 120;

/// The contents of a column. The text tells apart values that are equal once read: `1.5` and
/// `1.50`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    /// The value as the database writes it.
    text: String,
    /// The value that was read, if it can be.
    pub(super) json: Option<Json>,
}

impl Cell {
    /// Returns whether the value is NULL.
    pub(super) fn is_null(&self) -> bool {
        self.json == Some(Json::Null)
    }
}

/// The contents of a row, by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cells(BTreeMap<String, Cell>);

impl Cells {
    /// Reads a row that the database has written as JSON. Names of columns are not escaped there,
    /// values are.
    pub(super) fn read(text: &str) -> Result<Self, sqlx::Error> {
        let cells: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let read = |text: &str| {
            let json = json::from_str(text).ok();
            let is_kept = |json: &Json| is_within(json, MAX_DEPTH) && numbers(text).all(is_kept);
            Cell {
                text: text.to_owned(),
                json: json.filter(is_kept),
            }
        };
        let cells = cells.into_iter();
        Ok(Self(
            cells
                .map(|(name, raw)| (name, read(&unescape_json(raw.get()))))
                .collect(),
        ))
    }

    pub(super) fn get(&self, column: &str) -> Option<&Cell> {
        self.0.get(column)
    }

    /// Returns the value that was read of a column.
    pub(super) fn json(&self, column: &str) -> Option<&Json> {
        self.get(column)?.json.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Cell)> {
        self.0.iter()
    }

    /// Returns the row for display: what cannot be read is a string.
    pub(super) fn into_json(self) -> Json {
        let cells = self.0.into_iter().map(|(name, cell)| {
            let json = cell.json.unwrap_or(Json::String(cell.text));
            (name, json)
        });
        Json::Object(cells.collect::<Map<String, Json>>())
    }
}

/// Returns whether a value is nested at most this deep.
fn is_within(json: &Json, depth: usize) -> bool {
    let below = |item| depth > 0 && is_within(item, depth - 1);
    match json {
        Json::Array(items) => depth > 0 && items.iter().all(below),
        Json::Object(members) => depth > 0 && members.values().all(below),
        _ => true,
    }
}

/// Returns the numbers in a JSON text, as they are written.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut is_escaped = false;
    let mut is_quoted = false;
    let is_outside = move |char: char| {
        match char {
            '"' if !is_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        is_escaped = is_quoted && char == '\\' && !is_escaped;
        is_quoted || !matches!(char, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')
    };
    let words = text.split(is_outside);
    words.filter(|word| word.contains(|char: char| char.is_ascii_digit()))
}

/// Returns whether a number stays the same when it is read and written again.
fn is_kept(number: &str) -> bool {
    let again = serde_json::from_str::<Number>(number);
    again.is_ok_and(|again| decimal(number) == decimal(&again.to_string()))
}

/// Returns a number's significant digits without its sign, and how many of them are before the
/// decimal point.
fn decimal(number: &str) -> Option<(String, i64)> {
    let number = number.strip_prefix('-').unwrap_or(number);
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent: i64 = exponent.parse().ok()?;
    let digits = format!("{whole}{part}");
    let counting = digits.trim_start_matches('0');
    let num_leading = i64::try_from(digits.len() - counting.len()).ok()?;
    let place = i64::try_from(whole.len()).ok()? + exponent - num_leading;
    let counting = counting.trim_end_matches('0');
    let place = if counting.is_empty() { 0 } else { place };
    Some((counting.to_owned(), place))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_come_back_or_cannot_be_read() {
        let kept = [
            "0",
            "-0.0",
            "0.1",
            "1.50",
            "-3",
            "9007199254740993",
            "1e300",
            "1E+3",
            "0.001e-2",
            "5e-324",
            "18446744073709551615",
            "1000000000000000000000",
            r#"["1e400", "\"1e400", {"1e400": "\\"}, true, null]"#,
        ];
        for text in kept {
            let row = format!(r#"{{"a":{text}}}"#);
            assert!(Cells::read(&row).unwrap().json("a").is_some(), "{text}");
        }
        let others = [
            "12345678901234567.89",
            "1e-400",
            "0.10000000000000001",
            "18446744073709551617",
            r#"{"a": ["\\", 1e-400]}"#,
        ];
        for text in others {
            let row = format!(r#"{{"a":{text}}}"#);
            assert_eq!(Cells::read(&row).unwrap().json("a"), None, "{text}");
        }
    }

    #[test]
    fn values_are_escaped_and_names_are_not() {
        let cells = Cells::read(r#"{"a\u00010":"\u00010\u00011","b":{"\u00010":1}}"#).unwrap();
        assert_eq!(cells.json("a\u{1}0"), Some(&json!("\0\u{1}")));
        assert_eq!(cells.json("b"), Some(&json!({"\0": 1})));
    }

    #[test]
    fn what_cannot_be_read_is_a_text_and_the_rest_is_read() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let row = format!(
            r#"{{"a":1e400,"b":{{"$serde_json::private::RawValue":"1"}},"c":{},"d":{},"e":null}}"#,
            deep(MAX_DEPTH),
            deep(MAX_DEPTH + 1)
        );
        let cells = Cells::read(&row).unwrap();
        assert_eq!(cells.json("a"), None);
        assert!(cells.json("c").is_some());
        assert_eq!(cells.json("d"), None);
        assert_eq!(cells.json("e"), Some(&Json::Null));
        let shown = cells.into_json();
        assert_eq!(shown["a"], "1e400");
        assert_eq!(shown["b"], json!({"$serde_json::private::RawValue": "1"}));
        assert_eq!(shown["d"], deep(MAX_DEPTH + 1));
    }
}
