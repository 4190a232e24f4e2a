//! Checkpoints in a file, one JSON object per line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use serde::Deserialize;
use skytrail_actors::log::{folder_of, sync_folder, write_whole};
use skytrail_schema::chain::ChainHash;
use uuid::Uuid;

use super::{Checkpoint, parse_public};
use crate::hex;

/// The checkpoints' file in the data folder.
pub const NOTES_FILE: &str = "checkpoints.jsonl";

/// More bytes than a line of the file has.
const MAX_LINE_BYTES: u64 = 4096;

/// The part of a line that is read to find the checkpoint with the highest position.
#[derive(Deserialize)]
struct Place {
    position: u64,
}

/// A file of checkpoints.
#[derive(Clone, Debug)]
pub struct Notes {
    path: PathBuf,
    /// Whether the file was named explicitly, so that it must exist.
    is_named: bool,
}

impl Notes {
    /// Returns the checkpoints' file of a data folder.
    pub fn of(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(NOTES_FILE),
            is_named: false,
        }
    }

    /// Returns a file that was named explicitly: it must exist and hold a checkpoint.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            is_named: true,
        }
    }

    /// Appends a checkpoint, durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        // A line that a crash has cut off is ended, so that it does not spoil the next one.
        let end = self.end()?;
        let is_cut = !end.is_empty() && !end.ends_with(b"\n");
        let mut line = if is_cut {
            "\n".to_owned()
        } else {
            String::new()
        };
        line.push_str(&serde_json::to_string(checkpoint).map_err(io::Error::other)?);
        line.push('\n');
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        // The file may be new.
        sync_folder(folder_of(&self.path))
    }

    /// Reads all checkpoints; none if the file does not exist yet. A line that a crash has cut off
    /// is not a checkpoint.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not a checkpoint; the error has its number.
    pub fn read(&self) -> io::Result<Vec<Checkpoint>> {
        let text = match std::fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_named => {
                return Ok(Vec::new());
            }
            text => text.map_err(|error| self.named(&error))?,
        };
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(checkpoint) => found.push(checkpoint),
                Err(error) if error.is_eof() => {}
                Err(error) => {
                    let (path, line) = (self.path.display(), number + 1);
                    let message = format!("{path} line {line} is not a checkpoint: {error}");
                    return Err(io::Error::other(message));
                }
            }
        }
        Ok(found)
    }

    /// Returns the file's last bytes, which hold at least its last line; none if the file does not
    /// exist.
    fn end(&self) -> io::Result<Vec<u8>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_LINE_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns the checkpoint in the last line, if it is one. The signature is not verified.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last(&self) -> io::Result<Option<Checkpoint>> {
        let end = self.end()?;
        let text = String::from_utf8_lossy(&end);
        let note = text.lines().last().map(serde_json::from_str);
        Ok(note.and_then(Result::ok))
    }

    /// Finds the checkpoint with the highest position, whichever key signed it.
    ///
    /// A key may be lost, but what it signed still counts. A line that is not a checkpoint, or that
    /// has a higher position but is not as it was signed, is skipped and logged.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn furthest(&self) -> io::Result<Option<Checkpoint>> {
        let bytes = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let (furthest, bad_lines) = furthest(&text, is_as_signed);
        for line in bad_lines {
            let path = self.path.display();
            tracing::warn!("{path} line {line} proves nothing: it is not as it was signed");
        }
        Ok(furthest)
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::other(format!("{}: {error}", self.path.display()))
    }

    /// Removes the checkpoints after a position, for a log that was restored up to there.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn cut(&self, head: u64) -> io::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let remaining = self.read()?;
        let remaining = remaining.iter().filter(|it| it.position <= head);
        let lines: Result<Vec<String>, _> = remaining.map(serde_json::to_string).collect();
        let lines = lines.map_err(io::Error::other)?;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        write_whole(&self.path, text.as_bytes())
    }

    /// Checks every signature, and returns the chain hashes that the log must have, by position.
    ///
    /// # Errors
    /// Returns a sentence that names the first line that is not signed by the key, is about another
    /// store, or contradicts another one; or says that a file named explicitly holds no checkpoint.
    pub fn check(
        &self,
        key: &VerifyingKey,
        store_id: Option<Uuid>,
    ) -> Result<BTreeMap<u64, ChainHash>, String> {
        let mut marks = BTreeMap::new();
        let path = self.path.display();
        let checkpoints = self.read().map_err(|error| error.to_string())?;
        if self.is_named && checkpoints.is_empty() {
            return Err(format!("{path} has no checkpoint"));
        }
        for (number, checkpoint) in checkpoints.iter().enumerate() {
            let (line, position) = (number + 1, checkpoint.position);
            if !checkpoint.is_signed_by(key) {
                let why = if checkpoint.key == hex::encode(key.as_bytes()) {
                    "though it names it: it is not as it was written".to_owned()
                } else {
                    format!(
                        "but says that {} has signed it: if a start replaced a lost log.key, \
                         restore log.key from a backup, or name the public key that was kept \
                         elsewhere with --key; otherwise somebody else wrote the checkpoint",
                        checkpoint.key
                    )
                };
                return Err(format!(
                    "{path} line {line}: the checkpoint at position {position} is not signed by \
                     the log's key, {why}"
                ));
            }
            if store_id.is_some_and(|store_id| store_id != checkpoint.store_id) {
                return Err(format!(
                    "{path} line {line}: the checkpoint is of another store ({})",
                    checkpoint.store_id
                ));
            }
            let earlier = marks.insert(position, checkpoint.chain);
            if earlier.is_some_and(|earlier| earlier != checkpoint.chain) {
                return Err(format!(
                    "{path} line {line}: two checkpoints at position {position} contradict each other"
                ));
            }
        }
        Ok(marks)
    }
}

