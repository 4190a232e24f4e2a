//! The record store: the queryable projection of the log, in SQL.
//!
//! - `layout`, `names`, `ddl`: each record type has a real table, with a column per field.
//! - `apply`: commits become rows, a batch per transaction, the checkpoint with it.
//! - `read`: reading by key. `query`: reading by predicate.
//! - `captured`: what others change by SQL, where the database is a server.
//! - `index`: indexes that queries need, made and dropped by themselves.
//! - `sql`: the only way to make SQL text; values are always bound. `conn`: what runs it.
//! - `dialect`: what databases say differently. `sqlite`, `postgres`: the file or the server that all
//!   this is in.
//!
//! The store is disposable: everything in it comes from the log, in an order and
//! form that depend on the log alone, so that a rebuilt store equals the live one.

mod apply;
mod captured;
mod causes;
mod conn;
mod ddl;
mod devices;
mod dialect;
mod erase;
mod history;
pub mod index;
mod layout;
mod names;
mod people;
mod postgres;
mod query;
mod read;
mod sql;
pub(crate) mod sqlite;
mod store;
mod tasks;
mod value;

#[cfg(test)]
mod tests;

pub use captured::{carry_over_captured, count_parked, count_waiting};
pub(crate) use causes::with_causes;
pub(crate) use layout::is_shared;
pub(crate) use postgres::is_passing;
pub use postgres::{
    HeldStore, ServerOptions, StoreOrigin, beside, digest_server, drop_left, drop_store,
    origin_server, place_of, switch_schemas,
};
pub use sqlite::rebuild;
pub use sqlite::{OpenError, StoreOptions, TableDigest, damage_marker, digest};
pub(crate) use sqlite::{PARTS, part, remove};
pub use store::SqlStore;
