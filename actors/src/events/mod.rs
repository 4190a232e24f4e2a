//! The log as an event store for other programs: they can read a page of it ([`EventReader`]), or
//! follow it ([`Follower`]).
//!
//! 1. A reader says where to begin, in which direction, and what it wants ([`PageRequest`]).
//! 2. The events of one stream are found by the store's index over streams, as far as the store has
//!    applied the log. All other events are found by searching the log, a bounded number per page.
//!    If few match, the page is short, and says where the next one begins.
//! 3. A follower is a reader that continues: page by page to the log's end, then as the log grows.
//!    It keeps only a position, so it can neither miss an event nor see one twice, however slow it
//!    is.
//!
//! Readers do not wait for the store or for commits that are being written.

mod follow;
mod page;

pub use follow::{Follower, Progress};
pub use page::{Direction, EVERYWHERE, EventReader, Found, Page, PageRequest};
