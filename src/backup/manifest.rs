//! The manifest: what a backup consists of.
//!
//! A manifest is written as `{"manifest": …, "blake3": "…"}`. The digest covers the manifest's own
//! bytes, so damage is noticed before anything in it is used.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use skytrail_actors::log::journal::archive::Damage;
use skytrail_schema::chain::ChainHash;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::BackupError;
use crate::asset::{ERASED, mark_of};
use crate::config::ASSET_FOLDER;
use crate::proof::Checkpoint;

/// The newest format that this program knows: files can be in pieces.
pub(super) const FORMAT: u32 = 2;
/// The format of repositories, and of backups without files in pieces.
pub(super) const FIRST_FORMAT: u32 = 1;

/// How many missing files are named in a message.
const SHOWN: usize = 3;

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the manifest and of the repository.
    pub format: u32,
    /// The backup's name, which is the time of the backup.
    pub name: String,
    /// The time of the backup, which is later than that of every earlier one.
    pub time: Timestamp,
    /// What the clock showed, if it had been set back since an earlier backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Timestamp>,
    /// The version of the program that took it.
    pub program: String,
    /// The store that was backed up.
    pub store_id: Uuid,
    /// The previous backup in the history of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// Where the history of its log begins; `None` in backups of earlier builds, and if it was
    /// unknown, because the log was damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Beginning>,
    /// The last position.
    pub head: u64,
    /// The chain hash at that position.
    #[serde(with = "crate::hex")]
    pub chain: ChainHash,
    /// The time of the last commit.
    pub head_time: Option<Timestamp>,
    /// The signed checkpoint at the log's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// The segments of the log.
    pub segments: Vec<SegmentRef>,
    /// Damaged segments: object names, each with the first position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_segments: Vec<(u64, String)>,
    /// The parts of the log that were damaged and are not in the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<Damage>,
    /// Why the ops store is not in the backup, although there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_ledger: Option<String>,
    /// Files that the log knows and that are not in the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_files: Option<MissingFiles>,
    /// Whether the backup has looked for missing files.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_looked_for_files: bool,
    /// The bucket that held the files, none of which are in the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_in_bucket: Option<String>,
    /// All other files, except the subjects' keys. Several in a row with the same path are the
    /// pieces of one file.
    pub files: Vec<Arc<SavedFile>>,
    /// Why the current subjects' keys could not be saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_keys: Option<String>,
    /// The subjects' keys at that time, or those of the previous backup if these could not be
    /// saved. Only those of the newest backup are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SavedFile>,
}

/// The log's last restore, or its very beginning if it was never restored: no other log has the
/// same one, see `history`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The last position of the restore's commit.
    pub position: u64,
    /// The chain hash at that position.
    #[serde(with = "crate::hex")]
    pub chain: ChainHash,
}

/// Files that were expected in the configured folder and are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFiles {
    /// The folder that was searched.
    pub folder: String,
    /// Whether, as far as can be seen, no server keeps files there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_other_folder: bool,
    /// The files that were uploaded, or that an earlier backup has.
    pub names: Vec<String>,
    /// The number of files that were only announced or imported, in a folder that has no files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub num_announced: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl MissingFiles {
    /// Returns the number of missing files.
    pub fn count(&self) -> u64 {
        self.names.len() as u64 + self.num_announced
    }
}

impl std::fmt::Display for MissingFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (count, folder) = (self.count(), &self.folder);
        let noun = if count == 1 { "file" } else { "files" };
        write!(
            f,
            "{count} {noun} that the log names, searched for in {folder}"
        )?;
        if self.is_other_folder {
            write!(f, ", where no server keeps files")?;
        }
        let shown: Vec<&str> = self.names.iter().take(SHOWN).map(String::as_str).collect();
        if !shown.is_empty() {
            let more = if self.names.len() > SHOWN {
                ", …"
            } else {
                ""
            };
            write!(f, " ({}{more})", shown.join(", "))?;
        }
        Ok(())
    }
}

