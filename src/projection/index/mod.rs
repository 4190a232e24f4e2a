//! Automatic indexes.
//!
//! 1. Every query reports its *shape* (the columns that it fixes, bounds and sorts by) and its cost
//!    (`shape`, `stats`).
//! 2. Every few seconds the keeper asks the database for the plan of each shape that occurred. It
//!    records which indexes are used, and which shapes still read a whole table or sort without an
//!    index (`keeper`).
//! 3. The costliest of these shapes gets an index, within limits on number and size. An index that
//!    no query uses any more is dropped (`advice`).
//! 4. The `_index` table says which indexes exist and why. It also takes wishes: an index can be
//!    declared, pinned or forbidden (`table`). Another process can write wishes while the server
//!    runs.

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
pub(crate) use keeper::{IndexSurvey, PERIOD, follow, save_forbidden};
pub(crate) use shape::{Shape, shapes_of};
pub(crate) use stats::Stats;
pub(crate) use table::{change_field, forbid, load};
