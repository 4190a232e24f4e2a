//! A file that a command writes: it has its name when it is whole.
//!
//! Until then it is in a folder beside, so one that is killed leaves nothing that looks finished, and
//! the next one that writes the same file removes it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use skytrail_actors::log::{folder_of, sync_folder};

use crate::scratch::Scratch;

/// See the module.
pub(super) struct Partial {
    scratch: Scratch,
    to: PathBuf,
    /// What the names of the file and of those that go with it end with.
    endings: &'static [&'static str],
}

impl Partial {
    /// Begins a file, which there must not be yet, nor any that goes with it.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
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

    /// Returns where it is to be written.
    pub(super) fn path(&self) -> PathBuf {
        let name = self.to.file_name().unwrap_or_default();
        self.scratch.path().join(name)
    }

    /// Makes it durable and gives it its name, last of those that go with it.
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

/// Makes a folder beside a file, for what is to become that file.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn folder_beside(file: &Path) -> Result<Scratch, String> {
    let Some(name) = file.file_name() else {
        return Err(format!("{} is no file's name", file.display()));
    };
    let prefix = format!(".{}.part-", name.to_string_lossy());
    Scratch::make(folder_of(file), &prefix).map_err(|error| failed(file, &error))
}

/// Puts a file into its place, never over another one.
fn put(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    match std::fs::hard_link(from, to) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            // Not every file system has links.
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
    format!("{} is there already", path.display())
}

fn failed(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AlreadyExists => is_there(path),
        _ => format!("{}: {error}", path.display()),
    }
}
