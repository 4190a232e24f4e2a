//! Push: reaching devices through their makers' services.
//!
//! 1. [`Push`] is what the rest of the server knows. It finds the devices, takes each address once,
//!    and puts the pushes into the queue of every service: all of them or, if a queue has no room,
//!    none. It never waits for a service.
//! 2. A [`PushQueue`](queue::PushQueue), an actor per service, sends them, many at once. What
//!    cannot be sent now is retried after growing pauses, or when the service says. A service that
//!    is down is asked with one push at a time ([`schedule`], pure).
//! 3. A [`PushSender`] speaks one service's protocol; the server implements it.
//! 4. An address that is no longer valid is forgotten with its device, unless it has been
//!    registered again since.
//! 5. A requested push is in the [`Outbox`] before it is acknowledged, and leaves it when it is
//!    sent or given up ([`queue`]). After a start, the queues begin with whatever is there
//!    ([`resume`]). So each push is sent at least once, and again only if the process is killed
//!    right after it was sent. A notice of a subscription, which the delivery of notices repeats
//!    after a crash, is kept from its first failure on.

mod attempt;
mod handle;
mod manage;
mod notes;
mod notice;
mod outbox;
pub mod queue;
mod queued;
mod resume;
mod room;
pub mod schedule;
pub mod sender;
mod state;
#[cfg(test)]
mod tests;

pub use handle::{Push, PushParts, PushPayloads, PushSettings};
pub use notice::NoticePush;
pub use outbox::{Outbox, Waiting};
pub use queue::{ListPushes, ListedPush, PushSelection};
pub use sender::{Address, Payload, PushSender, SendError};
pub use state::PushState;