/// A range of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The first position.
    pub first: u64,
    /// The last position.
    pub last: u64,
    /// The chain hash at the last position.
    #[serde(with = "crate::hex")]
    pub chain: ChainHash,
    /// The first digits of the digest of its bytes; unknown in backups of earlier builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Returns the format of a backup with these files. A program that does not know pieces would
/// restore only the last one.
pub(super) fn format_of(files: &[Arc<SavedFile>]) -> u32 {
    let mut pairs = files.iter().zip(files.iter().skip(1));
    if pairs.any(|(file, next)| file.path == next.path) {
        FORMAT
    } else {
        FIRST_FORMAT
    }
}

/// A saved file, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SavedFile {
    /// The file's path in the data folder.
    pub path: String,
    /// The file's size in bytes.
    pub size: u64,
    /// The digest of the file's bytes, which is its name in the repository.
    pub blake3: String,
    /// When the file was last modified, in microseconds. If this and the size are the same in the
    /// next backup, the file is not read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<i64>,
}

/// The files that were erased, according to the marks in backups.
#[derive(Debug, Default)]
pub(super) struct ErasedFiles {
    marks: BTreeSet<String>,
}

impl ErasedFiles {
    /// Adds the files that had been erased when a backup was taken.
    pub(super) fn learn(&mut self, manifest: &Manifest) {
        self.learn_from(&manifest.files);
    }

    /// Adds the files with marks among `files`.
    pub(super) fn learn_from(&mut self, files: &[Arc<SavedFile>]) {
        let paths = files.iter().map(|file| file.path.as_str());
        let marks = paths.filter_map(|path| below(ERASED, below(ASSET_FOLDER, path)?));
        self.marks.extend(marks.map(str::to_owned));
    }

    /// Returns whether no file was erased.
    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Returns whether a file of a backup was erased.
    pub(super) fn contains(&self, file: &SavedFile) -> bool {
        below(ASSET_FOLDER, &file.path).is_some_and(|name| self.has(name))
    }

    /// Returns whether the file with a name was erased.
    pub(super) fn has(&self, name: &str) -> bool {
        // Older marks have the name of the file itself.
        self.marks.contains(&mark_of(name)) || self.marks.contains(name)
    }
}

/// Returns the path of a file relative to a folder, if it is in it.
pub(super) fn below<'a>(folder: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(folder)?.strip_prefix('/')
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    manifest: &'a RawValue,
    blake3: String,
}

impl Manifest {
    pub(super) fn encode(&self) -> Result<Vec<u8>, BackupError> {
        let failed = |error: serde_json::Error| BackupError::Refused(error.to_string());
        let text = serde_json::to_string(self).map_err(failed)?;
        let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
        let manifest = RawValue::from_string(text).map_err(failed)?;
        let envelope = Envelope {
            manifest: &manifest,
            blake3,
        };
        serde_json::to_vec(&envelope).map_err(failed)
    }

    pub(super) fn decode(object: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = |offset: usize, reason: String| BackupError::Damaged {
            object: object.to_owned(),
            offset: offset as u64,
            reason,
        };
        let unreadable = |error: serde_json::Error| damaged(error.column(), error.to_string());
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(unreadable)?;
        let text = envelope.manifest.get();
        if blake3::hash(text.as_bytes()).to_hex().as_str() != envelope.blake3 {
            return Err(damaged(0, "its checksum does not match".to_owned()));
        }
        let manifest: Self = serde_json::from_str(text).map_err(unreadable)?;
        if manifest.format > FORMAT {
            return Err(BackupError::Refused(format!(
                "{object} has format={}, this program knows up to {FORMAT}",
                manifest.format
            )));
        }
        Ok(manifest)
    }

    /// Returns what the clock showed when the backup was taken.
    pub fn clock(&self) -> Timestamp {
        self.clock.unwrap_or(self.time)
    }

