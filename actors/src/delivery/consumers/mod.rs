//! Consumers: plugins with after-hooks and other programs, which are told what the log has, at least
//! once, in the log's order for each record.
//!
//! 1. Whoever is about to commit what after-hooks are to be told of announces it first
//!    ([`Consumers::announce`]). It waits, the first time, until it is durable from where on the
//!    plugin is told: nothing is promised before.
//! 2. Every plugin with after-hooks has an actor (`actor`; its loop is `delivery_loop`). It follows the
//!    log behind the projector: out of memory while it keeps up (`log/recent`), in pages after an
//!    absence. What events call for goes into its schedule (`schedule`, pure), which says what is
//!    started next.
//! 3. The answer acknowledges. What fails is tried again, with growing pauses, and in the end
//!    becomes a dead letter.
//! 4. What a plugin has had is its cursor (`cursor`), kept with its checkpoint once a second (`store`, a
//!    port).
//!
//! Other programs may be consumers, too, of the log itself (`log_consumers`): theirs is the same actor,
//! which gives events to workers (`dispatcher`; `balancer`, pure, says to whom) instead of asking a
//! plugin.
//!
//! Who waits for synchronous hooks is told of their first attempt (`announced`). An error then is
//! final; a lost worker is not, and the delivery goes on without him. All hooks are told of every
//! event: one that fails keeps none of the others from it.

mod actor;
mod announced;
mod balancer;
mod content;
mod cursor;
mod delivery_loop;
mod dispatcher;
mod hook_events;
mod log_consumers;
mod messages;
mod parts;
mod registry;
mod schedule;
mod store;
#[cfg(test)]
mod tests;

pub use announced::{CommitAnswers, EventAnswers, Originals};
pub use cursor::{Cursor, Open};
pub use dispatcher::{LogWorker, WorkItem, WorkerAnswer};
pub use log_consumers::LOG_PREFIX;
pub use messages::{ConsumerState, Order, Retry, Target};
pub use parts::DeliverySettings;
pub use registry::Consumers;
pub use store::{
    ConsumerChange, ConsumerCheckpoint, ConsumerStore, DeadLetter, DeadLetterId, ListedDeadLetter,
    LogConsumerOptions, LogRange, StoredConsumers,
};
