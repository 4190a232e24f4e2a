//! Imports a Skygear v1 database.
//!
//! 1. The whole database is read as of one moment, in a read-only transaction (`source`).
//! 2. `layout` finds which tables are record types, the types of their fields, and the order to
//!    import them in: a table comes after those that it refers to.
//! 3. `run` imports the tables in that order, a batch at a time: rows become records (`record`)
//!    or users, devices and so on (`system_tables`), which are passed to the importer.
//! 4. Files are copied from their folder or bucket (`import/files`).
//!
//! Only the current batch of a table is kept in memory, so the size of the database does not
//! matter. An interrupted import is started again from the beginning: what exists here already is
//! recognized.

mod layout;
mod record;
mod run;
mod source;
mod system_tables;

pub use run::{Options, run};
