//! Settings for live queries.

use skytrail_actors::live::{ALWAYS_TOLD, LiveSettings};

use super::source::Reader;

/// Live queries.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// The maximum number of open connections, sockets and streams together.
    /// `LIVE_MAX_CONNECTIONS`, default 15,000.
    pub max_connections: usize,
    /// The maximum number of connections from one address; `None` means without limit.
    /// `LIVE_MAX_CONNECTIONS_PER_ADDRESS`, default 0 for no limit: behind a proxy all connections
    /// have its address.
    pub max_connections_per_address: Option<usize>,
    /// The limits of connections and results.
    ///
    /// `LIVE_MAX_SUBSCRIPTIONS` per connection, default 100; `LIVE_MAX_RECORDS` of a result,
    /// default 5,000; `LIVE_QUEUE`, frames that can wait for a connection, default 8,192;
    /// `LIVE_QUEUE_BYTES`, bytes that can wait for it, default 8 MiB; `LIVE_MAX_MISSED`, how many
    /// events a client can have missed and still catch up from its position, default 20,000.
    pub queries: LiveSettings,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Live {
    let per_address = reader.number("LIVE_MAX_CONNECTIONS_PER_ADDRESS", 0, 0..=1_000_000);
    Live {
        max_connections: reader.number("LIVE_MAX_CONNECTIONS", 15_000, 1..=1_000_000),
        max_connections_per_address: (per_address > 0).then_some(per_address),
        queries: LiveSettings {
            max_subscriptions: reader.number("LIVE_MAX_SUBSCRIPTIONS", 100, 1..=100_000),
            max_records: reader.number("LIVE_MAX_RECORDS", 5000, 1..=10_000_000),
            max_queue: reader.number("LIVE_QUEUE", 8192, 16..=1_000_000),
            max_queue_bytes: reader.number("LIVE_QUEUE_BYTES", 8 << 20, 1024..=1 << 40),
            always_told: ALWAYS_TOLD,
            max_missed: reader.number("LIVE_MAX_MISSED", 20_000, 0..=100_000_000),
        },
    }
}
