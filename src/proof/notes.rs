//! Checkpoints in a file, one JSON object per line.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use skytrail_actors::log::{folder_of, sync_folder, write_whole};
use skytrail_schema::chain::ChainHash;
use uuid::Uuid;

use super::{Checkpoint, parse_public};
use crate::hex;

/// The checkpoints' file in the data folder.
pub const NOTES_FILE: &str = "checkpoints.jsonl";

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
        let is_cut = std::fs::read(&self.path)
            .is_ok_and(|bytes| !bytes.is_empty() && !bytes.ends_with(b"\n"));
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

    /// Finds the checkpoint with the highest position, whichever key signed it.
    ///
    /// A key may be lost, but what it signed still counts. A line that is not a checkpoint, or not
    /// as it was signed, is skipped and logged.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn furthest(&self) -> io::Result<Option<Checkpoint>> {
        let bytes = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let mut furthest: Option<Checkpoint> = None;
        for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            let note: Checkpoint = match serde_json::from_str(line) {
                Ok(note) if is_as_signed(&note) => note,
                Err(error) if error.is_eof() => continue,
                _ => {
                    let (path, line) = (self.path.display(), number + 1);
                    tracing::warn!("{path} line {line} proves nothing: it is not as it was signed");
                    continue;
                }
            };
            if furthest
                .as_ref()
                .is_none_or(|it| it.position <= note.position)
            {
                furthest = Some(note);
            }
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

/// Returns whether a checkpoint is signed by the key that it names.
fn is_as_signed(note: &Checkpoint) -> bool {
    parse_public(&note.key).is_some_and(|key| note.is_signed_by(&key))
}
