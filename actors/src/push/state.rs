//! What a queue says of itself.

use serde::Serialize;

/// The figures of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PushState {
    /// The service.
    pub service: &'static str,
    /// Pushes that wait, including those for another attempt.
    pub num_queued: usize,
    /// Those that wait for another attempt.
    pub num_retrying: usize,
    /// Pushes in flight.
    pub num_in_flight: usize,
    /// Whether the service failed when it was last asked.
    pub is_held: bool,
    /// The setting that is probably wrong, judging by the service's answers.
    pub doubted_setting: Option<&'static str>,
    /// Pushes that the service accepted.
    pub num_sent: u64,
    /// Pushes that were refused or given up.
    pub num_failed: u64,
    /// Pushes whose devices have an address that is invalid, or that the service does not accept or
    /// no longer knows. Clients choose addresses, so these say little about the service.
    pub num_unreachable: u64,
    /// Attempts that were followed by another.
    pub num_retried: u64,
    /// Devices forgotten because the service no longer knows them.
    pub num_unregistered: u64,
    /// Pushes for which there was no room.
    pub num_dropped: u64,
    /// Pushes that were too old when they could be sent, or whose devices were gone or belonged to
    /// another user by then.
    pub num_expired: u64,
    /// Pushes that were withdrawn while they waited.
    pub num_withdrawn: u64,
    /// Pushes that the outbox has: a crash would not lose them.
    pub num_kept: u64,
}
