//! Temporary folders for what a command needs while it runs, or has not finished yet.
//!
//! A command that is killed cannot remove its folder. Its lock ends with the process, so the next
//! command that creates a folder with the same prefix in the same place sees that nobody holds the
//! lock, and removes the old folder.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// The file in the folder that is locked.
const LOCK: &str = ".lock";

/// A folder that only its owner can look into, and that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Creates a folder in `parent` whose name begins with `prefix`, and removes abandoned ones.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub(crate) fn make(parent: &Path, prefix: &str) -> io::Result<Self> {
        let id = Uuid::new_v4();
        // It is locked before it gets the name that others look for.
        let new = parent.join(format!(".new-{id}"));
        let path = parent.join(format!("{prefix}{id}"));
        DirBuilder::new().mode(0o700).create(&new)?;
        let made = std::fs::metadata(&new).and_then(|about| {
            remove_left(parent, prefix, about.uid());
            let lock = make_lock(&new)?;
            std::fs::rename(&new, &path)?;
            Ok(lock)
        });
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&new);
        }
        Ok(Self { path, _lock: made? })
    }

    /// Returns the folder's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "a folder is left");
        }
    }
}

fn make_lock(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let lock = options.open(folder.join(LOCK))?;
    lock.lock()?;
    Ok(lock)
}

/// Removes the folders with a prefix whose process is gone. What cannot be removed is left for the
/// next call.
fn remove_left(parent: &Path, prefix: &str, owner: u32) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let is_named_so = name.is_some_and(|id| Uuid::try_parse(id).is_ok());
        // In a shared folder such as /tmp, other users may have put something under such a name.
        if is_named_so && is_folder_of(&entry.path(), owner) && is_left(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_folder_of(path: &Path, owner: u32) -> bool {
    let found = std::fs::symlink_metadata(path);
    found.is_ok_and(|it| it.is_dir() && it.uid() == owner)
}

fn is_left(folder: &Path) -> bool {
    let lock = OpenOptions::new().write(true).open(folder.join(LOCK));
    lock.is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let leftover = Scratch::make(parent.path(), "verify-").unwrap();
        let path = leftover.path().to_owned();
        std::fs::write(path.join("copy"), "x").unwrap();
        let used = Scratch::make(parent.path(), "verify-").unwrap();
        assert!(path.join("copy").exists());
        // As when its process is killed: the lock goes, the folder stays.
        let Scratch { _lock: lock, .. } = &leftover;
        lock.unlock().unwrap();
        std::mem::forget(leftover);
        let _next = Scratch::make(parent.path(), "verify-").unwrap();
        assert!(!path.exists());
        assert!(used.path().exists());
        let gone = used.path().to_owned();
        drop(used);
        assert!(!gone.exists());
    }

    #[test]
    fn what_is_called_so_and_is_something_else_stays() {
        let parent = tempfile::tempdir().unwrap();
        let named = |id: &str| parent.path().join(format!("verify-{id}"));
        let (file, folder) = (named(&Uuid::new_v4().to_string()), named("not"));
        std::fs::write(&file, "x").unwrap();
        std::fs::create_dir(&folder).unwrap();
        let _made = Scratch::make(parent.path(), "verify-").unwrap();
        assert!(file.exists() && folder.exists());
    }
}
