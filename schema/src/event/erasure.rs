//! Erasures: that payloads are to be gone from the log, who wanted it and why; and what is left of
//! an event then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Actor, EventKind, Stream};
use crate::id::{AssetName, TypeName, UserId};
use crate::positions::Positions;
use crate::time::Timestamp;

/// An erasure that was asked for. It is the intent: whatever interrupts it, it is finished at the
/// next start, and a blank in the log is in order only if one of these names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRequest {
    /// What was to be erased.
    pub scope: ErasureScope,
    /// Why, in the words of whoever asked.
    pub why: String,
    /// The events whose payloads are gone.
    pub positions: Positions,
    /// The numbers of the keys that are destroyed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<u64>,
    /// The files that are gone: nothing else named them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<AssetName>,
    /// The last numbers that sequence fields had given, by type and field: who gave them is blank then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<TypeName, BTreeMap<String, i64>>,
}

/// What an erasure is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasureScope {
    /// Everything that a record ever was.
    Record(Stream),
    /// A field of a record.
    Field {
        /// The record.
        record: Stream,
        /// The field.
        field: String,
    },
    /// A user: how he signs in, his user record, his devices and what they subscribed to.
    User(UserId),
    /// What records of a type were before what is kept.
    Retention(Stream),
    /// The events at the positions, and nothing else.
    Events,
}

/// That an erasure has reached everything that this server keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureEnd {
    /// Where it was asked for.
    pub request: u64,
}

/// What is left of an event whose payload is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Blank {
    /// The kind that it was of.
    pub kind: EventKind,
    /// By which erasure; `None` where that was not looked up.
    pub by: Option<std::sync::Arc<ErasureMark>>,
}

/// An erasure as it is shown at the events that it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErasureMark {
    /// Where it was asked for in the log.
    pub position: u64,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Actor,
    /// Why.
    pub why: String,
}
