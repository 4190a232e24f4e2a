//! Erasures: which payloads are to be erased from the log, who requested it and why, and what then
//! remains of an event.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Actor, EventKind, Stream};
use crate::id::{AssetName, RoleName, TypeName, UserId};
use crate::positions::Positions;
use crate::time::Timestamp;

/// A requested erasure.
///
/// The event records the intent: if the erasure is interrupted, it is finished at the next start. A
/// blank event in the log is valid only if one of these requests names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRequest {
    /// What was to be erased.
    pub scope: ErasureScope,
    /// Why, in the words of whoever requested it.
    pub why: String,
    /// The events whose payloads are erased.
    pub positions: Positions,
    /// The numbers of the keys that are destroyed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<u64>,
    /// The files that are deleted, because nothing else named them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<AssetName>,
    /// The last numbers that sequence fields had assigned, by type and field: the events that
    /// assigned them are blank afterwards.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<TypeName, BTreeMap<String, i64>>,
    /// Which records of the user are erased as well, by requests that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<OwnedRecords>,
    /// The roles of whoever requested that, who may lose them before it is done. Empty for the
    /// master key, and in events of earlier builds.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<RoleName>,
    /// The position of the user's erasure that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<u64>,
}

/// Which records are erased with their owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRecords {
    /// Whether all of them are, and not only those of personal types.
    pub all: bool,
    /// Whether files that nothing else names are removed with them.
    pub files: bool,
}

impl ErasureRequest {
    /// Requests to erase the payloads of events, and neither keys nor files.
    pub fn new(scope: ErasureScope, why: String, positions: Positions) -> Self {
        Self {
            scope,
            why,
            positions,
            keys: Vec::new(),
            files: Vec::new(),
            counters: BTreeMap::new(),
            records: None,
            roles: BTreeSet::new(),
            part_of: None,
        }
    }
}

/// What an erasure covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasureScope {
    /// Everything that a record ever contained.
    Record(Stream),
    /// One field of a record.
    Field {
        /// The record.
        record: Stream,
        /// The field.
        field: String,
    },
    /// A user: how they sign in, their user record, their devices and subscriptions.
    User(UserId),
    /// Versions of a type's records that are older than its retention keeps.
    Retention(Stream),
    /// The events at these positions, and nothing else.
    Events,
}

impl ErasureScope {
    /// Returns whether the erasure can concern records of one of the types that `is_wanted` names.
    pub fn concerns(&self, is_wanted: impl FnOnce(&TypeName) -> bool) -> bool {
        match self {
            Self::Record(stream) | Self::Field { record: stream, .. } | Self::Retention(stream) => {
                stream.record_type().is_none_or(is_wanted)
            }
            Self::User(_) | Self::Events => true,
        }
    }
}

/// An erasure was completed in everything that this server keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureEnd {
    /// The position of the request.
    pub request: u64,
    /// How many of an erased user's records could not be erased.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub num_refused: u64,
    /// The first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedRecord>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A record that could not be erased with its owner. Messages of hooks can repeat what a record
/// holds, so the log does not have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRecord {
    /// The record's stream.
    pub record: Stream,
    /// The code of the error.
    pub code: i64,
    /// The stream of a record that refers to it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referred_by: Option<Stream>,
}

/// What is left of an event whose payload was erased.
#[derive(Clone, Debug, PartialEq)]
pub struct Blank {
    /// The kind of the original event.
    pub kind: EventKind,
    /// The erasure that removed it; `None` if it was not looked up.
    pub by: Option<std::sync::Arc<ErasureMark>>,
}

/// An erasure as shown on the events that it erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErasureMark {
    /// The position of the request in the log.
    pub position: u64,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Actor,
    /// Why.
    pub why: String,
}
