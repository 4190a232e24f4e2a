//! Events as lines of a file: JSON Lines, or a table with a column for each property that all
//! events have.

use serde_json::Value as Json;
use serde_json::value::RawValue;
use skytrail_schema::code::ApiError;
use skytrail_schema::json;

use crate::spreadsheet;

/// The table's columns, and the JSON pointer to each in an event as it is shown.
const COLUMNS: [(&str, &str); 19] = [
    ("position", "/position"),
    ("time", "/time"),
    ("kind", "/kind"),
    ("stream", "/stream"),
    ("version", "/version"),
    ("user", "/actor/user"),
    ("key", "/actor/key"),
    ("origin", "/actor/origin"),
    ("plugin", "/actor/plugin"),
    ("on_behalf", "/actor/on_behalf"),
    ("request_id", "/request_id"),
    ("commit", "/commit"),
    ("causation", "/causation"),
    ("id", "/id"),
    ("hooks", "/hooks"),
    ("payload", "/payload"),
    // Newer ones are last, so that programs that count the columns find the others where they were.
    ("rights", "/actor/rights"),
    ("sql", "/sql"),
    ("erased", "/erased"),
];

/// How every event begins, in the form in which it is shown.
const BEGIN: &str = "{\"position\":";

/// The format in which events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated values, with a header line.
    Csv,
}

impl Format {
    /// Parses the name of a format.
    ///
    /// # Errors
    /// 108: no such format.
    pub(crate) fn parse(name: &str) -> Result<Self, ApiError> {
        match name {
            "jsonl" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            _ => {
                let message = format!("{name:?} is not a format: jsonl or csv");
                Err(ApiError::invalid_argument(message, &["format"]))
            }
        }
    }

    /// Returns the media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }

    /// Returns the text before the first event.
    pub(crate) fn head(self) -> String {
        match self {
            Self::Jsonl => String::new(),
            Self::Csv => spreadsheet::row(COLUMNS.map(|(name, _)| name)),
        }
    }

    /// Formats an event, in the form in which it is shown.
    pub(crate) fn line(self, event: &RawValue) -> String {
        match self {
            Self::Jsonl => format!("{}\n", event.get()),
            Self::Csv => {
                let event = json::from_str(event.get()).unwrap_or_default();
                spreadsheet::row(COLUMNS.map(|(_, place)| cell(event.pointer(place))))
            }
        }
    }

    /// Returns whether a file can start with this prefix of a first line.
    pub(crate) fn may_begin(self, piece: &str) -> bool {
        match self {
            Self::Jsonl => piece.starts_with(BEGIN) || BEGIN.starts_with(piece),
            Self::Csv => self.head().starts_with(piece),
        }
    }

    /// Finds the position in a line of this format.
    pub(crate) fn position(self, line: &str) -> Option<u64> {
        match self {
            Self::Jsonl => {
                let event = json::from_str(line)
                    .ok()
                    .filter(|_| line.starts_with(BEGIN))?;
                event.get("position")?.as_u64()
            }
            // The first column, which is never quoted.
            Self::Csv => line.split(',').next()?.parse().ok(),
        }
    }
}

fn cell(value: Option<&Json>) -> String {
    match value {
        None | Some(Json::Null) => String::new(),
        // A row is always one line, so that its last line can be found when a file is resumed.
        Some(Json::String(text)) if !text.contains(['\r', '\n']) => text.clone(),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line_that_says_where_it_stands() {
        let event = json!({"position": 7, "time": "t", "kind": "record.created", "version": 1,
            "stream": "record/note/=1", "actor": {"user": "=cmd", "key": "client",
            "origin": "api"}, "commit": "c", "id": "c.0", "payload": {"a": "x,\"y\""}});
        let raw = serde_json::value::to_raw_value(&event).unwrap();
        let line = Format::Csv.line(&raw);
        let expected = "7,t,record.created,record/note/=1,1,'=cmd,client,api,,,,c,,c.0,,\
            \"{\"\"a\"\":\"\"x,\\\"\"y\\\"\"\"\"}\",,,\r\n";
        assert_eq!(line, expected);
        assert_eq!(Format::Csv.position(&line), Some(7));
        let erased = json!({"position": 8, "sql": {"role": "lab"}, "erased": {"why": "w"}});
        let erased = serde_json::value::to_raw_value(&erased).unwrap();
        let erased = Format::Csv.line(&erased);
        let expected = ",\"{\"\"role\"\":\"\"lab\"\"}\",\"{\"\"why\"\":\"\"w\"\"}\"\r\n";
        assert!(erased.ends_with(expected), "{erased}");
        let line = Format::Jsonl.line(&raw);
        assert_eq!(serde_json::from_str::<Json>(&line).unwrap(), event);
        let line = "{\"position\":7,\"n\":1}\n";
        assert_eq!(Format::Jsonl.position(line), Some(7));
        assert_eq!(Format::Jsonl.position("{\"n\":1,\"position\":7}\n"), None);
        let names = Format::Csv.head();
        assert_eq!(names.split(',').count(), COLUMNS.len());
        assert_eq!(Format::Csv.position(&names), None);
    }
}
