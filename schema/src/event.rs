//! Events: what happened, to which stream, by whom; and commits, the unit in
//! which they become durable.
//!
//! A [`NewCommit`] is what a decision wants to append. The log's committer
//! turns it into a [`Commit`] by giving it a position, a time and a place in the
//! hash chain. Payloads are JSON (sorted keys), so that a log outlives this
//! program; `codec` has the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::acl::Acl;
use crate::caller::KeyKind;
use crate::id::{RecordId, RoleName, TypeName, UserId};
use crate::predicate::Relation;
use crate::time::Timestamp;
use crate::types::FieldType;

/// The thing whose history an event belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// One record.
    Record(RecordId),
    /// One record type: schema and settings.
    Type(TypeName),
    /// One user's auth row.
    User(UserId),
    /// One role.
    Role(RoleName),
    /// One user's outgoing relations of one kind.
    Relation(Relation, UserId),
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(id) => write!(f, "record/{id}"),
            Self::Type(name) => write!(f, "type/{name}"),
            Self::User(id) => write!(f, "user/{id}"),
            Self::Role(name) => write!(f, "role/{name}"),
            Self::Relation(relation, user) => write!(f, "{}/{user}", relation.name()),
        }
    }
}

impl Stream {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('/')?;
        Some(match kind {
            "record" => Self::Record(RecordId::parse(rest)?),
            "type" => Self::Type(rest.into()),
            "user" => Self::User(rest.into()),
            "role" => Self::Role(rest.into()),
            _ => Self::Relation(Relation::from_name(kind)?, rest.into()),
        })
    }
}

impl Relation {
    /// Returns the stream prefix and table suffix of the relation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Friend => "friend",
            Self::Follow => "follow",
        }
    }

    /// Finds a relation by name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "friend" => Some(Self::Friend),
            "follow" => Some(Self::Follow),
            _ => None,
        }
    }
}

/// What happened. Serialises to the payload; [`EventBody::kind`] is stored beside it.
#[derive(Clone, Debug, PartialEq)]
pub enum EventBody {
    /// A record came into being; carries its full state.
    RecordCreated(RecordState),
    /// Some fields changed.
    RecordChanged(RecordPatch),
    /// As `RecordChanged`, but carries the full state, so that reading the past folds
    /// at most [`SNAPSHOT_EVERY`] patches.
    RecordReplaced(RecordState),
    /// A record was deleted.
    RecordDeleted(Touch),
    /// A type came into being or got fields.
    TypeExtended(TypeExtension),
    /// The access list of records that bring none was set.
    TypeDefaultAccessSet(DefaultAccess),
    /// The roles that may create records were set.
    TypeCreationRolesSet(CreationRoles),
    /// A user's auth row came into being.
    UserCreated(UserState),
    /// Parts of a user's auth row changed.
    UserChanged(UserPatch),
    /// A role came into being or its flags changed.
    RoleDefined(RoleFlags),
    /// A relation to another user was made.
    RelationAdded(RelationTarget),
    /// A relation to another user was ended.
    RelationRemoved(RelationTarget),
}

/// Every this many versions a change is stored with the full state.
pub const SNAPSHOT_EVERY: u32 = 32;

/// The full state of a record, fields in wire form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordState {
    /// The private database's user; absent for public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<UserId>,
    /// The owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserId>,
    /// The access list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Acl>,
    /// When and by whom it was created, if that is not when it was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Touch>,
    /// When and by whom it was last changed.
    pub updated: Touch,
    /// The fields, in wire form; sequence fields hold their number.
    pub fields: BTreeMap<String, Json>,
}

/// What changed in a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordPatch {
    /// New values of fields, in wire form.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Json>,
    /// Fields that lost their value.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unset: BTreeSet<String>,
    /// The new access list, if it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Acl>,
    /// When and by whom.
    pub updated: Touch,
}

/// When and by whom something was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// When, in microseconds.
    #[serde(with = "micros")]
    pub at: Timestamp,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
}

