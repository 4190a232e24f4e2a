//! The hub: channels, and the sockets that listen to them.
//!
//! Each hub is an actor ([`Hub`]), so that what one publisher publishes on a
//! channel arrives in order. A listener has a queue of its own ([`outbox`]),
//! bounded by messages and by bytes; one that is full is dropped rather than
//! waited for, so a slow listener delays nobody. A message is encoded once, however
//! many hear it: the queues share its bytes. Who is not there misses what is
//! published; only what is announced ([`Announce`]) waits for a moment ([`kept`]).

mod actor;
mod kept;
mod messages;
pub mod outbox;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

pub use actor::Hub;
pub use messages::{
    Announce, Connect, Connected, Disconnect, GetHubState, Publish, Reported, Subscribe,
    TooManyChannels, Unsubscribe,
};
pub use outbox::Frames;

/// A listener's number, unique in its hub.
pub type ListenerId = u64;

/// Makes the bytes that every listener of a channel gets.
pub type Encode = fn(channel: &str, data: &RawValue) -> Bytes;

/// What a hub allows its listeners.
#[derive(Clone, Copy, Debug)]
pub struct HubSettings {
    /// How many messages may wait for one listener.
    pub queue_messages: usize,
    /// How many bytes may wait for one listener; a single message may have more.
    pub queue_bytes: usize,
    /// How many channels a listener may hear at once.
    pub max_channels: usize,
    /// How messages look on the way to listeners.
    pub encode: Encode,
}

/// What a hub says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HubState {
    /// Sockets connected.
    pub num_listeners: usize,
    /// Channels with at least one listener.
    pub num_channels: usize,
    /// Messages published since the start, each counted once per channel.
    pub num_published: u64,
    /// Messages put into listeners' queues since the start.
    pub num_delivered: u64,
    /// Listeners dropped because they did not read.
    pub num_dropped: u64,
}

#[cfg(test)]
mod tests;
