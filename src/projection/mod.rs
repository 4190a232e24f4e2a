//! The record store: the queryable projection of the log, in SQL.
//!
//! - `layout`, `names`, `ddl`: each record type has a real table, with a column per field.
//! - `apply`: turns commits into rows, one batch per transaction, together with the checkpoint.
//! - `read`: reads by key. `query`: reads by predicate.
//! - `captured`: what other programs change by SQL, if the database is a server.
//! - `index`: indexes that queries need, created and dropped automatically.
//! - `sql`: the only way to write SQL text; values are always bound. `conn`: runs it.
//! - `dialect`: where the databases' SQL differs. `sqlite`, `postgres`: the file or the server that
//!   holds the store.
//!
//! The store is disposable: everything in it comes from the log, in an order and form that depend
//! on the log alone. So a rebuilt store equals the live one.

mod accounts;
mod apply;
mod behind;
mod captured;
mod conn;
mod ddl;
mod devices;
mod dialect;
mod erase;
mod hindrance;
mod history;
pub mod index;
mod layout;
mod names;
mod numbered;
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

pub(crate) use behind::whole_until;
pub use captured::{copy_captured, count_parked, count_waiting, move_captured};
pub(crate) use hindrance::find_hindrance;
pub(crate) use layout::is_shared;
pub(crate) use numbered::Given;
pub(crate) use postgres::is_transient;
pub use postgres::{
    HeldStore, ServerOptions, StoreOrigin, beside, bring_back, check_old, digest_server,
    drop_leftovers, drop_old, drop_store, list_theirs, origin_server, place_of, switch_schemas,
};
pub use sqlite::rebuild;
pub use sqlite::{OpenError, StoreOptions, TableDigest, damage_marker, digest};
pub(crate) use sqlite::{PARTS, part, remove};
pub use store::{QueryFigures, SqlStore};
