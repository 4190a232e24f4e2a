//! Settings of live queries.

use skytrail_actors::live::LiveSettings;

use super::size;
use super::source::Reader;

/// Reads them: `LIVE_MAX_SUBSCRIPTIONS` per connection, default 100; `LIVE_MAX_RECORDS` of a result,
/// default 5,000; `LIVE_QUEUE`, frames that may wait for a connection, default 8,192;
/// `LIVE_MAX_MISSED`, events that may lie between a position and the present for what was missed to be
/// told, default 20,000.
pub(super) fn read(reader: &mut Reader<'_>) -> LiveSettings {
    LiveSettings {
        max_subscriptions: size(reader.number("LIVE_MAX_SUBSCRIPTIONS", 100, 1..=100_000)),
        max_records: size(reader.number("LIVE_MAX_RECORDS", 5000, 1..=10_000_000)),
        max_queue: size(reader.number("LIVE_QUEUE", 8192, 16..=1_000_000)),
        max_missed: reader.number("LIVE_MAX_MISSED", 20_000, 0..=100_000_000),
    }
}
