//! Commits: the unit in which events become durable.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{EventBody, Stream};
use crate::caller::{KeyKind, Rights};
use crate::id::UserId;
use crate::time::Timestamp;

/// A hook that took part in an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The plugin's name.
    pub plugin: String,
    /// The hook's name.
    pub hook: String,
    /// The fields that it changed.
    pub changed: BTreeSet<String>,
}

/// The way a commit entered the server.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A client's request.
    #[default]
    Api,
    /// A plugin's call back into the server.
    Plugin,
    /// The server itself: installation, housekeeping.
    System,
    /// The command line.
    Cli,
    /// Users imported from another server; hooks are not told.
    Import,
    /// SQL that another program ran in the record store's database; hooks are not told.
    Sql,
}

/// Who caused a commit, and in the course of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// The key that was presented.
    pub key: KeyKind,
    /// Whose rights it was done with.
    #[serde(default, skip_serializing_if = "Rights::are_of_key")]
    pub rights: Rights,
    /// The way it entered the server.
    pub origin: Origin,
    /// The plugin that called, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// What the plugin was answering when it called, if it was asked something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf: Option<Box<OnBehalf>>,
}

impl Actor {
    /// Returns whether this user did it, directly or by having a plugin do it.
    pub fn acts_for(&self, user: &UserId) -> bool {
        let on_behalf = self.on_behalf.as_ref().and_then(|it| it.user.as_ref());
        self.user.as_ref() == Some(user) || on_behalf == Some(user)
    }
}

/// Whose request a plugin was answering, and what it was asked. If plugins called other plugins,
/// this is what started the whole chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnBehalf {
    /// The user, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// The extension point, for example `lambda chat/room:open`.
    pub point: String,
}

/// The SQL transaction that a commit was captured from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlSource {
    /// The database role that ran it.
    pub role: String,
    /// The transaction's number in the database.
    pub transaction: u64,
    /// When its last statement began.
    pub at: Timestamp,
    /// The mark of the last of its rows that the commit contains. Unlike row numbers, marks are
    /// never reused. In old commits it is the mark of the whole outbox, which its rows have kept.
    pub outbox: Uuid,
    /// The number of that row in the outbox. A program that reads the outbox again sees that the
    /// row was already read.
    pub until: u64,
}

/// An event that was decided but is not committed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The stream it belongs to.
    pub stream: Stream,
    /// Its version in the stream, from 1 without gaps.
    pub version: u32,
    /// What happened.
    pub body: EventBody,
    /// Hooks that changed it.
    pub provenance: Vec<Provenance>,
    /// The owner of a record of a personal type: the payload is sealed with that user's key. Events
    /// that are about a user by their stream need no subject here.
    pub subject: Option<UserId>,
}

/// What a decision wants to append: all of it or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCommit {
    /// A UUIDv7; event ids are derived from it.
    pub id: Uuid,
    /// Who caused it.
    pub actor: Actor,
    /// The request that caused it; also in the answer's `X-Skygear-Request-Id`.
    pub request_id: Option<Uuid>,
    /// The commit that a hook was answering when it caused this one.
    pub causation: Option<Uuid>,
    /// The SQL transaction that it was captured from.
    pub sql: Option<Box<SqlSource>>,
    /// The events, in order; at least one.
    pub events: Vec<NewEvent>,
}

/// A committed event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its position in the log, from 1 without gaps.
    pub position: u64,
    /// The stream it belongs to.
    pub stream: Stream,
    /// Its version in the stream.
    pub version: u32,
    /// What happened.
    pub body: EventBody,
    /// Hooks that changed it.
    pub provenance: Vec<Provenance>,
    /// BLAKE3 over salt and stored payload bytes.
    pub payload_hash: [u8; 32],
}

/// A commit as it is in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// A UUIDv7.
    pub id: Uuid,
    /// The time of the commit; it never decreases along the log.
    pub time: Timestamp,
    /// The epoch of the writer that wrote it; it grows when another writer takes over.
    pub epoch: u32,
    /// Who caused it.
    pub actor: Actor,
    /// The request that caused it.
    pub request_id: Option<Uuid>,
    /// The commit that caused this one.
    pub causation: Option<Uuid>,
    /// The SQL transaction that it was captured from.
    pub sql: Option<Box<SqlSource>>,
    /// The events; never empty.
    pub events: Vec<Event>,
    /// BLAKE3 over the previous commit's chain hash, this commit's header fields and payload hashes.
    pub chain: [u8; 32],
}

impl Commit {
    /// Returns the position of the first event.
    pub fn first_position(&self) -> u64 {
        self.events.first().map_or(0, |event| event.position)
    }

    /// Returns the id of the event at a position. Unlike the position, it is never another event's,
    /// even in a log that was restored to an earlier state and continued.
    pub fn event_id(&self, position: u64) -> String {
        let index = position.saturating_sub(self.first_position());
        format!("{}.{index}", self.id)
    }

    /// Returns the position of the last event.
    pub fn last_position(&self) -> u64 {
        self.events.last().map_or(0, |event| event.position)
    }
}
