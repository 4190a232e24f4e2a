//! The progress of a replay: in the range, and in its report.
//!
//! The report is written first, then the cursor, which holds the report's length and its last line.
//! So after a kill, the report is cut to what the cursor covers, nothing is in it twice, and no
//! other file is mistaken for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use skytrail_schema::json::{list, members};

use crate::ops::partial::folder_beside;
use crate::own_file;
use crate::scratch::Scratch;

/// The answer of `plugin:replay`.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(deserialize_with = "list")]
    result: Vec<Json>,
    pub(super) info: PageInfo,
}

#[derive(Debug, Deserialize)]
pub(super) struct PageInfo {
    plugin: String,
    from: u64,
    pub(super) until: u64,
    pub(super) next: Option<u64>,
    writes: Writes,
    #[serde(default)]
    ignored: BTreeMap<String, u64>,
}

/// The number of writes by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Writes {
    pub(super) same: u64,
    pub(super) changed: u64,
    pub(super) refused: u64,
    pub(super) depends: u64,
    pub(super) failed: u64,
    pub(super) unhooked: u64,
    pub(super) erased: u64,
}

/// The content of the cursor file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cursor {
    /// The request.
    #[serde(rename = "asked", deserialize_with = "members")]
    request: Map<String, Json>,
    /// The plugin that answered.
    plugin: String,
    /// The first and the last position.
    range: Option<(u64, u64)>,
    /// Where to continue; none at the end, and before the start.
    next: Option<u64>,
    /// The number of writes by outcome so far.
    writes: Writes,
    /// The number of writes in which an ignored field was different, by field.
    #[serde(default)]
    ignored: BTreeMap<String, u64>,
    /// The length of the report up to here,
    report_bytes: u64,
    /// and its last line, which identifies it.
    report_end: Option<String>,
}

/// The file that holds the cursor.
struct CursorFile {
    path: PathBuf,
    /// The folder in which the next version is written.
    beside: Scratch,
}

/// See the module's overview.
pub(super) struct Checkpoint {
    cursor: Cursor,
    file: Option<CursorFile>,
    report: Option<(File, PathBuf)>,
}

impl PageInfo {
    /// Returns how many writes the plugin was asked about.
    pub(super) fn num_replayed(&self) -> u64 {
        self.writes.num_replayed()
    }
}

impl Writes {
    pub(super) fn num_replayed(&self) -> u64 {
        self.same + self.changed + self.refused + self.depends + self.failed
    }

    fn add(&mut self, other: Self) {
        self.same += other.same;
        self.changed += other.changed;
        self.refused += other.refused;
        self.depends += other.depends;
        self.failed += other.failed;
        self.unhooked += other.unhooked;
        self.erased += other.erased;
    }
}

impl Checkpoint {
    /// Starts a replay, or continues where the cursor file says.
    ///
    /// # Errors
    /// A file cannot be read or written, or the cursor belongs to a different replay.
    pub(super) fn open(
        path: Option<&Path>,
        report: Option<&Path>,
        request: &Map<String, Json>,
    ) -> Result<Self, String> {
        let saved = match path {
            Some(path) => read(path)?,
            None => None,
        };
        if let (Some(saved), Some(path)) = (&saved, path)
            && saved.request != *request
        {
            let path = path.display();
            return Err(format!(
                "{path} belongs to another replay: {}; use another file or remove it",
                Json::Object(saved.request.clone())
            ));
        }
        let is_new = saved.is_none();
        let cursor = saved.unwrap_or_else(|| Cursor {
            request: request.clone(),
            ..Cursor::default()
        });
        let report = report.map(|report| {
            let file = open_report(report, path, &cursor)?;
            Ok::<_, String>((file, report.to_owned()))
        });
        let report = report.transpose()?;
        let file = path.map(CursorFile::at).transpose()?;
        // From now on, a cursor exists for whatever is in the report.
        if let Some(file) = file.as_ref().filter(|_| is_new) {
            file.write(&cursor)?;
        }
        Ok(Self {
            cursor,
            file,
            report,
        })
    }

    /// Returns whether the replay is finished.
    pub(super) fn is_at_end(&self) -> bool {
        self.cursor.range.is_some() && self.cursor.next.is_none()
    }

    /// Adds the start of the next page to a request. Events written meanwhile are not in the range.
    pub(super) fn put_into(&self, body: &mut Map<String, Json>) {
        if let (Some((_, until)), Some(next)) = (self.cursor.range, self.cursor.next) {
            body.insert("from".to_owned(), next.into());
            body.insert("until".to_owned(), until.into());
        }
    }

