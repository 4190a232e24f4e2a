//! The parts of a backup on this machine.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek as _, SeekFrom, Take};
use std::path::{Path, PathBuf};

use skytrail_actors::log::KEYRING_FILE;
use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::JOURNAL_FOLDER;
use skytrail_actors::log::journal::archive::Survey;

use super::BackupError;
use super::folder::modified;
use super::manifest::SavedFile;
use crate::asset::UPLOADS;
use crate::config::{ASSET_FOLDER, AssetStore, Config, KEY_FILE};
use crate::ops_store::OPS_STORE_FILE;
use crate::proof;

/// Copies of the ops store that exist only while a backup is taken: the copy itself, and the files
/// that it is made from.
pub(crate) const OPS_STORE_COPIES: [&str; 4] = [
    "backup.ops",
    "backup.raw",
    "backup.raw-wal",
    "backup.raw-shm",
];

/// Where the parts of a backup are.
#[derive(Clone, Debug)]
pub struct Local {
    /// The data folder.
    pub data_dir: PathBuf,
    /// The folder of files; `None` if they are in a bucket, which a backup does not include.
    pub assets: Option<PathBuf>,
    /// The bucket of files.
    pub bucket: Option<String>,
    /// The copy of the ops store.
    pub ops_store: OpsStoreCopy,
}

/// The copy of the ops store for a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpsStoreCopy {
    /// There is no ops store.
    None,
    /// A copy that nobody writes to.
    At(PathBuf),
    /// The ops store cannot be copied, and why. The log is saved all the same: nothing else has it.
    Failed(String),
}

/// How much of a file that only grows is one piece. A backup copies only the last piece again.
const PIECE_BYTES: u64 = 64 << 10;

/// A part of a file: where it begins, and its length.
pub(super) type Piece = (u64, u64);

/// A file to save.
pub(super) struct LocalFile {
    /// The file's path in a restored data folder.
    pub(super) path: String,
    pub(super) place: PathBuf,
    /// The part of the file; the whole file if it is `None`.
    pub(super) piece: Option<Piece>,
    /// Whether the file counts as unchanged if its size and time are those of the last backup.
    pub(super) is_kept: bool,
}

/// Ensures that only one backup of a data folder is taken at a time.
#[derive(Debug)]
pub struct Turn {
    /// `None` on a read-only file system.
    _file: Option<File>,
}

impl Local {
    /// Takes the places from the configuration.
    pub fn new(config: &Config) -> Self {
        let (assets, bucket) = match &config.assets.store {
            AssetStore::Folder { path, .. } => (Some(path.clone()), None),
            AssetStore::S3(s3) => (None, Some(s3.bucket.clone())),
        };
        Self {
            data_dir: config.data_dir.clone(),
            assets,
            bucket,
            ops_store: OpsStoreCopy::None,
        }
    }

