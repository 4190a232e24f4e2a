//! The outcome of an import: counts per table, and each row that was not imported, with the reason.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;
use serde_json::json;
use skytrail_actors::import::Outcome;

use crate::own_file;

/// How many rows that were not imported are shown if no report file is written.
const SHOWN: usize = 20;

/// The outcome for the rows of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows in the source.
    pub found: u64,
    /// Rows that did not exist here.
    pub added: u64,
    /// Rows that existed here and were changed later in the source.
    pub updated: u64,
    /// Rows that already exist here.
    pub present: u64,
    /// Rows that exist here and differ, or were deleted here.
    pub kept: u64,
    /// Rows that could not be imported.
    pub refused: u64,
}

/// See the module's overview.
pub struct Report {
    tables: BTreeMap<String, Counts>,
    /// The tables in the order in which they were imported.
    order: Vec<String>,
    file: Option<BufWriter<File>>,
    shown: Vec<String>,
    num_hidden: u64,
}

impl Report {
    /// Begins a report. With a path, rows that were not imported are written there, a JSON object
    /// per line.
    ///
    /// # Errors
    /// The file cannot be created, or is not empty.
    pub fn begin(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(own_file::begin).transpose()?.map(BufWriter::new);
        Ok(Self {
            tables: BTreeMap::new(),
            order: Vec::new(),
            file,
            shown: Vec::new(),
            num_hidden: 0,
        })
    }

    /// Notes that a table is imported, even if it has no rows.
    pub fn look_at(&mut self, table: &str) {
        self.counts(table);
    }

    /// Notes the outcome for a row.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note(&mut self, table: &str, id: &str, outcome: &Outcome) -> io::Result<()> {
        let outcome = match outcome {
            Outcome::Incomplete(became) => became,
            outcome => outcome,
        };
        let counts = self.counts(table);
        counts.found += 1;
        let (what, why) = match outcome {
            Outcome::Added => {
                counts.added += 1;
                return Ok(());
            }
            Outcome::Updated => {
                counts.updated += 1;
                return Ok(());
            }
            Outcome::Present | Outcome::Incomplete(_) => {
                counts.present += 1;
                return Ok(());
            }
            Outcome::Kept(why) => {
                counts.kept += 1;
                ("kept", why)
            }
            Outcome::Refused(why) => {
                counts.refused += 1;
                ("refused", why)
            }
        };
        self.tell(table, id, what, why)
    }

    /// Notes something else that people should know; no row is counted.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remark(&mut self, table: &str, id: &str, why: &str) -> io::Result<()> {
        self.look_at(table);
        self.tell(table, id, "note", why)
    }

    fn tell(&mut self, table: &str, id: &str, what: &str, why: &str) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let line = json!({"table": table, "id": id, "outcome": what, "reason": why});
            return writeln!(file, "{line}");
        }
        if self.shown.len() < SHOWN {
            self.shown.push(format!("  {what} {table} {id}: {why}"));
        } else {
            self.num_hidden += 1;
        }
        Ok(())
    }

    fn counts(&mut self, table: &str) -> &mut Counts {
        if !self.tables.contains_key(table) {
            self.order.push(table.to_owned());
        }
        self.tables.entry(table.to_owned()).or_default()
    }

    /// Returns the counts of a table.
    pub fn of(&self, table: &str) -> Counts {
        self.tables.get(table).copied().unwrap_or_default()
    }

    /// Returns whether any table was begun.
    pub fn has_begun(&self) -> bool {
        !self.order.is_empty()
    }

    /// Returns how many rows could not be imported.
    pub fn num_refused(&self) -> u64 {
        self.tables.values().map(|counts| counts.refused).sum()
    }

    /// Ends the report and returns it as lines of text.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> io::Result<Vec<String>> {
        if let Some(file) = &mut self.file {
            file.flush()?;
        }
        let width = self.order.iter().map(|name| name.chars().count());
        let width = width.max().unwrap_or_default().max("total".len());
        let line = |name: &str, counts: &Counts| {
            let Counts {
                found,
                added,
                updated,
                present,
                kept,
                refused,
            } = counts;
            format!(
                "{name:width$} {found:>9} {added:>9} {updated:>9} {present:>9} {kept:>9} {refused:>9}"
            )
        };
        let mut lines = vec![format!(
            "{:width$} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "there", "added", "updated", "present", "kept", "refused"
        )];
        let mut total = Counts::default();
        for name in &self.order {
            let Some(counts) = self.tables.get(name) else {
                continue;
            };
            total.found += counts.found;
            total.added += counts.added;
            total.updated += counts.updated;
            total.present += counts.present;
            total.kept += counts.kept;
            total.refused += counts.refused;
            lines.push(line(name, counts));
        }
        lines.push(line("total", &total));
        lines.extend(self.shown);
        if self.num_hidden > 0 {
            let more = self.num_hidden;
            lines.push(format!(
                "  … and {more} more; --report FILE writes them all"
            ));
        }
        Ok(lines)
    }
}
