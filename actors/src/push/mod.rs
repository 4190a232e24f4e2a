//! Push: reaching devices through their makers' services.
//!
//! 1. [`Push`] is what the rest knows. It finds the devices, takes each address
//!    once, and gives every service's queue its pushes: all of them or, when a
//!    queue has not got the room, none. It never waits for a service.
//! 2. A [`PushQueue`](queue::PushQueue), an actor per service, sends them, many at
//!    once. What cannot be sent now is tried again after growing pauses, or when
//!    the service says; a service that is down is asked with one push at a time
//!    ([`schedule`], pure).
//! 3. A [`PushSender`] speaks one service's protocol; the server implements it.
//! 4. An address that leads nowhere any more is forgotten with its device, unless
//!    it was registered again since.
//!
//! 5. What is asked for is in the [`Outbox`] before it is acknowledged, and leaves it
//!    when it is sent or given up ([`queue`]); after a start what is there is sent
//!    ([`resume`]). So each is sent at least once, and again only when the process is
//!    killed right after it was. A notice of a subscription, which the delivery of
//!    notices repeats after a crash, is kept from its first failure on.

mod attempt;
mod front;
mod notes;
mod notice;
mod outbox;
pub mod queue;
mod resume;
pub mod schedule;
pub mod sender;
#[cfg(test)]
mod tests;

pub use front::{Parcel, Push, PushParts, PushSettings};
pub use notice::NoticePush;
pub use outbox::{Outbox, Waiting};
pub use queue::PushState;
pub use sender::{Address, Payload, PushSender, SendError};
