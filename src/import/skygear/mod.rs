//! Reading a database of Skygear v1 and taking over what is in it.
//!
//! 1. The whole of it is read as of one moment, in a transaction that writes nothing (`source`).
//! 2. `layout` finds out which tables are record types, of which types their fields are, and in
//!    which order they can come: what is referred to before what refers to it.
//! 3. `run` goes through it in that order, a portion at a time: rows become records (`record`) or
//!    users, devices and so on (`people`), which the importer takes over.
//! 4. Files are copied from the folder or bucket where they are (`files`).
//!
//! Nothing is kept of a table but the portion under way, so the size of the database does not
//! matter. Who is interrupted begins again: what is here already is found.

mod files;
mod layout;
mod people;
mod record;
mod run;
mod source;

pub use files::AssetSource;
pub use run::{Options, run};
