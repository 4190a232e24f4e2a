//! Indexes by themselves.
//!
//! 1. Every query tells its *shape* (which columns it fixes, bounds and sorts by)
//!    and what it cost (`shape`, `stats`).
//! 2. Every few seconds the keeper asks the database for the plan of each shape
//!    that came: it notes which indexes are used, and which shapes still read a
//!    whole table or sort by hand (`keeper`).
//! 3. The costliest of those gets its index, within bounds of number and size;
//!    one that no query uses any more is dropped (`advice`).
//! 4. The `_index` table says what is there and why, and takes wishes: an index
//!    may be declared, pinned or forbidden (`table`). Another process may write
//!    wishes while the server runs.

mod access;
mod advice;
mod beside;
mod care;
mod keeper;
mod shape;
mod stats;
mod table;

pub use advice::IndexLimits;
pub use beside::{StorePlace, carry_over_indexes, list_fields, list_indexes, set_index};
pub use shape::IndexColumn;
pub use table::{IndexEntry, IndexState, IndexWish};

#[cfg(test)]
pub(crate) use access::explain;
pub(crate) use access::{Access, is_record_table};
pub(crate) use advice::Advice;
pub(crate) use keeper::{Look, PERIOD, follow, save_forbidden};
pub(crate) use shape::{Shape, shapes_of};
pub(crate) use stats::Stats;
pub(crate) use table::{change_field, forbid, load};
