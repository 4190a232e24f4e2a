//! What a backup consists of.
//!
//! A manifest is written as `{"manifest": …, "blake3": "…"}`: the digest is over the manifest's own
//! bytes, so that one that is damaged is noticed before anything is believed of it.

use std::collections::BTreeSet;

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

/// The format that this program writes.
pub(super) const FORMAT: u32 = 1;

/// So many missing files are named in a sentence.
const SHOWN: usize = 3;

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the manifest and of the repository.
    pub format: u32,
    /// What the backup is called: when it was made.
    pub name: String,
    /// When it was made.
    pub time: Timestamp,
    /// The version of the program that made it.
    pub program: String,
    /// Which store it is of.
    pub store_id: Uuid,
    /// The backup before it in its log's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// The last position.
    pub head: u64,
    /// The chain hash there.
    #[serde(with = "crate::hex")]
    pub chain: ChainHash,
    /// When the last event was committed.
    pub head_time: Option<Timestamp>,
    /// The log's end, signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// The log.
    pub segments: Vec<SegmentRef>,
    /// Segments that were damaged: object names, each with the first position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_segments: Vec<(u64, String)>,
    /// What of the log was damaged and is not in the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<Damage>,
    /// Why the ops store, which there was, is not in the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_ledger: Option<String>,
    /// Files that are not in the backup and that the log knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_files: Option<MissingFiles>,
    /// Whether it was looked for such files.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_looked_for_files: bool,
    /// The bucket in which the files were, none of which is in the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_in_bucket: Option<String>,
    /// Everything else, but for the keys of subjects.
    pub files: Vec<SavedFile>,
    /// Why the keys of subjects could not be saved as they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_keys: Option<String>,
    /// The keys of subjects as they were, or those of the backup before it when these could not be
    /// saved; only those of the newest backup are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SavedFile>,
}

/// Files that should have been where a backup was told that they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFiles {
    /// Where they were looked for.
    pub folder: String,
    /// Whether no server keeps files there, as far as can be seen.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_other_folder: bool,
    /// Those whose bytes had come, or that an earlier backup has.
    pub names: Vec<String>,
    /// How many were only announced or imported, in a folder where none is.
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
    /// How many there are.
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
            "{count} {noun} that the log knows, looked for in {folder}"
        )?;
        if self.is_other_folder {
            write!(f, ", where no server keeps any")?;
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

/// A run of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The first position.
    pub first: u64,
    /// The last position.
    pub last: u64,
    /// The chain hash there.
    #[serde(with = "crate::hex")]
    pub chain: ChainHash,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// Where it belongs in the data folder.
    pub path: String,
    /// How many bytes it has.
    pub size: u64,
    /// The digest of its bytes, which is its name in the repository.
    pub blake3: String,
    /// When it was changed last, in microseconds: what need not be read again for the next backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<i64>,
}

/// Which files were erased, by the marks in backups.
#[derive(Debug, Default)]
pub(super) struct ErasedFiles {
    marks: BTreeSet<String>,
}

impl ErasedFiles {
    /// Learns which had been erased when a backup was made.
    pub(super) fn learn(&mut self, manifest: &Manifest) {
        self.learn_from(&manifest.files);
    }

    /// Learns from the marks among files.
    pub(super) fn learn_from(&mut self, files: &[SavedFile]) {
        let paths = files.iter().map(|file| file.path.as_str());
        let marks = paths.filter_map(|path| below(ERASED, below(ASSET_FOLDER, path)?));
        self.marks.extend(marks.map(str::to_owned));
    }

    /// Whether none was.
    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Whether a file of a backup was.
    pub(super) fn contains(&self, file: &SavedFile) -> bool {
        below(ASSET_FOLDER, &file.path).is_some_and(|name| self.has(name))
    }

    /// Whether the file of a name was.
    pub(super) fn has(&self, name: &str) -> bool {
        // Marks of before are called as the file is.
        self.marks.contains(&mark_of(name)) || self.marks.contains(name)
    }
}

/// Returns what a file in a folder is called there.
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
            return Err(damaged(0, "its checksum does not fit".to_owned()));
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

    /// Whether everything is in it that there was to save.
    pub fn is_complete(&self) -> bool {
        self.damage.is_empty()
            && self.missing_ledger.is_none()
            && self.missing_files.is_none()
            && self.missing_keys.is_none()
    }

    /// Whether it may take the place of an earlier backup: it has what that one has.
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

    /// Returns the files that it knows of, saved or missing, by their names.
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

    /// Returns the first position that was damaged when the backup was made.
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
            program: "0.1.0".to_owned(),
            store_id: Uuid::nil(),
            follows: None,
            head: 9,
            chain: [3; 32],
            head_time: None,
            checkpoint: None,
            segments: vec![SegmentRef {
                first: 1,
                last: 9,
                chain: [3; 32],
            }],
            damaged_segments: Vec::new(),
            damage: Vec::new(),
            missing_ledger: None,
            missing_files: None,
            has_looked_for_files: true,
            files_in_bucket: None,
            files,
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
