//! Subscriptions: devices that want to hear of changes of records.
//!
//! All subscriptions are in memory, by record type ([`index`]). A delivery passes every committed
//! event to [`notices`]. That rebuilds the record as the event left it (or as it was, for a
//! deletion), holds it against the subscriptions of its type ([`matching`]), and publishes a notice
//! to the channel of each device.

pub mod index;
mod lookups;
pub mod matching;
pub mod notices;
pub mod numbers;

pub use index::{Candidate, SubscribedDevice, Subscriptions};
pub use notices::{MAX_NOTICE_LAG, Notices};
