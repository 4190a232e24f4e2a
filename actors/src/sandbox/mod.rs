//! Trying a plugin on what happened: its hooks are asked about writes of the log, their answers are
//! held against what was committed, and nothing is stored.
//!
//! Workers that are to be tried connect to a door of their own, to a broker of their own, so no
//! client, task or delivery ever reaches them. What they ask the server while they answer is looked
//! up by [`Sandbox::read_position`]: the caller that they are given reads as of the write that is gone
//! through, and writes nothing.
//!
//! The log has what was committed, not what was sent. Fields that the plugin's hooks changed then
//! may have come with any value. So such a write is tried twice ([`rehearse`]): as if these fields
//! had not been sent, and as if they had been sent as they were stored. If the two end differently,
//! one of them as it happened, the report says that it depends.

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

pub use page::{Asked, Page};

/// Where plugins are tried.
pub struct Sandbox {
    broker: PluginBroker,
    /// The way to the broker's plugins.
    gate: Arc<dyn PluginGate>,
    env: RecordEnv,
    /// The writes that are gone through just now, by the request that hooks are told of.
    running: Mutex<HashMap<Uuid, RehearsedWrite>>,
}

/// A write that is gone through.
#[derive(Clone, Debug, Default)]
struct RehearsedWrite {
    /// What hooks read meanwhile is as of this position.
    position: u64,
    /// The actions that they asked for and did not get.
    refused: BTreeSet<String>,
}

/// How a write would go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// As it went.
    Same,
    /// Another record would be stored.
    Changed,
    /// It would not be stored.
    Refused,
    /// One of the two, or as it went: that depends on what was sent, which is not known.
    Depends,
    /// It would be stored as it was, and an after-hook fails.
    Failed,
}

/// A field that would be different; none where it has no value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What was stored, in wire form.
    pub then: Option<Json>,
    /// What would be.
    pub now: Option<Json>,
}

/// A write that would not go as it went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Where it stands in the log.
    pub position: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The record.
    #[serde(serialize_with = "as_text")]
    pub record: RecordId,
    /// The kind of its event.
    pub kind: &'static str,
    /// The request that it came of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// How it would go.
    pub outcome: Ending,
    /// The fields that would be different.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Difference>,
    /// Those that would be, too, and do not count.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub ignored: BTreeSet<String>,
    /// The fields of which it is not known with what value they were sent.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unknown: BTreeSet<String>,
    /// What the hook said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Json>,
    /// The actions that it asked for and that a sandbox does not run.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub refused_calls: BTreeSet<String>,
}

/// How many writes went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// As it went.
    pub same: u64,
    /// Another record.
    pub changed: u64,
    /// Not stored.
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
    fn count(&mut self, ending: Ending) {
        let number = match ending {
            Ending::Same => &mut self.same,
            Ending::Changed => &mut self.changed,
            Ending::Refused => &mut self.refused,
            Ending::Depends => &mut self.depends,
            Ending::Failed => &mut self.failed,
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

    /// Returns the position as of which what belongs to a request is answered; `None` for one that
    /// goes through no write.
    pub fn read_position(&self, request: Uuid) -> Option<u64> {
        let running = self.running.lock();
        running.get(&request).map(|write| write.position)
    }

    /// Notes that a hook did not get an action.
    pub fn note_refusal(&self, request: Option<Uuid>, action: &str) {
        let mut running = self.running.lock();
        if let Some(write) = request.and_then(|request| running.get_mut(&request)) {
            write.refused.insert(action.to_owned());
        }
    }

    /// Finds the plugin that is meant, or the only one; with a generation, only when that serves.
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
            (Some(name), Some(wanted)) => self.generation_of(name).await == Some(wanted),
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
