//! The record store: the queryable projection of the log, in SQL.
//!
//! - `layout`, `names`, `ddl`: each record type has a real table, with a column per field.
//! - `apply`: commits become rows, a batch per transaction, the checkpoint with it.
//! - `read`: reading by key. `query`: reading by predicate.
//! - `index`: indexes that queries need, made and dropped by themselves.
//! - `sqlite`, `readers`: one connection that writes, a few that read.
//! - `sums`: the pages' checksums. `condition`: watching them, and what follows damage.
//! - `sql`: the only way to make SQL text; values are always bound.
//!
//! The store is disposable: everything in it comes from the log, in an order and
//! form that depend on the log alone, so that a rebuilt store equals the live one.

mod apply;
mod condition;
mod ddl;
mod devices;
mod digest;
mod history;
pub mod index;
mod layout;
mod names;
mod people;
mod query;
mod read;
mod readers;
pub mod rebuild;
mod sql;
pub(crate) mod sqlite;
mod store;
mod sums;
mod tasks;
mod value;

#[cfg(test)]
mod tests;

pub use condition::damage_marker;
pub use digest::{TableDigest, digest};
pub(crate) use sqlite::remove;
pub use sqlite::{OpenError, StoreOptions};
pub use store::SqlStore;
pub(crate) use sums::{PARTS, part};
