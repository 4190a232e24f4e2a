//! Delivery: taking committed events to whoever waits for them.
//!
//! One actor per consumer. It wakes up when the projector has applied something, or
//! for live queries when something is committed (who is told of a change finds it by
//! query either way, since queries wait for the store), takes the commits in the log's
//! order, and hands them to its consumer one after the other. A consumer that has
//! nothing to look at lets them go by unread, and is not even woken if it can tell
//! when it has again.
//!
//! How far it is, is kept once a second, for those that have a place for it
//! ([`positions`]): what was committed before a stop or a crash and not delivered
//! is delivered after the start, some of it again. The others begin with the present.

mod actor;
pub mod consumers;
mod positions;

use async_trait::async_trait;
use serde_json::Value as Json;
use skytrail_schema::event::Commit;

pub use actor::{Delivery, DeliveryParts, DeliveryState, GetDeliveryState, Place};
pub use positions::Positions;

/// Somebody who waits for events.
#[async_trait]
pub trait Consumer: Send + 'static {
    /// Returns whether there is nothing that it would look at.
    fn is_idle(&self) -> bool;

    /// For one that is idle: waits until it no longer is, and returns the position up to which it needs
    /// nothing. `None` for one that cannot tell, and is asked again whenever there is something.
    async fn roused(&mut self) -> Option<u64> {
        None
    }

    /// Looks at a commit. Failures are its own to handle: it is not given the commit again.
    async fn take(&mut self, commit: &Commit);

    /// Learns that no more commits are at hand for now.
    fn settle(&mut self) {}

    /// Returns what it says of itself.
    fn state(&self) -> Json;
}
