//! The event log: the one place where a write becomes a fact.
//!
//! The contract of every [`EventLog`]:
//!
//! 1. **Order.** Events have positions from 1, without gaps; the events of a commit are
//!    consecutive.
//! 2. **All or nothing.** A decision is appended whole or not at all.
//! 3. **Durable before acknowledged.** When [`EventLog::append`] answers, the commit survives
//!    `kill -9` and power loss.
//! 4. **Serializable.** A decision is refused when something that it read was written after the
//!    position it read at ([`AppendError::Conflict`]); the writer then decides again.
//! 5. **Observers first.** [`CommitObserver`]s see every commit once, in order, when it is durable
//!    and before it is acknowledged. Readers see only durable events.
//! 6. **Doubt is fatal.** After a failed write or flush nothing more is acknowledged, and the
//!    process ends; what is on disk decides at the next start.

mod backlog;
mod chunk;
mod committer;
pub mod disk;
mod embedded;
mod erasures;
mod filler;
mod folder;
mod indexer;
pub mod journal;
mod key;
mod keyring;
mod recent;
mod reserve;
pub mod resolver;
pub mod seek;
mod sled_folder;
mod sled_store;
mod timeline;
mod weight;
#[cfg(test)]
pub(crate) mod written;

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, EventFilter, NewCommit};
use tokio::sync::watch;

pub use backlog::{Backlog, LagBound};
pub(crate) use committer::MAX_NUMBER;
pub use committer::{Now, OnFatal, SequenceNumbers};
pub use embedded::{
    BlankError, EmbeddedLog, LogOpenError, LogOptions, LogState, OpenedLog, RESTORE_MARK,
};
pub use erasures::{Erasure, Erasures};
pub use folder::{folder_of, make_folder, make_folders, sync_folder, write_whole};
pub use indexer::SledState;
pub use key::ConflictKey;
pub use keyring::{KEYRING_FILE, Keyring, KeyringCopy, KeyringError};
pub use reserve::Reserve;
pub use timeline::{InvalidTimeline, Timeline, TimelinePosition};

/// A decision: what to append, and what it rests on.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The events.
    pub commit: NewCommit,
    /// The position up to which the decision knows everything that it read.
    pub read_position: u64,
    /// What it read.
    pub reads: Vec<ConflictKey>,
    /// What it writes.
    pub writes: Vec<ConflictKey>,
    /// The sequence fields to be numbered when positions are assigned.
    pub sequences: Vec<SequenceRequest>,
}

/// A sequence field that needs its number, or that moves its counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceRequest {
    /// Index into the commit's events.
    pub event: usize,
    /// The field: one in a record event's `fields` or `set`, or one that is new in a type's event.
    pub field: String,
    /// `None`: assign the next number. `Some(n)`: the event carries `n`; the counter moves to at
    /// least `n`.
    pub explicit: Option<i64>,
}

/// Why a decision was not appended. In each of these cases nothing of it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Something that it read was written meanwhile, or it is older than the resolver's window.
    /// Decide again.
    #[error("conflicting write, read_position={read_position}")]
    Conflict {
        /// The position that the decision read at.
        read_position: u64,
    },
    /// The committer's queue is full.
    #[error("the log's queue is full")]
    Overloaded,
    /// The commit is over the size limit.
    #[error("commit too large, size_bytes={size_bytes} max_bytes={max_bytes}")]
    TooLarge {
        /// Encoded size.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The decision cannot be encoded, for example because it has no events.
    #[error("the decision cannot be encoded")]
    Malformed,
    /// A sequence field has used up its numbers.
    #[error("field {field:?} takes numbers up to {max}, but none are left")]
    UsedUp {
        /// The field.
        field: String,
        /// The largest number.
        max: i64,
    },
    /// The device has no space. Nothing was written; later appends may succeed.
    #[error("the disk is full")]
    DiskFull,
    /// There is no file descriptor left for the next file of the log. Nothing was written; later
    /// appends may succeed.
    #[error("no file descriptors are left (ulimit -n)")]
    OutOfDescriptors,
    /// The record store's backlog has reached its bound.
    #[error("the record store is too far behind")]
    StoreBehind,
    /// The log is closed: by a shutdown, or for good after a failed flush.
    #[error("the log is closed")]
    Closed,
}

/// Why the log could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Stored bytes differ from what was written, and no second copy helps.
    #[error("damaged log at position={position}: {reason}")]
    Damaged {
        /// The first position that cannot be read.
        position: u64,
        /// The segment, the offset and what is wrong.
        reason: String,
    },
    /// The device failed or did not answer within the deadline.
    #[error("log not readable: {0}")]
    Io(String),
}