/// A type's new fields and unique sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeExtension {
    /// Fields that are new.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, FieldType>,
    /// Sets of fields that are unique together from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unique: Vec<Vec<String>>,
}

/// See [`EventBody::TypeDefaultAccessSet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultAccess {
    /// The list; new records that bring none get it.
    pub access: Acl,
}

/// See [`EventBody::TypeCreationRolesSet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreationRoles {
    /// The roles; none means every signed-in user may create.
    pub roles: BTreeSet<RoleName>,
}

/// A user's auth row. The hash is a hash; passwords and tokens never come here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserState {
    /// Argon2id (or v1's bcrypt) hash; none for users who sign in otherwise or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// Principals at auth providers, `provider:principal` to the provider's data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provider_info: BTreeMap<String, Json>,
    /// Tokens issued before are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_valid_since: Option<Timestamp>,
    /// The last login or `me`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// Roles.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<RoleName>,
    /// Whether, why and until when the user is locked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

/// Why and until when a user is locked out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// For the user to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Until when; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Timestamp>,
}

/// What changed in a user's auth row; absent members stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserPatch {
    /// A new password hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// See [`UserState::token_valid_since`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_valid_since: Option<Timestamp>,
    /// See [`UserState::last_seen_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// Roles given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles_added: BTreeSet<RoleName>,
    /// Roles taken.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles_removed: BTreeSet<RoleName>,
}

/// A role's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFlags {
    /// Given to everyone who signs up.
    pub by_default: bool,
    /// Opens the administrators' actions; does not open records.
    pub is_admin: bool,
}

/// The other end of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationTarget {
    /// The other user.
    pub to: UserId,
}

/// A hook that had a say in an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The plugin's name.
    pub plugin: String,
    /// The hook's name.
    pub hook: String,
    /// The fields it changed.
    pub changed: BTreeSet<String>,
}

/// What a commit came through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
}

/// Who did it, and in the course of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// The key that was shown.
    pub key: KeyKind,
    /// Through what.
    pub origin: Origin,
    /// The plugin that called, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
}

/// An event that is decided but not committed.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The stream it belongs to.
    pub stream: Stream,
    /// Its version in the stream, dense from 1.
    pub version: u32,
    /// What happened.
    pub body: EventBody,
    /// Hooks that changed it.
    pub provenance: Vec<Provenance>,
}

/// What a decision wants to append: all of it or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCommit {
    /// UUIDv7; event ids derive from it.
    pub id: Uuid,
    /// Who did it.
    pub actor: Actor,
    /// The request it came from; also in the answer's `X-Skygear-Request-Id`.
    pub request_id: Option<Uuid>,
    /// The commit that a hook was answering when it caused this one.
    pub causation: Option<Uuid>,
    /// The events, in order; at least one.
    pub events: Vec<NewEvent>,
}

/// A committed event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the log, from 1 without gaps.
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
    /// UUIDv7.
    pub id: Uuid,
    /// When it was committed; never decreasing along the log.
    pub time: Timestamp,
    /// Which writer wrote it; grows when a writer takes over.
    pub epoch: u32,
    /// Who did it.
    pub actor: Actor,
    /// The request it came from.
    pub request_id: Option<Uuid>,
    /// The commit that caused this one.
    pub causation: Option<Uuid>,
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

    /// Returns the position of the last event.
    pub fn last_position(&self) -> u64 {
        self.events.last().map_or(0, |event| event.position)
    }
}

/// Serialises a timestamp as its microseconds: small and sortable.
mod micros {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::time::Timestamp;

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_i64(time.micros())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_names_come_back() {
        let streams = [
            "record/note/a/b",
            "type/note",
            "user/u1",
            "role/Admin",
            "follow/u1",
            "friend/u2",
        ];
        for text in streams {
            assert_eq!(Stream::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Stream::parse("other/x"), None);
    }
}
