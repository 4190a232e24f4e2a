//! Copies of the store's and the ledger's files that were kept when they were made anew: nobody reads
//! them but people, and what is erased is in them still. An erasure removes them.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use skytrail_actors::erasure::{Holder, HolderError};
use skytrail_schema::positions::Positions;

/// How the names of such copies begin; the files in use are called `records.sqlite` and `ops.sqlite`.
const COPIES: [&str; 5] = [
    "records.damaged-",
    "records.previous",
    "records.rebuild",
    "records.verify",
    "ops.damaged-",
];

/// The copies in one data folder.
pub struct Leftovers {
    folder: PathBuf,
    /// The store is in a server: a file that it was in is a copy, too.
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

    fn remove(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_old_store = self.is_elsewhere && name.starts_with("records.sqlite");
            if is_old_store || COPIES.iter().any(|copy| name.starts_with(copy)) {
                std::fs::remove_file(entry.path())?;
                tracing::warn!(%name, "a copy that was set aside is removed: it may hold what was erased");
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Holder for Leftovers {
    fn name(&self) -> &'static str {
        "copies that were set aside"
    }

    async fn forget(&self, _: &Positions) -> Result<(), HolderError> {
        let removed = self.remove();
        removed.map_err(|error| HolderError::Failed(error.to_string()))
    }
}
