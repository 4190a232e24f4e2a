//! Backups: the log, the ops store, the keys and the files, in a folder or a bucket.
//!
//! A *repository* holds many backups of one store:
//!
//! ```text
//! repository.json                                         format, store id
//! segments/<first>-<last>-<chain>-<digest>.journal        runs of the log, each like a sealed segment
//! files/<blake3>                                          keys, ops.sqlite, files: by their content
//! keys/<blake3>                                           the keys of subjects: the newest state only
//! damaged/<blake3>.journal                                segments that were damaged when they were saved
//! backups/<time>.json                                     a manifest per backup, written last
//! ```
//!
//! 1. **Shared.** Backups share segments and files; only what is not there yet is copied. Of the
//!    segment that is being written there is one copy, which grows from backup to backup: an
//!    earlier backup ends somewhere within it.
//! 2. **Known by the chain.** A manifest names a segment by its positions and the chain hash at its
//!    end, not by its bytes: when events are erased, the chain stays, and the next backup puts the
//!    new segment into the place of the old one, for all backups. The bytes have their own seal.
//! 3. **Histories.** A log that was put back to an earlier state and goes on from there has another
//!    chain from there on, so its segments have other names. Both histories live in one repository;
//!    each looks after its own backups.
//! 4. **Online.** The log is read beside the server that writes it. What is taken is made durable
//!    first, and ends with a whole commit. Writers wait for nothing.
//! 5. **Keys go.** The log has what is about people sealed. Their keys are saved after it, so none is
//!    missing, and only as they are now: earlier backups use those of the backups that follow them, so
//!    whoever was erased since does not come back with an earlier one.
//! 6. **Whatever happens.** A backup exists when its manifest does. One that is broken off leaves
//!    objects that nobody refers to; they go a day later.

mod choose;
mod folder;
mod keys;
mod local;
mod lookup;
mod manifest;
mod mark;
mod object;
mod repository;
mod restore;
mod s3;
mod schedule;
mod sweep;
mod take;

use std::io;

use skytrail_actors::log::journal::archive::{Damage, SegmentError};

pub use choose::choose;
pub(crate) use local::OPS_STORE_COPIES;
pub use local::{Local, OpsStoreCopy, Turn};
pub use manifest::{Manifest, MissingFiles, SavedFile, SegmentRef};
pub use repository::Repository;
pub use restore::{Plan, Restored, Stage, restore, verify};
pub use schedule::{BackupSchedule, BackupState};
pub use take::{Progress, Taken, back_up};

/// Why a backup was not made or not put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file of this machine.
    #[error("{what}: {source}")]
    Io {
        /// Which, or what was tried.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The repository cannot be read or written.
    #[error("the backups at {place}: {reason}")]
    Repository {
        /// Where they are.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// Something in the repository is not what was written.
    #[error("the backup is damaged: {object} at offset {offset}: {reason}")]
    Damaged {
        /// What is in it.
        object: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The log that was saved had damage before where the restored one is to end.
    #[error("the log was damaged when it was saved: {0}; --until {1} restores what is before it")]
    SavedDamaged(Damage, u64),
    /// It makes no sense.
    #[error("{0}")]
    Refused(String),
}

impl BackupError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A segment that cannot be used: one of the journal, or an object of the repository.
    fn segment(what: impl Into<String>) -> impl FnOnce(SegmentError) -> Self {
        let what = what.into();
        move |error| match error {
            SegmentError::Io(source) => Self::Io { what, source },
            SegmentError::Damaged(damage) => Self::Damaged {
                object: what,
                offset: damage.offset,
                reason: damage.reason,
            },
            SegmentError::Newer(newer) => Self::Refused(format!("{what}: {newer}")),
        }
    }
}