    /// Returns the saved files, each as its pieces; most have one.
    pub fn files_in_pieces(&self) -> impl Iterator<Item = &[Arc<SavedFile>]> {
        self.files.chunk_by(|piece, next| piece.path == next.path)
    }

    /// Returns whether the backup has everything that there was to save.
    pub fn is_complete(&self) -> bool {
        self.damage.is_empty()
            && self.missing_ledger.is_none()
            && self.missing_files.is_none()
            && self.missing_keys.is_none()
    }

    /// Returns whether the backup may replace an earlier one, because it has everything that the
    /// earlier one has.
    pub(super) fn may_replace(&self, earlier: &Self) -> bool {
        let missing = self.missing_files.iter().flat_map(|missing| &missing.names);
        let missing: BTreeSet<&str> = missing.map(String::as_str).collect();
        let mut has = earlier
            .files
            .iter()
            .filter_map(|file| below(ASSET_FOLDER, &file.path));
        self.damage.is_empty()
            && self.missing_ledger.is_none()
            && self.missing_keys.is_none()
            && !has.any(|name| missing.contains(name))
    }

    /// Returns the names of the files that it knows, saved or missing.
    pub(super) fn known_files(&self) -> BTreeSet<String> {
        let saved = self
            .files
            .iter()
            .filter_map(|file| below(ASSET_FOLDER, &file.path));
        let saved = saved.filter(|name| below(ERASED, name).is_none());
        let missing = self.missing_files.iter().flat_map(|missing| &missing.names);
        let saved = saved.map(str::to_owned);
        saved.chain(missing.cloned()).collect()
    }

    /// Returns the first damage in the log at the time of the backup.
    pub fn first_damage(&self) -> Option<&Damage> {
        self.damage
            .iter()
            .min_by_key(|damage| damage.first_position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> SavedFile {
        SavedFile {
            path: path.to_owned(),
            size: 4,
            blake3: crate::hex::encode(&[1; 32]),
            modified: None,
        }
    }

    fn manifest(files: Vec<SavedFile>) -> Manifest {
        Manifest {
            format: FORMAT,
            name: "20240611T093000Z".to_owned(),
            time: Timestamp::from_micros(1),
            clock: None,
            program: "0.1.0".to_owned(),
            store_id: Uuid::nil(),
            follows: None,
            history: Some(Beginning::default()),
            head: 9,
            chain: [3; 32],
            head_time: None,
            checkpoint: None,
            segments: vec![SegmentRef {
                first: 1,
                last: 9,
                chain: [3; 32],
                digest: Some("0123456789abcdef".to_owned()),
            }],
            damaged_segments: Vec::new(),
            damage: Vec::new(),
            missing_ledger: None,
            missing_files: None,
            has_looked_for_files: true,
            files_in_bucket: None,
            files: files.into_iter().map(Arc::new).collect(),
            missing_keys: None,
            keys: None,
        }
    }

    #[test]
    fn erased_files_are_known_by_marks_of_now_and_of_before() {
        let mut erased = ErasedFiles::default();
        assert!(erased.is_empty());
        let now = format!("asset/.erased/{}", mark_of("deep/now"));
        let marks = [&*now, "asset/.erased/deep/before", "asset/other"].map(file);
        erased.learn(&manifest(marks.to_vec()));
        for (path, is_erased) in [
            ("asset/deep/now", true),
            ("asset/deep/before", true),
            ("asset/other", false),
            ("asset/now", false),
            ("deep/now", false),
            (&*now, false),
        ] {
            assert_eq!(erased.contains(&file(path)), is_erased, "{path}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_unless_it_changes_nothing() {
        let manifest = manifest(vec![file("keys.json")]);
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode("x", &bytes).unwrap(), manifest);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = Manifest::decode("x", &flipped) {
                assert_eq!(decoded, manifest, "bit {bit}");
            }
        }
    }
}
