//! Consumers: plugins with after-hooks and other programs, which are told of the log's events at
//! least once, in the log's order for each record.
//!
//! 1. A writer announces every commit that after-hooks must hear of, before it commits
//!    ([`Consumers::announce`]). The first time, it waits until the plugin's start position is
//!    durable: nothing is promised before that.
//! 2. Every plugin with after-hooks has an actor (`actor`; its loop is `delivery_loop`). It follows
//!    the log after the projector: from memory while it keeps up (`log/recent`), in pages after an
//!    absence. The deliveries that events require go into its schedule (`schedule`, pure), which
//!    decides what is started next.
//! 3. The answer acknowledges a delivery. A failed delivery is retried with growing pauses, and
//!    finally becomes a dead letter.
//! 4. What a plugin has received is its cursor (`cursor`), saved with its checkpoint once a second
//!    (`store`, a port).
//!
//! Other programs can be consumers, too, of the log itself (`log_consumers`). They use the same
//! actor, which gives events to workers (`dispatcher`; `balancer`, pure, chooses the worker)
//! instead of asking a plugin.
//!
//! A request that waits for synchronous hooks hears of their first attempt (`announced`). An error
//! is then final; the loss of a worker is not, and the delivery continues without the request. All
//! hooks are told of every event: a hook that fails does not keep it from the others.

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
