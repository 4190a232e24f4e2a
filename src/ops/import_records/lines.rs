//! Reads a file: a record per line of JSON, or per row of a table.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::rc::Rc;

use serde_json::Value as Json;

use super::mapping::Mapping;

/// What some editors put in front of a file in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A record of the file, and the number of the line where it begins.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) record: Result<Json, String>,
}

pub(super) fn json_lines(file: File) -> impl Iterator<Item = Result<Line, String>> {
    let lines = BufReader::new(file).split(b'\n').zip(1..);
    let lines = lines.map(|(line, number)| {
        let mut line = line.map_err(|error| error.to_string())?;
        if number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok((line, number))
    });
    let is_full = |line: &Result<(Vec<u8>, u64), String>| {
        line.as_ref()
            .map_or(true, |(line, _)| !line.trim_ascii().is_empty())
    };
    lines.filter(is_full).map(|line| {
        let (line, number) = line?;
        let text = String::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"));
        let record = text.and_then(|text| {
            let parsed = skytrail_schema::json::from_str(&text);
            parsed.map_err(|error| format!("not JSON: {error}"))
        });
        let is_object = |record: Json| match record {
            Json::Object(_) => Ok(record),
            _ => Err("not a JSON object".to_owned()),
        };
        Ok(Line {
            number,
            record: record.and_then(is_object),
        })
    })
}

pub(super) fn rows(
    file: File,
    mapping: Rc<Mapping>,
) -> Result<impl Iterator<Item = Result<Line, String>>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(Numbered::of(file));
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
    let record_of = move |row: csv::ByteRecord| {
        let row = csv::StringRecord::from_byte_record(row);
        let row = row.map_err(|error| format!("not UTF-8: {}", error.utf8_error()))?;
        if row.len() != head.len() {
            return Err(format!("{} cells for {} columns", row.len(), head.len()));
        }
        mapping.record(&head, &row)
    };
    Ok(std::iter::from_fn(move || {
        let mut row = csv::ByteRecord::new();
        match reader.read_byte_record(&mut row) {
            Ok(false) => None,
            Ok(true) => {
                let begin = row.position().map_or(0, csv::Position::byte);
                let number = reader.get_mut().line_of(begin);
                let record = record_of(row);
                Some(Ok(Line { number, record }))
            }
            Err(error) => Some(Err(error.to_string())),
        }
    }))
}

/// A file that keeps track of its line breaks. The CSV parser counts neither the empty lines before
/// a row nor a line feed that is left over from the line break before it.
struct Numbered {
    file: File,
    num_read: u64,
    /// The offsets and bytes of the line breaks after the last row that was asked for.
    breaks: VecDeque<(u64, u8)>,
    line: u64,
}

impl Numbered {
    fn of(file: File) -> Self {
        Self {
            file,
            num_read: 0,
            breaks: VecDeque::new(),
            line: 1,
        }
    }

    /// Returns the line in which a row begins, given the offset at which the parser began to read
    /// it. Rows must be asked for in their order.
    fn line_of(&mut self, mut begin: u64) -> u64 {
        while let Some((at, byte)) = self.breaks.pop_front_if(|(at, _)| *at <= begin) {
            if at == begin {
                begin += 1;
            }
            if byte == b'\n' {
                self.line += 1;
            }
        }
        self.line
    }
}

impl Read for Numbered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let num_read = self.file.read(buffer)?;
        let bytes = (self.num_read..).zip(buffer.iter().take(num_read));
        let breaks = bytes.filter(|(_, byte)| matches!(byte, b'\r' | b'\n'));
        self.breaks.extend(breaks.map(|(at, byte)| (at, *byte)));
        self.num_read = (self.num_read).saturating_add(u64::try_from(num_read).unwrap_or(u64::MAX));
        Ok(num_read)
    }
}
