//! Delivery: brings committed events to their consumers.
//!
//! There is one actor per consumer. It wakes up when the projector has applied something, or, for
//! live queries, when something is committed. Either way a consumer that hears of a change finds it
//! by query, because queries wait for the store. The actor takes the commits in the log's order and
//! hands them to its consumer one after the other. An idle consumer lets commits pass unread, and
//! is not even woken if it can tell when it needs them again.
//!
//! The position is saved once a second, for consumers that have a slot for it ([`positions`]).
//! What was committed but not delivered before a stop or a crash is delivered after the start, some
//! of it again. Other consumers begin at the present.

mod actor;
pub mod consumers;
mod positions;

use async_trait::async_trait;
use serde_json::Value as Json;
use skytrail_schema::event::Commit;

pub use actor::{Delivery, DeliveryParts, DeliveryState, GetDeliveryState, PositionSlot};
pub use positions::PositionStore;

/// A consumer of events.
#[async_trait]
pub trait Consumer: Send + 'static {
    /// Returns whether it needs no events at the moment.
    fn is_idle(&self) -> bool;

    /// Waits until an idle consumer needs events again, and returns the position up to which it
    /// needs none.
    ///
    /// Returns `None` if it cannot tell; it is then asked again whenever there is something new.
    async fn roused(&mut self) -> Option<u64> {
        None
    }

    /// Handles a commit. Failures are its own to handle: it is not given the commit again.
    async fn take(&mut self, commit: &Commit);

    /// Learns that no more commits are available for now.
    fn caught_up(&mut self) {}

    /// Returns its state, for display.
    fn state(&self) -> Json;
}