/// Finds the checkpoint with the highest position that is as it was signed; returns it with the
/// numbers of the lines that prove nothing.
///
/// Signatures are verified from the highest position down, so one is enough, however many lines
/// there are.
fn furthest(
    text: &str,
    mut is_as_signed: impl FnMut(&Checkpoint) -> bool,
) -> (Option<Checkpoint>, Vec<usize>) {
    let (mut places, mut bad_lines) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        match serde_json::from_str::<Place>(line) {
            Ok(place) => places.push((place.position, number, line)),
            Err(error) if error.is_eof() => {}
            Err(_) => bad_lines.push(number),
        }
    }
    places.sort_unstable();
    for (_, number, line) in places.into_iter().rev() {
        match serde_json::from_str(line) {
            Ok(note) if is_as_signed(&note) => return (Some(note), bad_lines),
            _ => bad_lines.push(number),
        }
    }
    (None, bad_lines)
}

/// Returns whether a checkpoint is signed by the key that it names.
fn is_as_signed(note: &Checkpoint) -> bool {
    parse_public(&note.key).is_some_and(|key| note.is_signed_by(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(position: u64) -> String {
        let note = Checkpoint {
            store_id: Uuid::nil(),
            position,
            time: skytrail_schema::time::Timestamp::from_micros(1),
            chain: [7; 32],
            key: String::new(),
            signature: String::new(),
        };
        serde_json::to_string(&note).unwrap()
    }

    #[test]
    fn one_good_signature_is_enough_and_the_highest_counts() {
        let mut lines: Vec<String> = (1..=1000).map(line).collect();
        lines.swap(200, 999);
        lines.push("\0\0".to_owned());
        lines.push("{\"store_id\":".to_owned());
        let text = lines.join("\n");
        let mut verified = Vec::new();
        let (found, bad_lines) = furthest(&text, |note| {
            verified.push(note.position);
            note.position <= 998
        });
        assert_eq!(found.unwrap().position, 998);
        assert_eq!(verified, [1000, 999, 998]);
        assert_eq!(bad_lines, [1001, 201, 999]);
        assert_eq!(furthest(&text, |_| false).0, None);
    }
}
