//! Ingestion of SQL: what others write into the record store's database becomes events.
//!
//! Plugins of v1 write record tables themselves. A store that allows this keeps what was changed in
//! an *outbox*, in the same transaction. This module ingests it from there into the log:
//!
//! 1. [`Captures`] reads the outbox whenever something is announced, a transaction at a time, in an
//!    order in which each transaction follows those whose work it saw.
//! 2. What a transaction left of each record is decided like a save of the log's present record
//!    (`decide`): types, references, unique values. There is no access control and there are no
//!    hooks, as in v1. Columns that it did not change are left alone, so what was saved in between
//!    stays.
//! 3. The result is one commit, which names the transaction and how far in the outbox it reaches.
//!    The projector removes these rows from the outbox together with the checkpoint. So the outbox
//!    has exactly what the log does not have: nothing is lost or ingested twice, whichever process
//!    is killed when.
//! 4. What cannot be an event is *parked*, with a reason. The record is stored again as the log has
//!    it, so that the tables stay what the log says. An operator looks at the row, and has it
//!    retried or forgotten ([`CaptureAdmin`]).
//! 5. Before a store is left for another, it is closed to others, and what they have changed is
//!    ingested ([`Captures::close`]).
//!
//! Until a change is ingested, its row says more than the log: decisions must not rest on such rows
//! ([`RecordStore::find_captured`](crate::store::RecordStore::find_captured)). Reads and saves wait
//! for what was in the outbox for their types before they began ([`CaptureGate::await_captured`]). The
//! outbox is looked at for them, once for all that wait, while it is being ingested.
//!
//! The other way round, a request to a plugin waits, for a short time, until the tables have what was
//! saved before it ([`ShownGate`]).

mod admin;
mod decide;
mod gate;
mod ingest;
mod shown;

use std::collections::BTreeSet;

use async_trait::async_trait;
use skytrail_schema::event::SqlSource;
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;

pub use admin::{CaptureAdmin, CaptureFigures, ParkedRow, ParkedSelector, Retried};
pub use gate::{CaptureGate, CaptureState};
pub use ingest::Captures;
pub use shown::ShownGate;

use crate::store::StoreError;

/// What a transaction did, or a part of it if it did very much.
#[derive(Clone, Debug)]
pub struct CapturedTransaction {
    /// Which transaction it is, and how far in the outbox this reaches.
    pub source: SqlSource,
    /// What it left of each row, in the order in which it reached the rows.
    pub rows: Vec<CapturedRow>,
}

/// What a transaction left of a row.
#[derive(Clone, Debug)]
pub struct CapturedRow {
    /// The number of its first change in the outbox.
    pub first: u64,
    /// The number of its last change.
    pub number: u64,
    /// The record, if the row identifies one.
    pub id: Option<RecordId>,
    /// What happens to the record, or why the row has nothing that a record can hold.
    pub change: Result<RowChange, String>,
    /// Columns with something that no record can hold, in addition to what it can hold.
    pub excess: Vec<String>,
    /// The row's former values in sequence fields: old records' numbers are not in the log.
    pub numbered: Fields,
}

/// What happens to a record.
#[derive(Clone, Debug)]
pub enum RowChange {
    /// The row was inserted.
    Made(Box<Record>),
    /// Some columns were changed.
    Changed {
        /// The record as the row has it.
        row: Box<Record>,
        /// What was changed: system columns, and fields.
        columns: BTreeSet<String>,
        /// Whether something was also changed that no record can hold: the record is then stored in
        /// full.
        is_hidden: bool,
    },
    /// Only something that no record can hold was changed: the record is stored again as it is.
    Hidden,
    /// The row was deleted.
    Deleted,
}

/// A row that cannot be ingested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The number of its first change in the outbox.
    pub first: u64,
    /// The number of its last change, under which it is parked.
    pub number: u64,
    /// Why.
    pub reason: String,
    /// The columns that are not ingested; empty if none of the row is.
    pub columns: Vec<String>,
    /// The record, if its row is to be deleted: the log has no such record as of this position.
    pub stray: Option<(RecordId, u64)>,
}

/// What is waiting in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Rows in the outbox.
    pub num_rows: u64,
    /// When the statement that changed the oldest of them began.
    pub since: Option<Timestamp>,
    /// Rows that are parked.
    pub num_parked: u64,
}

/// What the outbox has for a record type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The type; `None` if a table is not known to be a type's.
    pub record_type: Option<TypeName>,
    /// The number of the first row.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
}

/// How much of the outbox is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// The maximum number of rows.
    pub max_rows: usize,
    /// How many bytes end the batch.
    pub max_bytes: usize,
}

/// Fields of types that somebody has declared unique in the database.
pub type UniqueSets = Vec<(TypeName, Vec<String>)>;

/// The database's side.
#[async_trait]
pub trait CaptureSource: Send + Sync + 'static {
    /// Whether anything was ever captured, or may be at any time.
    async fn is_in_use(&self) -> Result<bool, StoreError>;

    /// Waits until something is announced. Also returns if announcements no longer arrive.
    async fn announced(&self);

    /// Returns what is in the outbox, except for transactions that are `in_log`, each up to a row.
    async fn scan(&self, in_log: &[(u64, u64)]) -> Result<Vec<Span>, StoreError>;

    /// Reads the oldest transactions in the outbox, and only a part of one that exceeds the
    /// limits.
    async fn load(&self, limits: BatchLimits) -> Result<Vec<CapturedTransaction>, StoreError>;

    /// Keeps rows that cannot be ingested, with the reason, where an operator finds them.
    /// Idempotent.
    async fn park(&self, source: &SqlSource, rows: &[Parked]) -> Result<(), StoreError>;

    /// Removes a transaction from the outbox that brings nothing into the log. Returns whether it
    /// did: not if the store has events of these records after a position, at which that was
    /// decided.
    async fn discard(
        &self,
        source: &SqlSource,
        decided: (&[RecordId], u64),
    ) -> Result<bool, StoreError>;

    /// Restores the triggers that capture others' writes, if somebody has dropped or disabled them.
    /// Returns what is still not captured, and why.
    async fn restore_triggers(&self) -> Result<Vec<String>, StoreError>;

    /// Lists the fields that are unique in the database by constraints that others have set.
    async fn unique_sets(&self) -> Result<UniqueSets, StoreError>;

    /// Lets others write from now on, if they could not.
    async fn open_to_others(&self) -> Result<(), StoreError>;

    /// Keeps others from writing from now on: waits for transactions in progress, and refuses later
    /// ones until the store is opened again.
    async fn close_to_others(&self) -> Result<(), StoreError>;

    /// Returns what is waiting.
    async fn waiting(&self) -> Result<Waiting, StoreError>;

    /// Lists parked rows in the order in which they were parked.
    async fn list_parked(
        &self,
        selector: &ParkedSelector,
        limit: usize,
    ) -> Result<Vec<ParkedRow>, StoreError>;

    /// Puts parked rows back at the end of the outbox; of rows that were ingested in part, only the
    /// rest. Returns their new numbers.
    async fn retry_parked(&self, selector: &ParkedSelector) -> Result<Vec<u64>, StoreError>;

    /// Forgets parked rows; returns their numbers.
    async fn discard_parked(&self, selector: &ParkedSelector) -> Result<Vec<u64>, StoreError>;
}
