//! The port to the store of consumers' checkpoints and dead letters.
//!
//! It is not a projection of the log, because only the consumer knows what it has received.
//! Rebuilding the record store does not touch it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use skytrail_schema::event::EventFilter;
use skytrail_schema::json;
use skytrail_schema::time::Timestamp;

use super::cursor::Cursor;
use crate::ops_store::OpsStoreError;

/// The stored state of a consumer. Its fields have the names of the stored ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerCheckpoint {
    /// How far it has come.
    pub cursor: Cursor,
    /// The position after which each of its hooks is told, by trigger, type and name. A hook that
    /// was added later starts at what was the log's end at that time.
    #[serde(default)]
    pub since: BTreeMap<String, u64>,
    /// What has not been read yet for hooks that are no longer registered, by the same names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gone: BTreeMap<String, LogRange>,
    /// Why deliveries are paused; `None` if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// An operator has asked for everything up to here: none of it is too old.
    #[serde(default)]
    pub ordered: u64,
    /// Deliveries that were skipped by policy, in total.
    #[serde(default)]
    pub num_skipped: u64,
    /// The options of a consumer of the log; `None` for a plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogConsumerOptions>,
}

/// A range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// After this position.
    pub since: u64,
    /// Up to this position, inclusive.
    pub until: u64,
}

impl ConsumerCheckpoint {
    /// Returns the state of a consumer that has lost its cursor: nothing is delivered before an
    /// operator has said from where on.
    pub(super) fn lost(head: u64) -> Self {
        let reason = "its position was lost: rewind it to where it should continue, then resume";
        Self {
            cursor: Cursor::at(head),
            paused: Some(reason.to_owned()),
            ..Self::default()
        }
    }
}

/// What a consumer of the log is told, and how. Set when it is created, and never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConsumerOptions {
    /// Which events.
    #[serde(default)]
    pub filter: EventFilter,
    /// The number of attempts after which an event becomes a dead letter.
    pub max_attempts: u32,
    /// How long a worker may take for an event.
    pub timeout_ms: u64,
}

/// A delivery that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The event's position in the log.
    pub position: u64,
    /// The hook.
    pub hook: Arc<str>,
    /// The record.
    pub record: String,
    /// How many times it was tried.
    pub attempts: u32,
    /// The error of the last attempt, in the form that clients get.
    #[serde(deserialize_with = "json::value")]
    pub error: Json,
    /// When it was given up.
    pub at: Timestamp,
}

impl DeadLetter {
    /// Returns its id among the consumer's dead letters.
    pub fn id(&self) -> DeadLetterId {
        (self.position, Arc::clone(&self.hook))
    }
}

/// Identifies a dead letter of a consumer, within this log: a plugin has another id of the delivery,
/// which outlives a restore ([`DeliveryNote`](crate::plugin::DeliveryNote)).
pub type DeadLetterId = (u64, Arc<str>);

/// A dead letter as found in the store. A damaged one can be delivered again or forgotten like any
/// other, because that needs only its id.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedDeadLetter {
    /// Its id.
    pub id: DeadLetterId,
    /// The content, or why it cannot be read.
    pub letter: Result<DeadLetter, String>,
}

/// A change of a consumer's stored state: applied completely or not at all.
#[derive(Clone, Debug, Default)]
pub struct ConsumerChange {
    /// The new checkpoint.
    pub checkpoint: ConsumerCheckpoint,
    /// Dead letters to forget.
    pub forgotten: Vec<DeadLetterId>,
    /// Dead letters to store; one with the id of a forgotten one is newer.
    pub dead: Vec<DeadLetter>,
}

/// Everything that was stored.
#[derive(Clone, Debug, Default)]
pub struct StoredConsumers {
    /// The consumers by name.
    pub consumers: BTreeMap<String, ConsumerCheckpoint>,
    /// Consumers of which only the name is readable.
    pub damaged: Vec<String>,
    /// Whether there were others recently, of which even the names are lost.
    pub is_lost: bool,
}

/// Stores the checkpoints of consumers, and their dead letters.
#[async_trait]
pub trait ConsumerStore: Send + Sync + 'static {
    /// Loads all consumers.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn load(&self) -> Result<StoredConsumers, OpsStoreError>;

    /// Saves a change, which is durable on return, even against power loss.
    ///
    /// # Errors
    /// The store cannot be written; the previous state is retained.
    async fn save(&self, consumer: &str, change: &ConsumerChange) -> Result<(), OpsStoreError>;

    /// Forgets a consumer with all its dead letters; durable on return.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn forget(&self, consumer: &str) -> Result<(), OpsStoreError>;

    /// Lists a consumer's dead letters in the log's order, those after `after`, at most `limit`.
    ///
    /// # Errors
    /// The store as a whole cannot be read; a single unreadable dead letter is listed as such.
    async fn list_dead_letters(
        &self,
        consumer: &str,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Vec<ListedDeadLetter>, OpsStoreError>;

    /// Counts a consumer's dead letters.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn count_dead_letters(&self, consumer: &str) -> Result<u64, OpsStoreError>;
}
