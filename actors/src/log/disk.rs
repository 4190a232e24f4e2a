//! The disk as the journal sees it: few operations, so that tests can replace it with a faulty one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::folder::sync_folder;

/// A file that can be read and written at offsets.
pub trait DiskFile: Send + Sync + 'static {
    /// Fills `buffer` from `offset`; reaching the end of the file first is an error.
    ///
    /// # Errors
    /// The device failed.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The device failed; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written durable, the file's length included.
    ///
    /// # Errors
    /// The device failed; it is then in doubt whether the bytes were written.
    fn sync_data(&self) -> io::Result<()>;

    /// Returns the length.
    ///
    /// # Errors
    /// The device failed.
    fn size(&self) -> io::Result<u64>;

    /// Truncates or extends the file.
    ///
    /// # Errors
    /// The device failed.
    fn set_len(&self, length: u64) -> io::Result<()>;
}

/// A folder of files.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading, and for writing if the folder is writable.
    ///
    /// # Errors
    /// The file was not found, or the device failed.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a new, empty file.
    ///
    /// # Errors
    /// The file exists, or the device failed.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Lists the names of all files, sorted.
    ///
    /// # Errors
    /// The device failed.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Renames a file.
    ///
    /// # Errors
    /// The device failed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The file was not found, or the device failed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations and renames durable.
    ///
    /// # Errors
    /// The device failed.
    fn sync_folder(&self) -> io::Result<()>;
}

/// Returns whether an error says that the disk is full or the user's quota is used up.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Returns whether an error says that the process or the system has no file descriptors left. Only
/// opening and creating a file fails like this, so nothing was written.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE))
}

/// A folder of the real file system.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    is_read_only: bool,
    /// The folder itself, open, because a flush of its names must not fail for lack of file
    /// descriptors.
    names: Option<File>,
}

impl RealDisk {
    /// Uses `folder`, and creates it if it is missing.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn new(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let message = format!("{} is not a folder", folder.display());
                let is_link = std::fs::read_link(folder);
                let target = is_link.map(|to| format!(", but a link to {}", to.display()));
                io::Error::new(error.kind(), message + &target.unwrap_or_default())
            }
            _ => error,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            is_read_only: false,
            names: Some(File::open(folder)?),
        })
    }

    /// Uses `folder` read-only: files are opened for reading only, so it can be on a read-only file
    /// system.
    pub fn read_only(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            is_read_only: true,
            names: None,
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(!self.is_read_only)
            .open(self.folder.join(name))?;
        Ok(Arc::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.folder.join(name))?;
        Ok(Arc::new(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        match &self.names {
            Some(folder) => folder.sync_all(),
            None => sync_folder(&self.folder),
        }
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Self::set_len(self, length)
    }
}
