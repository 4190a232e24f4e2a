//! What is in a file: a record per line of JSON, or per row of a table.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use serde_json::Value as Json;

use super::mapping::Mapping;

/// A record of the file, and the line where it begins.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) record: Result<Json, String>,
}

pub(super) fn json_lines(file: File) -> impl Iterator<Item = Result<Line, String>> {
    let lines = BufReader::new(file).split(b'\n').zip(1..);
    let lines = lines.map(|(line, number)| Ok((line.map_err(|error| error.to_string())?, number)));
    let is_full = |line: &Result<(Vec<u8>, u64), String>| {
        line.as_ref()
            .map_or(true, |(line, _)| !line.trim_ascii().is_empty())
    };
    lines.filter(is_full).map(|line| {
        let (line, number) = line?;
        let text = String::from_utf8(line).map_err(|error| format!("no UTF-8: {error}"));
        let record = text.and_then(|text| {
            let parsed = skytrail_schema::json::from_str(&text);
            parsed.map_err(|error| format!("no JSON: {error}"))
        });
        let is_object = |record: Json| match record {
            Json::Object(_) => Ok(record),
            _ => Err("no JSON object".to_owned()),
        };
        Ok(Line {
            number,
            record: record.and_then(is_object),
        })
    })
}

pub(super) fn rows(
    file: File,
    mapping: Mapping,
) -> Result<impl Iterator<Item = Result<Line, String>>, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let head = reader.headers().map_err(|error| error.to_string())?;
    let head: Vec<String> = head
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').to_owned())
        .collect();
    if let Some(unknown) = mapping.fields.keys().find(|name| !head.contains(name)) {
        let columns = head.join(", ");
        return Err(format!(
            "the table has no column {unknown:?}; it has {columns}"
        ));
    }
    if !head
        .iter()
        .any(|name| mapping.field_of(name) == Some("_id"))
    {
        return Err("the table has no column for _id; name one with --map COLUMN=_id".to_owned());
    }
    Ok(reader.into_records().map(move |row| {
        let row = row.map_err(|error| error.to_string())?;
        let number = row.position().map_or(0, csv::Position::line);
        let record = if row.len() == head.len() {
            mapping.record(&head, &row)
        } else {
            Err(format!("{} cells, and {} columns", row.len(), head.len()))
        };
        Ok(Line { number, record })
    }))
}
