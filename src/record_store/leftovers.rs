//! Copies of the record store's and ops store's files that no program reads any more.
//!
//! They were kept when a store was made anew, or left by a backup that was killed. They still
//! contain what has been erased since, so an erasure deletes them.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use skytrail_actors::erasure::{Holder, HolderError};
use skytrail_schema::positions::Positions;

use super::start::SET_ASIDE;
use crate::backup::{Local, OPS_STORE_COPIES, OpsStoreCopy};
use crate::config::STORE_FILE;
use crate::ops_store::{self, OPS_STORE_FILE};
use crate::projection::rebuild::PREVIOUS;

/// The extension of a store that is being filled to replace the one in use.
pub(crate) const REBUILD: &str = "rebuild";
/// The extension of a store that is being filled for a comparison with the one in use.
pub(crate) const VERIFY: &str = "verify";

/// The files that have such copies, with the extensions of those.
const COPIES: [(&str, &str); 5] = [
    (STORE_FILE, SET_ASIDE),
    (STORE_FILE, PREVIOUS),
    (STORE_FILE, REBUILD),
    (STORE_FILE, VERIFY),
    (OPS_STORE_FILE, ops_store::SET_ASIDE),
];

/// The copies that a command fills while the server runs.
const FILLED: [(&str, &str); 2] = [(STORE_FILE, REBUILD), (STORE_FILE, VERIFY)];

/// Returns whether a name belongs to such a copy, or to a companion of one.
fn is_one_of(copies: &[(&str, &str)], name: &str) -> bool {
    copies.iter().any(|(file, ending)| {
        let copy = Path::new(file).with_extension(ending);
        name.starts_with(&*copy.to_string_lossy())
    })
}

/// Held while a command fills a store in the data folder next to the server: its files are not
/// leftovers.
pub(crate) struct Filling {
    _file: File,
}

impl Filling {
    /// Begins; any number of commands can hold it at once.
    ///
    /// # Errors
    /// The lock file cannot be created.
    pub(crate) fn begin(folder: &Path) -> io::Result<Self> {
        let file = lock_file(folder)?;
        file.lock_shared()?;
        Ok(Self { _file: file })
    }
}

/// Opens the file whose lock this is; it may belong to another user, who may only read it.
fn lock_file(folder: &Path) -> io::Result<File> {
    let path = folder.join("filling.lock");
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::create(&path),
        opened => opened,
    };
    opened.map_err(|error| {
        let text = format!("{} cannot be opened: {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}

/// The copies in one data folder.
pub struct Leftovers {
    folder: PathBuf,
    /// The store is in a database server, so a store file is a leftover, too.
    is_elsewhere: bool,
}

impl Leftovers {
    /// Looks after the copies in `folder`; `is_elsewhere` says that the store in use is not there.
    pub fn new(folder: &Path, is_elsewhere: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            is_elsewhere,
        }
    }

    /// Deletes the copies. Returns `false` when some are being filled and have to be checked again.
    fn remove(&self) -> io::Result<bool> {
        let lock = lock_file(&self.folder)?;
        let is_filled = match lock.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_old_store = self.is_elsewhere && name.starts_with(STORE_FILE);
            let may_be_filled = is_old_store || is_one_of(&FILLED, &name);
            if may_be_filled && is_filled {
                continue;
            }
            if is_old_store || is_one_of(&COPIES, &name) {
                std::fs::remove_file(entry.path())?;
                tracing::warn!(%name, "removed a copy that was set aside: it may hold erased data");
            }
        }
        self.remove_of_backups();
        Ok(!is_filled)
    }

    /// Deletes what a killed backup has left; a backup that is still running deletes it when it
    /// ends.
    fn remove_of_backups(&self) {
        let is_there = |name: &str| self.folder.join(name).exists();
        if OPS_STORE_COPIES.into_iter().any(is_there) {
            let local = Local {
                data_dir: self.folder.clone(),
                assets: None,
                bucket: None,
                ops_store: OpsStoreCopy::None,
            };
            if let Err(reason) = local.take_turn() {
                tracing::warn!(%reason, "a running backup keeps its copy of ops.sqlite");
            }
        }
    }
}

#[async_trait]
impl Holder for Leftovers {
    fn name(&self) -> &'static str {
        "copies that were set aside"
    }

    async fn forget(&self, _: &Positions) -> Result<(), HolderError> {
        match self.remove() {
            Ok(true) => Ok(()),
            Ok(false) => {
                let reason = "waits for a command that fills a store in the data folder";
                Err(HolderError::Failed(reason.to_owned()))
            }
            Err(error) => Err(HolderError::Failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_fills_stays_until_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let filled = [
            "records.sqlite",
            "records.sqlite-wal",
            "records.verify",
            "records.rebuild",
        ];
        for name in filled.iter().chain(&["records.previous"]) {
            std::fs::write(path(name), "x").unwrap();
        }
        let leftovers = Leftovers::new(folder.path(), true);
        let both = [
            Filling::begin(folder.path()).unwrap(),
            Filling::begin(folder.path()).unwrap(),
        ];
        assert!(!leftovers.remove().unwrap());
        assert!(filled.iter().all(|name| path(name).exists()));
        assert!(!path("records.previous").exists());
        drop(both);
        assert!(leftovers.remove().unwrap());
        assert!(filled.iter().all(|name| !path(name).exists()));
    }

    #[test]
    fn what_a_killed_backup_has_left_goes_and_that_of_one_under_way_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = || OPS_STORE_COPIES.map(|name| std::fs::write(path(name), "x").unwrap());
        let leftovers = Leftovers::new(folder.path(), false);
        write();
        std::fs::write(path("ops.sqlite"), "x").unwrap();
        leftovers.remove().unwrap();
        assert!(OPS_STORE_COPIES.iter().all(|name| !path(name).exists()));
        assert!(path("ops.sqlite").exists());

        let local = Local {
            data_dir: folder.path().to_owned(),
            assets: None,
            bucket: None,
            ops_store: OpsStoreCopy::None,
        };
        let _turn = local.take_turn().unwrap();
        write();
        leftovers.remove().unwrap();
        assert!(OPS_STORE_COPIES.iter().all(|name| path(name).exists()));
    }
}