    /// Adds a page to the report and the cursor; returns the differences.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn take(&mut self, page: Page, certain: bool) -> Result<Vec<Json>, String> {
        let mut findings = page.result;
        findings.retain(|finding| !certain || finding["outcome"] != "depends");
        let mut text = String::new();
        for finding in &findings {
            text += &finding.to_string();
            text.push('\n');
        }
        if let Some((file, path)) = &mut self.report {
            let written = file
                .write_all(text.as_bytes())
                .and_then(|()| file.sync_data());
            written.map_err(|error| failed(path, &error))?;
            self.cursor.report_bytes += u64::try_from(text.len()).unwrap_or_default();
            if let Some(last) = text.lines().last() {
                self.cursor.report_end = Some(last.to_owned());
            }
        }
        let info = page.info;
        let first = self.cursor.range.map_or(info.from, |(first, _)| first);
        self.cursor.range = Some((first, info.until));
        self.cursor.next = info.next;
        self.cursor.plugin = info.plugin;
        self.cursor.writes.add(info.writes);
        for (field, number) in info.ignored {
            *self.cursor.ignored.entry(field).or_default() += number;
        }
        if let Some(file) = &self.file {
            file.write(&self.cursor)?;
        }
        Ok(findings)
    }

    /// Returns whether some write would have a different outcome.
    pub(super) fn has_differences(&self, certain: bool) -> bool {
        let writes = self.cursor.writes;
        let depends = if certain { 0 } else { writes.depends };
        writes.changed + writes.refused + writes.failed + depends > 0
    }

    pub(super) fn writes(&self) -> Writes {
        self.cursor.writes
    }

    /// Returns the ignored fields that were different, each with the number of such writes.
    pub(super) fn ignored(&self) -> &BTreeMap<String, u64> {
        &self.cursor.ignored
    }

    pub(super) fn plugin(&self) -> &str {
        &self.cursor.plugin
    }

    /// Returns the first and the last position.
    pub(super) fn range(&self) -> (u64, u64) {
        self.cursor.range.unwrap_or_default()
    }
}

fn read(path: &Path) -> Result<Option<Cursor>, String> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| format!("{} is not a cursor: {error}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, &error)),
    }
}

impl CursorFile {
    fn at(path: &Path) -> Result<Self, String> {
        Ok(Self {
            path: path.to_owned(),
            beside: folder_beside(path)?,
        })
    }

    /// Writes the cursor next to the old one and renames it: one of them exists, whenever the
    /// process is killed.
    fn write(&self, cursor: &Cursor) -> Result<(), String> {
        let new = self.beside.path().join("cursor");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(cursor)?)?;
            file.sync_data()?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| failed(&self.path, &error))
    }
}

/// Opens the report at the place that the cursor knows; the content before must belong to the
/// cursor.
fn open_report(path: &Path, cursor_path: Option<&Path>, cursor: &Cursor) -> Result<File, String> {
    let failed = |error: io::Error| failed(path, &error);
    let (Some(cursor_path), 1..) = (cursor_path, cursor.report_bytes) else {
        return own_file::begin(path).map_err(|error| error.to_string());
    };
    let mut options = File::options();
    let file = options.read(true).write(true).open(path).map(Some);
    let file = file.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(failed(error)),
    })?;
    let Some(mut file) = file.filter(|file| has_end(file, cursor).unwrap_or_default()) else {
        let (path, cursor) = (path.display(), cursor_path.display());
        return Err(format!(
            "{path} is not the report that belongs to {cursor}: name that one, or start over with \
             another cursor and another report"
        ));
    };
    file.set_len(cursor.report_bytes).map_err(failed)?;
    file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok(file)
}

/// Returns whether a report has the cursor's last line in the right place.
fn has_end(mut file: &File, cursor: &Cursor) -> io::Result<bool> {
    let Some(last) = &cursor.report_end else {
        return Ok(false);
    };
    let expected = format!("{last}\n").into_bytes();
    let length = u64::try_from(expected.len()).unwrap_or(u64::MAX);
    let Some(start) = cursor.report_bytes.checked_sub(length) else {
        return Ok(false);
    };
    let mut found = vec![0; expected.len()];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut found)?;
    Ok(found == expected)
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(from: u64, next: Option<u64>, findings: &[Json]) -> Page {
        let info = json!({"plugin": "P", "from": from, "until": 9, "next": next, "writes":
            {"same": 1, "changed": findings.len(), "refused": 0, "depends": 0, "failed": 0,
             "unhooked": 0, "erased": 0}});
        serde_json::from_value(json!({"result": findings, "info": info})).unwrap()
    }

    #[test]
    fn what_was_written_behind_the_cursor_is_not_in_the_report_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (cursor, report) = (folder.path().join("cursor"), folder.path().join("report"));
        let request = json!({"plugin": "P"}).as_object().unwrap().clone();
        let open = || Checkpoint::open(Some(&cursor), Some(&report), &request).unwrap();
        let mut checkpoint = open();
        checkpoint
            .take(page(1, Some(5), &[json!({"position": 2})]), false)
            .unwrap();
        let kept = fs::read(&cursor).unwrap();
        checkpoint
            .take(page(5, None, &[json!({"position": 7})]), false)
            .unwrap();
        // Killed between writing the report and the cursor.
        fs::write(&cursor, kept).unwrap();
        let mut checkpoint = open();
        assert_eq!(checkpoint.cursor.next, Some(5));
        checkpoint
            .take(page(5, None, &[json!({"position": 7})]), false)
            .unwrap();
        assert_eq!(
            fs::read_to_string(&report).unwrap(),
            "{\"position\":2}\n{\"position\":7}\n"
        );
        assert!(checkpoint.is_at_end());
        assert_eq!(
            (checkpoint.range(), checkpoint.writes().changed),
            ((1, 9), 2)
        );
        let other = Checkpoint::open(Some(&cursor), None, &Map::new()).err();
        assert!(other.unwrap().contains("belongs to another replay"));
    }
}
