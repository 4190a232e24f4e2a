//! Erasure: payloads disappear from everything that the server keeps, while positions, the chain
//! and the outline of what happened stay.
//!
//! 1. **The present first.** Something that still exists is first deleted by an ordinary event,
//!    through access control and hooks (`request`).
//! 2. **The intent.** `erasure.requested` names the events, who asked for it and why. From its
//!    commit on, nobody is shown the events that it names ([`crate::log::Erasures`]).
//! 3. **The holders.** Everything that keeps payloads is a [`Holder`]: the journal with sled, the
//!    record store, the ops store, copies that were set aside. Files that nothing else names are
//!    removed from their store (`files`). One worker handles all open erasures together, holder by
//!    holder (`work`), and starts again after a failure.
//! 4. **A user's records.** They are erased after the user, by requests of their own (`owned`).
//! 5. **The end.** `erasure.finished`. An erasure that has not ended is worked on again after a
//!    start, so neither a crash nor a full disk leaves anything behind.

mod compact;
mod devices;
mod event;
mod field;
mod files;
mod owned;
mod personal;
mod request;
mod type_field;
mod user;
mod work;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use skytrail_schema::event::ErasureScope;
use skytrail_schema::positions::Positions;
use tokio_util::sync::CancellationToken;

use crate::device::DeviceStore;
use crate::log::{BlankError, EmbeddedLog, Erasures, Reserve};
use crate::record::env::RecordEnv;
use crate::record::records::Records;
use crate::store::StoreError;

pub use compact::{Compacted, compact_daily};
pub use event::EraseEvent;
pub use field::EraseField;
pub use files::{FileRemover, NamedFiles};
pub use request::{EraseRecord, Erased};
pub use type_field::{EraseTypeField, TypeErased};
pub use user::{EraseUser, Refused, UserErased};
pub use work::EraserState;

/// Why a holder still has what it should forget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// There is no disk space for it.
    #[error("the disk is full")]
    DiskFull,
    /// Others may still see it; nothing is held up while they do.
    #[error("{0}")]
    StillSeen(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// Something that keeps the payloads of events.
#[async_trait]
pub trait Holder: Send + Sync + 'static {
    /// Returns its name, for the server's own log.
    fn name(&self) -> &'static str;

    /// Forgets the payloads of events, so that no byte of them is left in its files. Everything up
    /// to the erasures themselves has been projected. Payloads that are already gone are no error.
    ///
    /// # Errors
    /// See [`HolderError`]; the call is repeated later.
    async fn forget(&self, positions: &Positions) -> Result<(), HolderError>;

    /// Forgets what it keeps about these scopes apart from payloads. Called before
    /// [`Holder::forget`], which then leaves no byte of that either.
    ///
    /// # Errors
    /// Those of [`Holder::forget`].
    async fn forget_beside(&self, scopes: &[ErasureScope]) -> Result<(), HolderError> {
        let _ = scopes;
        Ok(())
    }

    /// Returns whether it keeps anything about any of these scopes apart from payloads.
    ///
    /// # Errors
    /// This cannot be found out at present.
    async fn keeps_beside(&self, scopes: &[ErasureScope]) -> Result<bool, StoreError> {
        let _ = scopes;
        Ok(false)
    }
}

#[async_trait]
impl Holder for EmbeddedLog {
    fn name(&self) -> &'static str {
        "log"
    }

    async fn forget(&self, positions: &Positions) -> Result<(), HolderError> {
        let done = self.blank(positions).await?;
        tracing::info!(
            segments = done.num_segments,
            bytes = done.num_bytes,
            "payloads were removed from the journal"
        );
        Ok(())
    }
}

impl From<BlankError> for HolderError {
    fn from(error: BlankError) -> Self {
        match error {
            BlankError::DiskFull => Self::DiskFull,
            BlankError::Failed(reason) => Self::Failed(reason),
        }
    }
}

impl From<StoreError> for HolderError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Accepts requests for erasures and completes them.
pub struct Eraser {
    env: RecordEnv,
    records: Arc<Records>,
    devices: Arc<dyn DeviceStore>,
    log: Arc<EmbeddedLog>,
    erasures: Arc<Erasures>,
    holders: Vec<Arc<dyn Holder>>,
    files: Option<Arc<dyn FileRemover>>,
    /// How long the bytes of an erased file can still be on their way.
    upload_time: Duration,
    /// The log's end when this was built, where the last stop or crash left it.
    first_head: u64,
    /// The record store may still have what erasures took that ended after this position.
    behind_since: u64,
    reserve: Option<Arc<Reserve>>,
    /// From then on no answer waits for an end.
    stopping: CancellationToken,
    state: work::EraserStats,
    /// What is known of the records of users who were erased since the start.
    owned: Mutex<owned::OwnedByErasure>,
    /// Requests that are still to answer what became of users' records.
    awaited: Mutex<owned::Awaited>,
    deleted: owned::DeletedRecords,
    put_off: owned::PutOffTypes,
}

impl Eraser {
    /// Builds an eraser; `holders` are called in this order.
    pub fn new(
        env: RecordEnv,
        (records, devices): (Arc<Records>, Arc<dyn DeviceStore>),
        (log, erasures): (Arc<EmbeddedLog>, Arc<Erasures>),
        holders: Vec<Arc<dyn Holder>>,
    ) -> Self {
        let first_head = env.log.head();
        Self {
            behind_since: first_head,
            env,
            records,
            devices,
            log,
            erasures,
            holders,
            files: None,
            upload_time: Duration::ZERO,
            first_head,
            reserve: None,
            stopping: CancellationToken::new(),
            state: work::EraserStats::default(),
            owned: Mutex::default(),
            awaited: Mutex::default(),
            deleted: owned::DeletedRecords::default(),
            put_off: owned::PutOffTypes::default(),
        }
    }

    /// Gives up the disk's reserve when there is no space for an erasure.
    #[must_use]
    pub fn giving_up(mut self, reserve: Arc<Reserve>) -> Self {
        self.reserve = Some(reserve);
        self
    }

    /// Removes files that only erased events name; an upload takes `upload_time` at most.
    #[must_use]
    pub fn removing(mut self, files: Arc<dyn FileRemover>, upload_time: Duration) -> Self {
        self.files = Some(files);
        self.upload_time = upload_time;
        self
    }

    /// The record store may still have what erasures took that ended after this position.
    #[must_use]
    pub fn behind(mut self, behind_since: u64) -> Self {
        self.behind_since = behind_since;
        self
    }

    /// Once the token is cancelled, no request waits until its erasure is done.
    #[must_use]
    pub fn answering_until(mut self, stopping: CancellationToken) -> Self {
        self.stopping = stopping;
        self
    }

    /// Returns the erasures in memory.
    pub fn erasures(&self) -> &Erasures {
        &self.erasures
    }
}
