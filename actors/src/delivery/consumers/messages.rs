//! What people may ask of a consumer, and what it says of itself.

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
    /// Behind this position.
    Position(u64),
    /// Before the first event that was committed at this time or later.
    Time(Timestamp),
    /// At the log's end.
    End,
}

/// What somebody wants of a consumer. Replied to when it is done and, where it changes what is
/// kept, durable.
#[derive(Clone, Debug)]
pub enum Order {
    /// Start nothing any more.
    Pause,
    /// Go on.
    Resume,
    /// Go on from there; what was under way is forgotten.
    Rewind(Target),
    /// Deliver again what these positions, both included, call for.
    Redeliver {
        /// The first.
        from: u64,
        /// The last.
        until: u64,
    },
    /// Deliver dead letters again; all of them when none is named.
    Resend(Vec<DeadLetterId>),
    /// Forget dead letters; all of them when none is named. A delivery that is being tried again may be
    /// named, too: it is given up, and is a dead letter then.
    Drop(Vec<DeadLetterId>),
}

/// A delivery that has failed and is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// What it is called among dead letters.
    pub id: String,
    /// The event's place in the log.
    pub position: u64,
    /// The hook.
    pub hook: Arc<str>,
    /// The record; of a consumer of the log the stream.
    pub record: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt came to, without details.
    pub error: Json,
}

/// What a consumer says of itself.
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
    /// Up to here everything is over.
    pub position: u64,
    /// How many events of the log are behind that.
    pub lag: u64,
    /// Deliveries under way.
    pub in_flight: usize,
    /// Deliveries that wait to be tried again.
    pub retrying: usize,
    /// Deliveries that have failed since the start and are not over: the first of them in the log.
    pub retries: Vec<Arc<Retry>>,
    /// Deliveries that were read and are not over.
    pub open: usize,
    /// Deliveries that were given up.
    pub dead_letters: u64,
    /// Deliveries that were skipped by policy, ever.
    pub skipped: u64,
    /// Deliveries that were acknowledged, since the start.
    pub delivered: u64,
    /// Attempts that failed, since the start.
    pub failed: u64,
    /// Whether what it has had cannot be kept.
    pub is_failing: bool,
}

/// What a consumer is told.
pub(super) enum Command {
    /// What somebody wants.
    Order(Order, oneshot::Sender<Result<ConsumerState, ApiError>>),
    /// Keep what there is to keep now; the sender is dropped when that is done.
    Keep(oneshot::Sender<()>),
    /// Somebody waits for an event that may be far ahead.
    Ahead(u64),
    /// Keep what there is to keep, and end; the sender is dropped when that is done.
    Close(oneshot::Sender<()>),
}
