//! Opening the log to be written: not one that has lost what was signed of it.

use std::io;
use std::path::{Path, PathBuf};

use skytrail_actors::log::journal::{JournalOptions, OpenError, SignedEnd};
use skytrail_actors::log::{LogOpenError, OpenedLog};

use super::Notes;

/// Why the log is not opened to be written.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// For a reason that has nothing to do with what was signed.
    #[error(transparent)]
    Log(LogOpenError),
    /// What was signed cannot be read.
    #[error("{}: {source}", path.display())]
    Notes {
        /// The checkpoints.
        path: PathBuf,
        /// The device's error.
        source: io::Error,
    },
    /// It is not what was signed.
    #[error(
        "{error} ({}): restore a backup into another folder; to go on with what there is and lose the \
         rest, move that file away and keep it, and run `skytrail rebuild` before the next start",
        path.display()
    )]
    Contradicted {
        /// The checkpoints.
        path: PathBuf,
        /// What is wrong.
        error: LogOpenError,
    },
}

/// Opens the log of a data folder; one that ends before where it was signed, or has another past, is
/// left as it is.
///
/// # Errors
/// See [`NotOpened`].
pub fn open_signed(data_dir: &Path, journal: JournalOptions) -> Result<OpenedLog, NotOpened> {
    let notes = Notes::of(data_dir);
    let path = notes.path().to_owned();
    // Read before the log: whoever writes it now may sign more.
    let furthest = match notes.furthest() {
        Ok(furthest) => furthest,
        Err(source) => return Err(NotOpened::Notes { path, source }),
    };
    let signed = furthest.map(|note| SignedEnd {
        store_id: note.store_id,
        position: note.position,
        chain: note.chain,
    });
    let opened = OpenedLog::open(data_dir, JournalOptions { signed, ..journal });
    opened.map_err(|error| match error {
        LogOpenError::Journal(OpenError::Contradicted(_)) => {
            NotOpened::Contradicted { path, error }
        }
        error => NotOpened::Log(error),
    })
}
