//! Opens the log for writing, unless it has lost something that was signed.

use std::io;
use std::path::{Path, PathBuf};

use skytrail_actors::log::journal::{JournalOptions, OpenError, SignedEnd};
use skytrail_actors::log::{LogOpenError, OpenedLog};

use super::Notes;

/// Why the log cannot be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// A reason that has nothing to do with the checkpoints.
    #[error(transparent)]
    Log(LogOpenError),
    /// The checkpoints cannot be read.
    #[error("{}: {source}", path.display())]
    Notes {
        /// The checkpoints' file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The log contradicts a checkpoint.
    #[error(
        "{error} ({}): restore a backup into another folder; to continue with what is left and \
         lose the rest, move that file away and keep it, and run `skytrail rebuild` before the \
         next start",
        path.display()
    )]
    Contradicted {
        /// The checkpoints' file.
        path: PathBuf,
        /// What is wrong.
        error: LogOpenError,
    },
}

/// Opens the log of a data folder. A log that ends before its last signed position, or has a
/// different past, is left unchanged.
///
/// # Errors
/// See [`NotOpened`].
pub fn open_signed(data_dir: &Path, journal: JournalOptions) -> Result<OpenedLog, NotOpened> {
    let notes = Notes::of(data_dir);
    let path = notes.path().to_owned();
    // Read before the log, because a running writer may sign more meanwhile.
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
