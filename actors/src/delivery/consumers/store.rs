//! The port to where it is kept how far consumers are, and their dead letters.
//!
//! It is no projection of the log: nobody but the consumer knows what it has had. Making the
//! record store anew does not touch it.

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

/// What is kept of a consumer. Its fields' names are those of what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerCheckpoint {
    /// How far it is.
    pub cursor: Cursor,
    /// From where on each of its hooks is told, by trigger, type and name: one that was added later
    /// starts at what was the log's end then.
    #[serde(default)]
    pub since: BTreeMap<String, u64>,
    /// What has not been read yet for hooks that are not registered any more, by the same names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gone: BTreeMap<String, LogRange>,
    /// Whether nothing is delivered, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Up to here somebody has asked for it: none of it is too old.
    #[serde(default)]
    pub ordered: u64,
    /// Deliveries that were skipped by policy, ever.
    #[serde(default)]
    pub num_skipped: u64,
    /// What a consumer of the log is told; `None` for a plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogConsumerOptions>,
}

/// A range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// Behind this position.
    pub since: u64,
    /// Up to here.
    pub until: u64,
}

impl ConsumerCheckpoint {
    /// Returns what becomes of a consumer whose cursor is lost: nothing is delivered before somebody
    /// has said from where on.
    pub(super) fn lost(head: u64) -> Self {
        let reason = "its position was lost: rewind it to where it should go on, then resume";
        Self {
            cursor: Cursor::at(head),
            paused: Some(reason.to_owned()),
            ..Self::default()
        }
    }
}

/// What a consumer of the log is told, and how. Given when it is made, and never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConsumerOptions {
    /// Which events.
    #[serde(default)]
    pub filter: EventFilter,
    /// After so many attempts an event is a dead letter.
    pub max_attempts: u32,
    /// How long a worker may take for an event.
    pub timeout_ms: u64,
}

/// A delivery that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The event's place in the log.
    pub position: u64,
    /// The hook.
    pub hook: Arc<str>,
    /// The record.
    pub record: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt came to, as clients are told errors.
    #[serde(deserialize_with = "json::value")]
    pub error: Json,
    /// When it was given up.
    pub at: Timestamp,
}

impl DeadLetter {
    /// Returns its name among the consumer's.
    pub fn id(&self) -> DeadLetterId {
        (self.position, Arc::clone(&self.hook))
    }
}

/// Names a dead letter of a consumer.
pub type DeadLetterId = (u64, Arc<str>);

/// A dead letter as it is found. One that is damaged can be delivered again or be forgotten like
/// any other: that takes its name only.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedDeadLetter {
    /// Its name.
    pub id: DeadLetterId,
    /// What it says, or why that cannot be read.
    pub letter: Result<DeadLetter, String>,
}

/// A change of what is kept of a consumer: all of it or nothing.
#[derive(Clone, Debug, Default)]
pub struct ConsumerChange {
    /// What is kept from now on.
    pub checkpoint: ConsumerCheckpoint,
    /// Dead letters to be forgotten.
    pub forgotten: Vec<DeadLetterId>,
    /// Dead letters to be kept; one of the name of a forgotten one is newer.
    pub dead: Vec<DeadLetter>,
}

/// Everything that was kept.
#[derive(Clone, Debug, Default)]
pub struct StoredConsumers {
    /// The consumers by name.
    pub consumers: BTreeMap<String, ConsumerCheckpoint>,
    /// Those of whom nothing but the name is readable.
    pub damaged: Vec<String>,
    /// Whether there were others lately, whose very names are lost.
    pub is_lost: bool,
}

/// Keeps how far consumers are, and their dead letters.
#[async_trait]
pub trait ConsumerStore: Send + Sync + 'static {
    /// Loads all consumers.
    ///
    /// # Errors
    /// It is not readable.
    async fn load(&self) -> Result<StoredConsumers, OpsStoreError>;

    /// Keeps a change; durable when it answers, also against power loss.
    ///
    /// # Errors
    /// It is not writable; what was kept before is kept still.
    async fn save(&self, consumer: &str, change: &ConsumerChange) -> Result<(), OpsStoreError>;

    /// Forgets a consumer with all its dead letters; durable when it answers.
    ///
    /// # Errors
    /// It is not writable.
    async fn forget(&self, consumer: &str) -> Result<(), OpsStoreError>;

    /// Lists a consumer's dead letters in the log's order, those behind `after`, at most `limit`.
    ///
    /// # Errors
    /// It is not readable as a whole; a single dead letter that is not is listed as such.
    async fn list_dead_letters(
        &self,
        consumer: &str,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Vec<ListedDeadLetter>, OpsStoreError>;

    /// Counts a consumer's dead letters.
    ///
    /// # Errors
    /// It is not readable.
    async fn count_dead_letters(&self, consumer: &str) -> Result<u64, OpsStoreError>;
}
