//! The log as an event store for other programs: read a page of it ([`EventReader`]), or follow it
//! ([`Follower`]).
//!
//! 1. A reader says where it begins, in which direction, and what it wants ([`Asked`]).
//! 2. The events of one stream are found by the store's index over streams, as far as the store is;
//!    all others by looking at the log, a bounded number of events per page. Who finds little gets a
//!    short page, and where the next begins.
//! 3. A follower is a reader that goes on: page by page to the log's end, then as it is written to.
//!    It keeps nothing but a position, so it can neither miss an event nor see one twice, however
//!    slowly it goes.
//!
//! Readers wait for nobody: neither for the store nor for what is just being written.

mod follow;
mod page;

pub use follow::{Follower, Progress};
pub use page::{Asked, Direction, EVERYWHERE, EventReader, Found, Page};
