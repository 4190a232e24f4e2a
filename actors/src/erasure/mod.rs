//! Erasure: payloads that are gone from everything that the server keeps, while positions, chain and
//! the skeleton of what happened stay.
//!
//! 1. **The present first.** What is to be erased and is there still goes by a normal event, through
//!    access and hooks (`request`).
//! 2. **The intent.** `erasure.requested` names the events, and who wanted it and why. From its commit
//!    on nobody is shown what it names ([`crate::log::Erasures`]).
//! 3. **The holders.** Everything that keeps payloads is a [`Holder`]: the journal with sled, the record
//!    store, the ops store, copies that were set aside. Files that nothing else names go from
//!    their store (`files`). One worker goes through them for all
//!    open erasures together (`work`), and again after whatever went wrong.
//! 4. **The end.** `erasure.finished`. What has none at a start is gone through again, so neither a
//!    crash nor a full disk leaves anything.

mod compact;
mod devices;
mod event;
mod field;
mod files;
mod personal;
mod request;
mod type_field;
mod user;
mod work;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skytrail_schema::event::ErasureScope;
use skytrail_schema::positions::Positions;

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

/// Why a holder still has what is to be gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// There is no space to do it.
    #[error("the disk is full")]
    DiskFull,
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// Something that keeps payloads of events.
#[async_trait]
pub trait Holder: Send + Sync + 'static {
    /// Returns what it is, for the log.
    fn name(&self) -> &'static str;

    /// Forgets what events held, so that no byte of it is in the files any more. Everything up to the
    /// erasures themselves is projected. May be asked for what is gone already.
    ///
    /// # Errors
    /// See [`HolderError`]; it is asked again later.
    async fn forget(&self, positions: &Positions) -> Result<(), HolderError>;

    /// Forgets what it keeps of these beside what events held; asked before [`Holder::forget`], which
    /// then leaves no byte of that either.
    ///
    /// # Errors
    /// As there.
    async fn forget_beside(&self, scopes: &[ErasureScope]) -> Result<(), HolderError> {
        let _ = scopes;
        Ok(())
    }

    /// Whether it keeps something of this beside what events held.
    ///
    /// # Errors
    /// It cannot be found out now.
    async fn keeps_beside(&self, scope: &ErasureScope) -> Result<bool, StoreError> {
        let _ = scope;
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
            "payloads are out of the journal"
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

/// Takes requests for erasures and sees them to their end.
pub struct Eraser {
    env: RecordEnv,
    records: Arc<Records>,
    devices: Arc<dyn DeviceStore>,
    log: Arc<EmbeddedLog>,
    erasures: Arc<Erasures>,
    holders: Vec<Arc<dyn Holder>>,
    files: Option<Arc<dyn FileRemover>>,
    /// How long bytes of a file that was erased may have been on their way.
    upload_time: Duration,
    /// The log's end when this was built, which is where the last stop or crash left it.
    first_head: u64,
    reserve: Option<Arc<Reserve>>,
    state: work::Figures,
}

impl Eraser {
    /// Builds it; `holders` are gone through in this order.
    pub fn new(
        env: RecordEnv,
        (records, devices): (Arc<Records>, Arc<dyn DeviceStore>),
        (log, erasures): (Arc<EmbeddedLog>, Arc<Erasures>),
        holders: Vec<Arc<dyn Holder>>,
    ) -> Self {
        let first_head = env.log.head();
        Self {
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
            state: work::Figures::default(),
        }
    }

    /// Gives the disk's reserve up when there is no space for an erasure.
    #[must_use]
    pub fn giving_up(mut self, reserve: Arc<Reserve>) -> Self {
        self.reserve = Some(reserve);
        self
    }

    /// Removes files that only what is erased names; an upload takes `upload_time` at most.
    #[must_use]
    pub fn removing(mut self, files: Arc<dyn FileRemover>, upload_time: Duration) -> Self {
        self.files = Some(files);
        self.upload_time = upload_time;
        self
    }

    /// Returns what is known of erasures.
    pub fn erasures(&self) -> &Erasures {
        &self.erasures
    }
}
