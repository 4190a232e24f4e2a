//! The store's file, held open in addition to SQLite's own descriptors.
//!
//! Locks on a file belong to the process, and closing any descriptor of a file releases all of
//! them, including SQLite's. Another program that reads the store would then take itself for the
//! last user, merge the write-ahead file and delete it. So the file is opened once here, and is not
//! closed before SQLite has closed it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// An open file, to be kept for as long as this process has it open with SQLite.
#[derive(Clone, Debug)]
pub(crate) struct HeldFile(Arc<File>);

/// Identifies a file, whatever its name: device and inode.
type FileId = (u64, u64);

/// The held files. A store that is opened while its predecessor still closes gets the same file.
static HELD: Mutex<BTreeMap<FileId, Weak<File>>> = Mutex::new(BTreeMap::new());

impl HeldFile {
    /// Opens an existing file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut held = HELD.lock();
        held.retain(|_, file| file.strong_count() > 0);
        let found = held.get(&id_of(&path.metadata()?)).and_then(Weak::upgrade);
        if let Some(file) = found {
            return Ok(Self(file));
        }
        Self::hold(&mut held, File::open(path)?)
    }

    /// Creates an empty file where none exists; a private one is readable by its owner only.
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

    /// Returns the file's length in bytes.
    pub(crate) fn num_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// Fills the buffer, starting at an offset.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

fn id_of(metadata: &std::fs::Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}
