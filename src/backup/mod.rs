//! Backups: the log, the ops store, the keys and the files, in a folder or a bucket.
//!
//! A *repository* holds many backups of one store:
//!
//! ```text
//! repository.json                                         format, store id
//! segments/<first>-<last>-<chain>-<digest>.journal        runs of the log, each like a sealed segment
//! files/<blake3>                                          keys, ops.sqlite, files: by their content;
//!                                                         checkpoints.jsonl in pieces
//! keys/<blake3>                                           the keys of subjects: the newest state only
//! damaged/<blake3>.journal                                segments that were damaged when they were saved
//! backups/<time>.json                                     a manifest per backup, written last
//! ```
//!
//! 1. **Shared.** Backups share segments and files; only what is missing in the repository is
//!    copied. The segment that is being written has one copy, which grows from backup to backup: an
//!    earlier backup ends somewhere within it.
//! 2. **Identified by the chain.** A manifest names a segment by its positions and the chain hash
//!    at its end, not by its bytes. When events are erased, the chain stays the same, and the next
//!    backup replaces the old segment by the new one, for all backups. The bytes have their own
//!    seal.
//! 3. **Histories.** A restored log that continues has a different chain from that point on, so its
//!    segments have other names, and a history that begins with its restore. Several histories live
//!    in one repository; each looks after its own backups. Where they share a segment and one has
//!    erased something in it, there are two objects, and a manifest names its own.
//! 4. **Online.** The log is read while the server writes it. What is backed up is made durable
//!    first, and ends with a whole commit. Writers never wait.
//! 5. **Keys disappear.** The log's data about people is sealed. The keys are saved after the log,
//!    so none is missing, and only in their current state: earlier backups use the keys of the
//!    backups that follow them. So a subject that was erased later does not return with an earlier
//!    backup.
//! 6. **Interruptions.** A backup exists once its manifest exists. An interrupted backup leaves
//!    objects that nothing refers to; they are removed a day later.
//! 7. **One place for several logs.** Their backups may run at the same time. None removes at once
//!    what is not its own, and each looks again at its objects when its manifest is stored.

mod catalog;
mod choose;
mod folder;
mod history;
mod keys;
mod local;
mod lookup;
mod manifest;
mod mark;
mod object;
mod reading;
mod repository;
mod restore;
mod s3;
mod schedule;
mod sweep;
mod take;
mod verify;

use std::io;

use skytrail_actors::log::journal::archive::{Damage, SegmentError};

pub use choose::choose;
pub(crate) use local::OPS_STORE_COPIES;
pub use local::{Local, OpsStoreCopy, Turn};
pub use manifest::{Manifest, MissingFiles, SavedFile, SegmentRef};
pub use repository::{NamedManifest, Repository};
pub use restore::{Plan, Restored, Stage, restore};
pub use schedule::{BackupSchedule, BackupState};
pub use take::{Progress, Taken, Wanted, back_up};
pub use verify::verify;

/// Why a backup was not taken or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file on this machine cannot be read or written.
    #[error("{what}: {source}")]
    Io {
        /// The file, or what was attempted.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The repository cannot be read or written.
    #[error("the backups at {place}: {reason}")]
    Repository {
        /// The place of the repository.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// Something in the repository differs from what was written.
    #[error("the backup is damaged: {object} at offset {offset}: {reason}")]
    Damaged {
        /// The object.
        object: String,
        /// The offset in the object.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// Something in the repository does not exist.
    #[error("the backup is damaged: {object}: it does not exist")]
    Missing {
        /// The object.
        object: String,
    },
    /// The saved log had damage before the requested end of the restored one.
    #[error("the log was damaged when it was saved: {0}; --until {1} restores what is before it")]
    SavedDamaged(Damage, u64),
    /// The request cannot be carried out.
    #[error("{0}")]
    Refused(String),
}

impl BackupError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Creates the error for an unusable segment of the journal or the repository.
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
