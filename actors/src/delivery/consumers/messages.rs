//! What operators can ask of a consumer, and the state that it shows.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::code::ApiError;
use skytrail_schema::time::Timestamp;
use tokio::sync::oneshot;

use super::store::DeadLetterId;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// After this position.
    Position(u64),
    /// Before the first event that was committed at this time or later.
    Time(Timestamp),
    /// At the log's end.
    End,
}

/// An order to a consumer. The reply follows when it is done and, if it changes stored state,
/// durable.
#[derive(Clone, Debug)]
pub enum Order {
    /// Start no more deliveries.
    Pause,
    /// Continue.
    Resume,
    /// Continue from there; deliveries in progress are forgotten.
    Rewind(Target),
    /// Deliver again what the events from one position to another require.
    Redeliver {
        /// The first position.
        from: u64,
        /// The last position, inclusive.
        until: u64,
    },
    /// Deliver dead letters again; all of them if none is named.
    Resend(Vec<DeadLetterId>),
    /// Forget dead letters; all of them if none is named. A delivery that is being retried can be
    /// named, too: it is given up and becomes a dead letter.
    Drop(Vec<DeadLetterId>),
}

/// A delivery that has failed and is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Its id as a dead letter.
    pub id: String,
    /// The event's position in the log.
    pub position: u64,
    /// The hook.
    pub hook: Arc<str>,
    /// The record; for a consumer of the log, the stream.
    pub record: String,
    /// How many times it was tried.
    pub attempts: u32,
    /// The error of the last attempt, without details.
    pub error: Json,
}

/// The state of a consumer, for display.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsumerState {
    /// The plugin, or `log/` and the name of a consumer of the log.
    pub name: Arc<str>,
    /// `plugin` or `log`.
    pub kind: &'static str,
    /// How many workers serve.
    pub workers: usize,
    /// `running`, `paused`, `away` (no worker), `unknown` (it has not registered since the start).
    pub state: &'static str,
    /// Why it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Everything up to here is done.
    pub position: u64,
    /// How many events of the log follow that position.
    pub lag: u64,
    /// Deliveries in progress.
    pub in_flight: usize,
    /// Deliveries that wait to be retried.
    pub retrying: usize,
    /// The first deliveries, in the log's order, that have failed since the start and are not done.
    pub retries: Vec<Arc<Retry>>,
    /// Deliveries that were read and are not done.
    pub open: usize,
    /// Deliveries that were given up.
    pub dead_letters: u64,
    /// Deliveries that were skipped by policy, in total.
    pub skipped: u64,
    /// Deliveries that were acknowledged, since the start.
    pub delivered: u64,
    /// Attempts that failed, since the start.
    pub failed: u64,
    /// Whether its state cannot be saved.
    pub is_failing: bool,
}

/// A command to a consumer.
pub(super) enum Command {
    /// An order.
    Order(Order, oneshot::Sender<Result<ConsumerState, ApiError>>),
    /// Save the state now; the sender is dropped when that is done.
    Keep(oneshot::Sender<()>),
    /// A request waits for an event that may be far ahead.
    Ahead(u64),
    /// Save the state, and end; the sender is dropped when that is done.
    Close(oneshot::Sender<()>),
}
