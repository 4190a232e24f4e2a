//! The hub: channels, and the sockets that listen to them.
//!
//! Each hub is an actor ([`Hub`]), so that what one publisher publishes on a channel arrives in
//! order. A listener has a queue of its own ([`outbox`]), bounded by messages and by bytes. If it
//! is full, the listener is dropped rather than waited for, so a slow listener delays nobody. A
//! message is encoded once, however many hear it: the queues share its bytes. A listener that is
//! not connected misses what is published; only what is announced ([`Announce`]) is kept for a
//! short time ([`retained`]).

mod actor;
mod messages;
pub mod outbox;
mod retained;

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

/// Creates the bytes that every listener of a channel gets.
pub type Encode = fn(channel: &str, data: &RawValue) -> Bytes;

/// What a hub allows its listeners.
#[derive(Clone, Copy, Debug)]
pub struct HubSettings {
    /// How many messages can wait for one listener.
    pub queue_messages: usize,
    /// How many bytes can wait for one listener; a single message can have more.
    pub queue_bytes: usize,
    /// How many channels a listener can hear at once.
    pub max_channels: usize,
    /// How messages are encoded for listeners.
    pub encode: Encode,
}

/// The figures of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HubState {
    /// Connected sockets.
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
