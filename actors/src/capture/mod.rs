//! SQL that others run in the record store's database becomes events.
//!
//! Plugins of v1 write record tables themselves. A store that can be written so keeps what was changed
//! in an *outbox*, in the same transaction; here it is taken from there into the log:
//!
//! 1. [`Captures`] reads the outbox whenever something is announced, a transaction at a time, in an
//!    order in which each sees what it has seen when it ran.
//! 2. What a transaction left of each record is decided like a save of the log's present record
//!    (`decide`): types, references, unique values. No access, no hooks, as in v1. Columns that
//!    it did not change are left alone, so a save that came between keeps its own.
//! 3. It is one commit, which names the transaction and how far in the outbox it reaches. The projector
//!    takes these rows out of the outbox with the checkpoint, so what is there is what the log has
//!    not got: nothing is lost or taken twice, whoever is killed when.
//! 4. What cannot be an event is *parked*, with a reason; the record is stored once more as the log has
//!    it, so that the tables stay what the log says. People look at it, have it tried again, or forget it
//!    ([`CaptureAdmin`]).
//! 5. Before a store is left for another it is closed to others and what they have done is taken in
//!    ([`Captures::close`]).
//!
//! Until a change is taken in, its row says more than the log: such rows are no base for decisions
//! ([`RecordStore::find_captured`](crate::store::RecordStore::find_captured)). Readers and savers
//! wait for what was there of their types before they came ([`CaptureGate::settle`]): the outbox is looked
//! at for them, once for all who wait, while it is read.

mod admin;
mod decide;
mod gate;
mod ingest;

use std::collections::BTreeSet;

use async_trait::async_trait;
use skytrail_schema::event::SqlSource;
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;

pub use admin::{CaptureAdmin, CaptureFigures, ParkedRow, Retried, Wanted};
pub use gate::{CaptureGate, CaptureState};
pub use ingest::Captures;

use crate::store::StoreError;

/// What a transaction did, or a part of it when it did very much.
#[derive(Clone, Debug)]
pub struct CapturedTransaction {
    /// Where it comes from, and how far in the outbox this reaches.
    pub source: SqlSource,
    /// What it left of each row, in the order in which it came to them.
    pub rows: Vec<CapturedRow>,
}

/// What a transaction left of a row.
#[derive(Clone, Debug)]
pub struct CapturedRow {
    /// Its last number in the outbox.
    pub number: u64,
    /// The record, if the row says so much.
    pub id: Option<RecordId>,
    /// What is to become of the record, or why the row says nothing that a record can hold.
    pub change: Result<RowChange, String>,
    /// Columns with something that no record can hold, beside what it can.
    pub excess: Vec<String>,
    /// What the row had in sequence fields before: old records' numbers are not in the log.
    pub numbered: Fields,
}

/// What is to become of a record.
#[derive(Clone, Debug)]
pub enum RowChange {
    /// The row was made.
    Made(Box<Record>),
    /// Some columns were changed.
    Changed {
        /// The record as the row has it.
        row: Box<Record>,
        /// What was changed: system columns, and fields.
        columns: BTreeSet<String>,
        /// Whether the row has something that no record has, too: it is stored as a whole.
        is_hidden: bool,
    },
    /// What was changed no record has: it is stored once more as it is.
    Hidden,
    /// The row was deleted.
    Deleted,
}

/// A row that cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its number in the outbox.
    pub number: u64,
    /// Why.
    pub reason: String,
    /// The columns that are not taken in; all of them when none is named.
    pub columns: Vec<String>,
    /// The record, if its row is to go: the log has none as of this position.
    pub stray: Option<(RecordId, u64)>,
}

/// What is waiting in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Rows in the outbox.
    pub num_rows: u64,
    /// When the statement began that changed the oldest of them.
    pub since: Option<Timestamp>,
    /// Rows that are parked.
    pub num_parked: u64,
}

/// What is in the outbox of a record type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The type; none when a table is not known to be a type's.
    pub record_type: Option<TypeName>,
    /// The number of the first row.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
}

/// How much of the outbox is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// So many rows at most.
    pub max_rows: usize,
    /// No more rows when there are so many bytes.
    pub max_bytes: usize,
}

/// Fields of a type that somebody declared unique in the database.
pub type UniqueSets = Vec<(TypeName, Vec<String>)>;

/// The database's side.
#[async_trait]
pub trait CaptureSource: Send + Sync + 'static {
    /// Whether anything was ever captured, or may be at any time.
    async fn is_in_use(&self) -> Result<bool, StoreError>;

    /// Waits until something is announced; returns when that cannot be told any more.
    async fn announced(&self);

    /// Says what is in the outbox.
    async fn look(&self) -> Result<Vec<Span>, StoreError>;

    /// Reads the oldest transactions in the outbox; of one that did more only a portion.
    async fn load(&self, portion: Portion) -> Result<Vec<CapturedTransaction>, StoreError>;

    /// Keeps rows that cannot be taken in, with why, where an operator finds them. Again, it changes
    /// nothing.
    async fn park(&self, source: &SqlSource, rows: &[Parked]) -> Result<(), StoreError>;

    /// Takes a transaction out of the outbox of which nothing comes into the log.
    async fn discard(&self, source: &SqlSource) -> Result<(), StoreError>;

    /// Puts back what captures others, where somebody has dropped it or switched it off; says of what is
    /// not captured all the same, and why.
    async fn restore_triggers(&self) -> Result<Vec<String>, StoreError>;

    /// Lists the fields that are unique in the database, by somebody else's constraints.
    async fn unique_sets(&self) -> Result<UniqueSets, StoreError>;

    /// From now on others can write, if they could not.
    async fn open_to_others(&self) -> Result<(), StoreError>;

    /// From now on nobody else can write: who is about to is waited for, and whoever comes is refused
    /// until the store is opened again.
    async fn close_to_others(&self) -> Result<(), StoreError>;

    /// Says what is waiting.
    async fn waiting(&self) -> Result<Waiting, StoreError>;

    /// Lists parked rows in the order in which they were parked.
    async fn list_parked(
        &self,
        wanted: &Wanted,
        limit: usize,
    ) -> Result<Vec<ParkedRow>, StoreError>;

    /// Puts parked rows back into the outbox, behind all that is there; of those that are not taken in
    /// whole only the rest. Returns their numbers there.
    async fn retry_parked(&self, wanted: &Wanted) -> Result<Vec<u64>, StoreError>;

    /// Forgets parked rows; returns their numbers.
    async fn discard_parked(&self, wanted: &Wanted) -> Result<Vec<u64>, StoreError>;
}