    /// Begins a backup. Removes what an earlier, interrupted one left behind.
    ///
    /// # Errors
    /// Another backup is in progress.
    pub fn take_turn(&self) -> Result<Turn, BackupError> {
        let path = self.data_dir.join("backup.lock");
        let failed = || BackupError::io(path.display().to_string());
        let file = match File::create(&path) {
            // Two backups that only read do not disturb each other.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                return Ok(Turn { _file: None });
            }
            made => made.map_err(failed())?,
        };
        match file.try_lock() {
            Ok(()) => {
                for name in OPS_STORE_COPIES {
                    let _ = std::fs::remove_file(self.data_dir.join(name));
                }
                Ok(Turn { _file: Some(file) })
            }
            Err(TryLockError::WouldBlock) => Err(BackupError::Refused(format!(
                "another backup of {} is under way",
                self.data_dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed()(error)),
        }
    }

    /// Returns where to put a copy of the ops store during a backup.
    pub fn ops_store_copy(&self) -> PathBuf {
        self.data_dir.join(OPS_STORE_COPIES[0])
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.data_dir.join(JOURNAL_FOLDER)
    }

    pub(super) fn keyring(&self) -> PathBuf {
        self.data_dir.join(KEYRING_FILE)
    }

    /// Surveys the log as it is now.
    pub(super) fn survey(&self) -> Result<Survey, BackupError> {
        let folder = self.journal();
        if !folder.is_dir() {
            let place = self.data_dir.display();
            return Err(BackupError::Refused(format!("no log in {place}")));
        }
        Survey::of(&RealDisk::read_only(&folder)).map_err(BackupError::segment("the journal"))
    }

    /// Lists what to save in addition to the log.
    pub(super) fn files(&self) -> Result<Vec<LocalFile>, BackupError> {
        let mut files = Vec::new();
        for name in [KEY_FILE, proof::KEY_FILE] {
            let place = self.data_dir.join(name);
            if place.exists() {
                files.push(LocalFile {
                    path: name.to_owned(),
                    place,
                    piece: None,
                    is_kept: false,
                });
            }
        }
        self.list_notes(&mut files)?;
        if let OpsStoreCopy::At(ops_store) = &self.ops_store {
            files.push(LocalFile {
                path: OPS_STORE_FILE.to_owned(),
                place: ops_store.clone(),
                piece: None,
                is_kept: false,
            });
        }
        if let Some(assets) = &self.assets
            && assets.is_dir()
        {
            let failed = BackupError::io(assets.display().to_string());
            list(assets, ASSET_FOLDER, &mut files).map_err(failed)?;
        }
        Ok(files)
    }

    /// Lists the pieces of the checkpoints' file. It only grows, so all pieces but the last one are
    /// those of the last backup.
    fn list_notes(&self, files: &mut Vec<LocalFile>) -> Result<(), BackupError> {
        let place = self.data_dir.join(proof::NOTES_FILE);
        let size = match std::fs::metadata(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            about => about
                .map_err(BackupError::io(place.display().to_string()))?
                .len(),
        };
        let mut from = 0;
        while from < size || from == 0 {
            let length = PIECE_BYTES.min(size - from);
            files.push(LocalFile {
                path: proof::NOTES_FILE.to_owned(),
                place: place.clone(),
                piece: Some((from, length)),
                is_kept: false,
            });
            from += PIECE_BYTES;
        }
        Ok(())
    }
}

/// Lists the files below a folder, without uploads in progress.
fn list(folder: &Path, path: &str, files: &mut Vec<LocalFile>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let (path, place) = (format!("{path}/{name}"), entry.path());
        let kind = entry.file_type()?;
        if kind.is_dir() && name != UPLOADS {
            list(&place, &path, files)?;
        } else if kind.is_file() {
            files.push(LocalFile {
                path,
                place,
                piece: None,
                is_kept: true,
            });
        }
    }
    Ok(())
}

/// An open file or a part of one, whose name may disappear meanwhile.
pub(super) struct OpenFile {
    file: Take<File>,
    piece: Option<Piece>,
    pub(super) size: u64,
    pub(super) modified: i64,
}

impl OpenFile {
    pub(super) fn open(place: &Path, piece: Option<Piece>) -> io::Result<Self> {
        let file = File::open(place)?;
        let about = file.metadata()?;
        let mut open = Self {
            size: piece.map_or(about.len(), |(_, length)| length),
            modified: modified(&about)?.micros(),
            file: file.take(0),
            piece,
        };
        open.rewind()?;
        Ok(open)
    }

    fn rewind(&mut self) -> io::Result<()> {
        let (from, length) = self.piece.unwrap_or((0, u64::MAX));
        self.file.get_mut().seek(SeekFrom::Start(from))?;
        self.file.set_limit(length);
        Ok(())
    }

    pub(super) fn digest(&mut self) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut self.file, &mut hasher)?;
        self.rewind()?;
        Ok(hasher.finalize())
    }
}

/// Reads, and digests what was read.
pub(super) struct Digesting<R> {
    inner: R,
    hasher: blake3::Hasher,
    pub(super) size: u64,
}

impl<R> Digesting<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
            size: 0,
        }
    }

    pub(super) fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// Compares what was read of an object with the file that it was made from.
    pub(super) fn compare(&self, object: &str, file: &SavedFile) -> Result<(), BackupError> {
        if self.digest() == file.blake3 {
            return Ok(());
        }
        let reason = if self.size == file.size {
            format!("its content differs from what {} had", file.path)
        } else {
            format!(
                "{} had {} bytes, it has {}",
                file.path, file.size, self.size
            )
        };
        Err(BackupError::Damaged {
            object: object.to_owned(),
            offset: self.size.min(file.size),
            reason,
        })
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..length).unwrap_or_default());
        self.size += length as u64;
        Ok(length)
    }
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
