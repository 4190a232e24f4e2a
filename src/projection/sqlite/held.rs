//! The store's file, open beside SQLite.
//!
//! Locks on a file belong to the process, and whoever closes any descriptor of a file gives up all of
//! them, those of SQLite as well. Another program that reads the store would then take itself for the
//! last that has it open, merge the write-ahead file and remove it. So the file is opened once here,
//! and is not closed before SQLite has.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A file that is open, to be kept for as long as somebody here has it open with SQLite.
#[derive(Clone, Debug)]
pub(crate) struct HeldFile(Arc<File>);

/// What a file is known by, whatever its name: device and inode.
type FileId = (u64, u64);

/// The files that are held: a store that is opened again while the one before still closes has the
/// same one.
static HELD: Mutex<BTreeMap<FileId, Weak<File>>> = Mutex::new(BTreeMap::new());

impl HeldFile {
    /// Opens a file that is there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut held = HELD.lock();
        held.retain(|_, file| file.strong_count() > 0);
        let found = held.get(&id_of(&path.metadata()?)).and_then(Weak::upgrade);
        if let Some(file) = found {
            return Ok(Self(file));
        }
        Self::hold(&mut held, File::open(path)?)
    }

    /// Makes an empty file where there is none; one that is private only its owner can read.
    pub(crate) fn create(path: &Path, is_private: bool) -> io::Result<Self> {
        let mut held = HELD.lock();
        let mut options = OpenOptions::new();
        if is_private {
            options.mode(0o600);
        }
        let file = options.read(true).write(true).create_new(true).open(path)?;
        Self::hold(&mut held, file)
    }

    fn hold(held: &mut BTreeMap<FileId, Weak<File>>, file: File) -> io::Result<Self> {
        let id = id_of(&file.metadata()?);
        let file = Arc::new(file);
        held.insert(id, Arc::downgrade(&file));
        Ok(Self(file))
    }

    /// Returns its length in bytes.
    pub(crate) fn num_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// Fills the buffer from an offset on.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

fn id_of(metadata: &std::fs::Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}
