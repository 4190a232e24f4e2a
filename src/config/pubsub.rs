//! Settings for pub/sub: what its sockets may use.

use super::source::Reader;

/// Pub/sub.
#[derive(Clone, Copy, Debug)]
pub struct PubSub {
    /// The maximum number of open sockets, at both hubs together. `PUBSUB_MAX_SOCKETS`, default
    /// 15,000.
    pub max_sockets: usize,
    /// The maximum number of sockets from one address; `None` means without limit.
    /// `PUBSUB_MAX_SOCKETS_PER_ADDRESS`, default 0 for no limit: behind a proxy all sockets have
    /// its address.
    pub max_sockets_per_address: Option<usize>,
    /// The number of channels that a socket can subscribe to. `PUBSUB_MAX_CHANNELS`, default 500.
    pub max_channels: usize,
    /// The maximum length of a channel's name. `PUBSUB_MAX_CHANNEL_BYTES`, default 256.
    pub max_channel_bytes: usize,
    /// The largest message that a client may send. `PUBSUB_MAX_MESSAGE_BYTES`, default 1 MiB.
    pub max_message_bytes: usize,
    /// The number of messages that can wait for a socket that does not read.
    /// `PUBSUB_QUEUE_MESSAGES`, default 1024.
    pub queue_messages: usize,
    /// The number of bytes that can wait for it. `PUBSUB_QUEUE_BYTES`, default 4 MiB.
    pub queue_bytes: usize,
}

pub(super) fn read(reader: &mut Reader<'_>) -> PubSub {
    let per_address = reader.number("PUBSUB_MAX_SOCKETS_PER_ADDRESS", 0, 0..=1_000_000);
    PubSub {
        max_sockets: reader.number("PUBSUB_MAX_SOCKETS", 15_000, 1..=1_000_000),
        max_sockets_per_address: (per_address > 0).then_some(per_address),
        max_channels: reader.number("PUBSUB_MAX_CHANNELS", 500, 1..=1_000_000),
        max_channel_bytes: reader.number("PUBSUB_MAX_CHANNEL_BYTES", 256, 1..=65_536),
        max_message_bytes: reader.number("PUBSUB_MAX_MESSAGE_BYTES", 1 << 20, 1024..=1 << 30),
        queue_messages: reader.number("PUBSUB_QUEUE_MESSAGES", 1024, 1..=1_000_000),
        queue_bytes: reader.number("PUBSUB_QUEUE_BYTES", 4 << 20, 1024..=1 << 40),
    }
}
