//! A file that a command writes, which gets its name only when it is complete.
//!
//! Until then it is in a folder next to its place. So a killed command leaves nothing that looks
//! finished, and the next command that writes the same file removes the folder.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use skytrail_actors::log::{folder_of, sync_folder};

use crate::scratch::Scratch;

/// See the module's overview.
pub(super) struct Partial {
    scratch: Scratch,
    to: PathBuf,
    /// The suffixes of the file and of the files that belong to it.
    endings: &'static [&'static str],
}

impl Partial {
    /// Begins a file. Neither it nor a file that belongs to it may exist yet.
    ///
    /// # Errors
    /// Returns a sentence that says what is wrong.
    pub(super) fn begin(to: &Path, endings: &'static [&'static str]) -> Result<Self, String> {
        for ending in endings {
            let to = with(to, ending);
            if to.symlink_metadata().is_ok() {
                return Err(is_there(&to));
            }
        }
        Ok(Self {
            scratch: folder_beside(to)?,
            to: to.to_owned(),
            endings,
        })
    }

    /// Returns the path to write to.
    pub(super) fn path(&self) -> PathBuf {
        let name = self.to.file_name().unwrap_or_default();
        self.scratch.path().join(name)
    }

    /// Makes the files durable and gives them their names, in the order of the suffixes.
    ///
    /// # Errors
    /// As [`Partial::begin`].
    pub(super) fn finish(self) -> Result<(), String> {
        for ending in self.endings {
            let (from, to) = (with(&self.path(), ending), with(&self.to, ending));
            if from.exists() {
                put(&from, &to).map_err(|error| failed(&to, &error))?;
            }
        }
        let synced = sync_folder(folder_of(&self.to));
        synced.map_err(|error| failed(&self.to, &error))
    }
}

/// Creates a folder next to a file, for the file's future content.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub(super) fn folder_beside(file: &Path) -> Result<Scratch, String> {
    let Some(name) = file.file_name() else {
        return Err(format!("{} is not a file name", file.display()));
    };
    let prefix = format!(".{}.part-", name.to_string_lossy());
    Scratch::make(folder_of(file), &prefix).map_err(|error| failed(file, &error))
}

/// Moves a file into its place; never replaces another one.
fn put(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    match std::fs::hard_link(from, to) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            // Not every file system has hard links.
            if to.symlink_metadata().is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(from, to)
        }
        linked => linked,
    }
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn is_there(path: &Path) -> String {
    format!("{} already exists", path.display())
}

fn failed(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AlreadyExists => is_there(path),
        _ => format!("{}: {error}", path.display()),
    }
}
