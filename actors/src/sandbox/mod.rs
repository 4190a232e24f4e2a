//! Trying out a plugin on what has happened: its hooks are asked about past writes in the log, and
//! their answers are compared with what was committed. Nothing is stored.
//!
//! Workers under trial connect to an endpoint of their own, with a broker of its own, so no client,
//! task or delivery ever reaches them. While they answer, they may ask the server something. Such
//! requests are looked up by [`Sandbox::read_position`]: the caller that they are given reads as of
//! the write that is being replayed, and writes nothing.
//!
//! The log has what was committed, not what was sent. A field that the plugin's hooks changed at
//! the time may have been sent with any value. So such a write is tried twice ([`rehearse`]): as if
//! these fields had not been sent, and as if they had been sent as they were stored. If the two
//! attempts end differently, one of them as it really happened, the report says that it depends.

mod gate;
mod page;
mod rehearse;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use crate::plugin::{PluginBroker, PluginGate};
use crate::record::env::RecordEnv;

pub use page::{Page, ReplayRequest};

/// Where plugins are tried out.
pub struct Sandbox {
    broker: PluginBroker,
    /// The gate to the broker's plugins.
    gate: Arc<dyn PluginGate>,
    env: RecordEnv,
    /// The writes that are being replayed, by the request that hooks are told of.
    running: Mutex<HashMap<Uuid, RehearsedWrite>>,
}

/// A write that is being replayed.
#[derive(Clone, Debug, Default)]
struct RehearsedWrite {
    /// Hooks read as of this position meanwhile.
    position: u64,
    /// The actions that hooks asked for and that were refused.
    refused: BTreeSet<String>,
}

/// What would become of a write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayOutcome {
    /// The same as then.
    Same,
    /// Another record would be stored.
    Changed,
    /// It would not be stored.
    Refused,
    /// One of the two, or the same as then: that depends on what was sent, which is not known.
    Depends,
    /// It would be stored as it was, but an after-hook fails.
    Failed,
}

/// A field that would be different; a side is `None` if the field has no value there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What was stored, in wire form.
    pub then: Option<Json>,
    /// What would be stored.
    pub now: Option<Json>,
}

/// A write that would not end as it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Its position in the log.
    pub position: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The record.
    #[serde(serialize_with = "as_text")]
    pub record: RecordId,
    /// The kind of its event.
    pub kind: &'static str,
    /// The request that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// How it would end.
    pub outcome: ReplayOutcome,
    /// The fields that would be different.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Difference>,
    /// The fields that would be different, too, but are ignored.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub ignored: BTreeSet<String>,
    /// The fields that may have been sent with another value.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unknown: BTreeSet<String>,
    /// What the hook said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Json>,
    /// The actions that it asked for and that a sandbox does not run.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub refused_calls: BTreeSet<String>,
}

/// How many writes ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// The same as then.
    pub same: u64,
    /// Another record would be stored.
    pub changed: u64,
    /// The write would not be stored.
    pub refused: u64,
    /// It depends.
    pub depends: u64,
    /// An after-hook fails.
    pub failed: u64,
    /// Writes that no hook saw: imports, logins, sign-ups that were taken back.
    pub unhooked: u64,
    /// Writes of which something was erased.
    pub erased: u64,
}

impl Tally {
    fn count(&mut self, ending: ReplayOutcome) {
        let number = match ending {
            ReplayOutcome::Same => &mut self.same,
            ReplayOutcome::Changed => &mut self.changed,
            ReplayOutcome::Refused => &mut self.refused,
            ReplayOutcome::Depends => &mut self.depends,
            ReplayOutcome::Failed => &mut self.failed,
        };
        *number += 1;
    }
}

impl Sandbox {
    /// Builds it. `gate` leads to the plugins of `broker`.
    pub fn new(broker: PluginBroker, gate: Arc<dyn PluginGate>, env: RecordEnv) -> Self {
        Self {
            broker,
            gate,
            env,
            running: Mutex::default(),
        }
    }

    /// Returns the position as of which a request is answered; `None` for a request that replays no
    /// write.
    pub fn read_position(&self, request: Uuid) -> Option<u64> {
        let running = self.running.lock();
        running.get(&request).map(|write| write.position)
    }

    /// Notes that a hook was refused an action.
    pub fn note_refusal(&self, request: Option<Uuid>, action: &str) {
        let mut running = self.running.lock();
        if let Some(write) = request.and_then(|request| running.get_mut(&request)) {
            write.refused.insert(action.to_owned());
        }
    }

    /// Finds the named plugin, or the only one. If a generation is given, that generation must be
    /// serving.
    async fn find(
        &self,
        name: Option<&str>,
        generation: Option<u64>,
    ) -> Result<Arc<str>, ApiError> {
        let points = self.gate.points();
        let mut there: Vec<&Arc<str>> = points.attended.iter().collect();
        there.sort();
        let found = match (name, there.as_slice()) {
            (Some(name), there) => there.iter().find(|it| ****it == *name).copied(),
            (None, [only]) => Some(*only),
            (None, []) => None,
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|name| &***name).collect();
                let message = format!("the sandbox has several plugins: {}", names.join(", "));
                return Err(ApiError::invalid_argument(message, &["plugin"]));
            }
        };
        let is_there = match (found, generation) {
            (Some(name), Some(expected)) => self.generation_of(name).await == Some(expected),
            (found, _) => found.is_some(),
        };
        found.filter(|_| is_there).cloned().ok_or_else(|| {
            let name = name.map_or_else(|| "no plugin".to_owned(), |it| format!("no plugin {it}"));
            let message = format!("{name} is connected to the sandbox");
            ApiError::new(Code::PluginUnavailable, message)
        })
    }

    async fn generation_of(&self, name: &str) -> Option<u64> {
        let state = self.broker.state().await?;
        let mut plugins = state.plugins.into_iter();
        plugins.find(|plugin| plugin.name == name)?.generation
    }
}

fn as_text<S: serde::Serializer>(id: &RecordId, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(id)
}