/// See the module's contract.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Appends a decision; returns when it is durable and observed.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was appended in that case.
    async fn append(&self, decision: Decision) -> Result<Arc<Commit>, AppendError>;

    /// Returns the position of the last durable event, 0 for an empty log.
    fn head(&self) -> u64;

    /// Returns a receiver of the head, to follow it; its sender is dropped when the log is closed.
    fn watch_head(&self) -> watch::Receiver<u64>;

    /// Waits until the head is beyond a position; for ever once the log is closed.
    async fn beyond(&self, position: u64) {
        if beyond(&mut self.watch_head(), position).await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Loads commits in order, starting with the one that holds position `from`, until there are at
    /// least `max_events` events or the head is reached; maybe fewer, but at least one commit.
    /// Returns none when `from` is beyond the head.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn read(&self, from: u64, max_events: usize) -> Result<Vec<Arc<Commit>>, ReadError>;

    /// Loads the commits that hold these positions, one for each, in the order of the positions;
    /// positions of one commit share it.
    ///
    /// # Errors
    /// See [`ReadError`]; a position beyond the head cannot be read.
    async fn read_each(&self, positions: &[u64]) -> Result<Vec<Arc<Commit>>, ReadError> {
        let mut commits = Vec::with_capacity(positions.len());
        for position in positions {
            let read = self.read(*position, 1).await?;
            let beyond = || ReadError::Io(format!("the log ends before position {position}"));
            commits.push(read.into_iter().next().ok_or_else(beyond)?);
        }
        Ok(commits)
    }

    /// Searches a bounded part of the log for commits with an event that matches a filter, from the
    /// commit that holds position `from` to at most the one that holds `until`.
    ///
    /// Other commits may be among the results. Advances by at least one commit, unless `from` is
    /// beyond the head.
    ///
    /// # Errors
    /// See [`ReadError`].
    async fn search(
        &self,
        from: u64,
        until: u64,
        filter: &EventFilter,
    ) -> Result<Searched<Arc<Commit>>, ReadError> {
        let _ = filter;
        read_piece(self, from, until).await
    }
}

/// Waits until a watched position is beyond another, and returns it; `None` when its sender is
/// gone.
pub(crate) async fn beyond(watched: &mut watch::Receiver<u64>, position: u64) -> Option<u64> {
    let reached = watched.wait_for(|watched| *watched > position).await;
    reached.ok().map(|reached| *reached)
}

/// Reads a part of the log, for the caller to filter.
async fn read_piece(
    log: &(impl EventLog + ?Sized),
    from: u64,
    until: u64,
) -> Result<Searched<Arc<Commit>>, ReadError> {
    const PIECE: u64 = 512;
    let max_events = until.saturating_sub(from).saturating_add(1).min(PIECE);
    let max_events = usize::try_from(max_events).unwrap_or(usize::MAX);
    let found = log.read(from, max_events).await?;
    let last = found.last().map(|commit| commit.last_position());
    Ok(Searched {
        found,
        until: last.unwrap_or(from.saturating_sub(1)),
    })
}

/// The result of a search.
#[derive(Clone, Debug)]
pub struct Searched<T> {
    /// The commits, in order.
    pub found: Vec<T>,
    /// The last position that was searched.
    pub until: u64,
}

/// Is told of every commit in order, when it is durable and before it is acknowledged.
///
/// Runs on the committer's thread: it must be quick and must not block.
pub trait CommitObserver: Send + Sync + 'static {
    /// Sees the commits of one group.
    fn committed(&self, commits: &[Arc<Commit>]);
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } | AppendError::Overloaded => Self::overloaded("the log"),
            AppendError::TooLarge { .. } => Self::invalid_argument(error.to_string(), &["records"]),
            AppendError::DiskFull => Self::unexpected("the server's disk is full").with_status(507),
            AppendError::OutOfDescriptors => Self::overloaded("the server, which can open no more files,"),
            AppendError::StoreBehind => Self::new(
                Code::UnexpectedUnableToOpenDatabase,
                "the record store is too far behind: nothing is written until it has caught up, try again",
            )
            .with_info("retry_after_ms", serde_json::json!(1000)),
            AppendError::UsedUp { .. } => Self::unexpected(error.to_string()),
            AppendError::Malformed => Self::unexpected("the write could not be encoded"),
            AppendError::Closed => Self::unexpected("the server is stopping").with_status(503),
        }
    }
}

/// Returns fresh random bytes, so that payloads cannot be guessed from their hashes.
fn random_salt() -> [u8; 16] {
    rand::random()
}
