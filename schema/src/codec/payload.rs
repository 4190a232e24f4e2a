//! Event bodies as JSON payloads.
//!
//! A record's payload names a user only when that is not the user who made the commit. If `by` or
//! `owner` is absent, it is the commit's user; `null` is nobody. That saves two ids in nearly every
//! event.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;

use super::CodecError;
use crate::acl::Acl;
use crate::event::{ChangeStamp, EventBody, EventKind, RecordPatch, RecordState};
use crate::id::UserId;
use crate::json;
use crate::time::Timestamp;
use crate::upcast::{self, UpcastError};

/// Returns the payload of a body as a JSON value, for people and exports. `user` is the commit's
/// user.
///
/// # Errors
/// An erased body has no payload.
pub fn payload_json(body: &EventBody, user: Option<&UserId>) -> Result<Json, CodecError> {
    let bytes = encode(body, user)?;
    json::from_slice(&bytes).map_err(|_| CodecError::Malformed("payload"))
}

/// Encodes a body; `user` is the commit's user.
pub(super) fn encode(body: &EventBody, user: Option<&UserId>) -> Result<Vec<u8>, CodecError> {
    match body {
        EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
            to_json(&StoredState::new(state, user))
        }
        EventBody::RecordChanged(patch) => to_json(&StoredPatch::new(patch, user)),
        EventBody::RecordDeleted(touch) => to_json(&StoredTouch::new(touch, user)),
        EventBody::TypeExtended(body) => to_json(body),
        EventBody::TypeDefaultAccessSet(body) => to_json(body),
        EventBody::TypeCreationRolesSet(body) => to_json(body),
        EventBody::TypeFieldRenamed(body) => to_json(body),
        EventBody::TypeFieldDeleted(body) => to_json(body),
        EventBody::TypeIntervalsSet(body) => to_json(body),
        EventBody::TypeRetentionSet(body) => to_json(body),
        EventBody::TypePersonalSet(body) => to_json(body),
        EventBody::UserCreated(body) => to_json(body),
        EventBody::UserChanged(body) => to_json(body),
        EventBody::UserPasswordSet(body) => to_json(body),
        EventBody::UserPasswordRehashed(body) => to_json(body),
        EventBody::UserDisabled(body) => to_json(body),
        EventBody::UserEnabled(body) | EventBody::UserRemoved(body) => to_json(body),
        EventBody::AccountLinked(body) => to_json(body),
        EventBody::AccountUnlinked(body) => to_json(body),
        EventBody::RoleDefined(body) => to_json(body),
        EventBody::RelationAdded(body) | EventBody::RelationRemoved(body) => to_json(body),
        EventBody::FieldAccessSet(body) => to_json(body),
        EventBody::AssetRegistered(body) => to_json(body),
        EventBody::AssetUploaded(body) => to_json(body),
        EventBody::DeviceRegistered(body) => to_json(body),
        EventBody::DeviceUnregistered(touch) | EventBody::DeviceDeleted(touch) => {
            to_json(&StoredTouch::new(touch, user))
        }
        EventBody::SubscriptionSaved(body) => to_json(body),
        EventBody::SubscriptionDeleted(body) => to_json(body),
        EventBody::TaskScheduled(body) => to_json(body),
        EventBody::TaskClaimed(body) => to_json(body),
        EventBody::TaskEnded(body) => to_json(body),
        EventBody::UserLoggedIn(body) => to_json(body),
        EventBody::UserLoggedOut(body) => to_json(body),
        EventBody::PluginRegistered(body) => to_json(body),
        EventBody::TaskPaused(body)
        | EventBody::TaskResumed(body)
        | EventBody::TaskDropped(body) => to_json(body),
        EventBody::ErasureRequested(body) => to_json(body),
        EventBody::ErasureFinished(body) => to_json(body),
        EventBody::LogRestored(body) => to_json(body),
        EventBody::Erased(_) => Err(CodecError::Malformed("payload")),
    }
}

/// Decodes a body, upgrading older versions.
pub(super) fn decode(
    kind: EventKind,
    version: u16,
    bytes: &[u8],
    user: Option<&UserId>,
) -> Result<EventBody, CodecError> {
    let stored = Stored {
        kind,
        version,
        bytes,
    };
    Ok(match kind {
        EventKind::RecordCreated => EventBody::RecordCreated(stored.state(user)?),
        EventKind::RecordReplaced => EventBody::RecordReplaced(stored.state(user)?),
        EventKind::RecordChanged => {
            EventBody::RecordChanged(stored.parse::<StoredPatch<'_>>()?.into_patch(user))
        }
        EventKind::RecordDeleted => EventBody::RecordDeleted(stored.touch(user)?),
        EventKind::TypeExtended => EventBody::TypeExtended(stored.parse()?),
        EventKind::TypeDefaultAccessSet => EventBody::TypeDefaultAccessSet(stored.parse()?),
        EventKind::TypeCreationRolesSet => EventBody::TypeCreationRolesSet(stored.parse()?),
        EventKind::TypeFieldRenamed => EventBody::TypeFieldRenamed(stored.parse()?),
        EventKind::TypeFieldDeleted => EventBody::TypeFieldDeleted(stored.parse()?),
        EventKind::TypeIntervalsSet => EventBody::TypeIntervalsSet(stored.parse()?),
        EventKind::TypeRetentionSet => EventBody::TypeRetentionSet(stored.parse()?),
        EventKind::TypePersonalSet => EventBody::TypePersonalSet(stored.parse()?),
        EventKind::UserCreated => EventBody::UserCreated(stored.parse()?),
        EventKind::UserChanged => EventBody::UserChanged(stored.parse()?),
        EventKind::UserPasswordSet => EventBody::UserPasswordSet(stored.parse()?),
        EventKind::UserPasswordRehashed => EventBody::UserPasswordRehashed(stored.parse()?),
        EventKind::UserDisabled => EventBody::UserDisabled(stored.parse()?),
        EventKind::UserEnabled => EventBody::UserEnabled(stored.parse()?),
        EventKind::UserRemoved => EventBody::UserRemoved(stored.parse()?),
        EventKind::AccountLinked => EventBody::AccountLinked(stored.parse()?),
        EventKind::AccountUnlinked => EventBody::AccountUnlinked(stored.parse()?),
        EventKind::RoleDefined => EventBody::RoleDefined(stored.parse()?),
        EventKind::RelationAdded => EventBody::RelationAdded(stored.parse()?),
        EventKind::RelationRemoved => EventBody::RelationRemoved(stored.parse()?),
        EventKind::FieldAccessSet => EventBody::FieldAccessSet(stored.parse()?),
        EventKind::AssetRegistered => EventBody::AssetRegistered(stored.parse()?),
        EventKind::AssetUploaded => EventBody::AssetUploaded(stored.parse()?),
        EventKind::DeviceRegistered => EventBody::DeviceRegistered(stored.parse()?),
        EventKind::DeviceUnregistered => EventBody::DeviceUnregistered(stored.touch(user)?),
        EventKind::DeviceDeleted => EventBody::DeviceDeleted(stored.touch(user)?),
        EventKind::SubscriptionSaved => EventBody::SubscriptionSaved(stored.parse()?),
        EventKind::SubscriptionDeleted => EventBody::SubscriptionDeleted(stored.parse()?),
        EventKind::TaskScheduled => EventBody::TaskScheduled(stored.parse()?),
        EventKind::TaskClaimed => EventBody::TaskClaimed(stored.parse()?),
        EventKind::TaskEnded => EventBody::TaskEnded(stored.parse()?),
        EventKind::UserLoggedIn => EventBody::UserLoggedIn(stored.parse()?),
        EventKind::UserLoggedOut => EventBody::UserLoggedOut(stored.parse()?),
        EventKind::PluginRegistered => EventBody::PluginRegistered(stored.parse()?),
        EventKind::TaskPaused => EventBody::TaskPaused(stored.parse()?),
        EventKind::TaskResumed => EventBody::TaskResumed(stored.parse()?),
        EventKind::TaskDropped => EventBody::TaskDropped(stored.parse()?),
        EventKind::ErasureRequested => EventBody::ErasureRequested(stored.parse()?),
        EventKind::ErasureFinished => EventBody::ErasureFinished(stored.parse()?),
        EventKind::LogRestored => EventBody::LogRestored(stored.parse()?),
    })
}

/// A payload as it was written.
struct Stored<'a> {
    kind: EventKind,
    version: u16,
    bytes: &'a [u8],
}

impl Stored<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        let malformed = |_| CodecError::Malformed("payload");
        let current = self.kind.schema_version();
        if self.version == current {
            return serde_json::from_slice(self.bytes).map_err(malformed);
        }
        let json = json::from_slice(self.bytes).map_err(malformed)?;
        let json = upcast::to_current(self.kind, self.version, current, json);
        let kind = self.kind.number();
        let json = json.map_err(|error| match error {
            UpcastError::Newer => CodecError::UnknownEvent {
                kind,
                version: self.version,
            },
            UpcastError::NoStep(version) => CodecError::NoStep { kind, version },
        })?;
        serde_json::from_value(json).map_err(malformed)
    }

    fn touch(&self, user: Option<&UserId>) -> Result<ChangeStamp, CodecError> {
        Ok(self.parse::<StoredTouch<'_>>()?.into_touch(user))
    }

    fn state(&self, user: Option<&UserId>) -> Result<RecordState, CodecError> {
        Ok(self.parse::<StoredState<'_>>()?.into_state(user))
    }
}

fn to_json<T: Serialize>(payload: &T) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(payload).map_err(|_| CodecError::Malformed("payload"))
}

/// A user that is not the commit's. An absent member means the commit's user, `null` means nobody.
type OtherUser<'a> = Option<Option<Cow<'a, UserId>>>;

fn other_user<'a>(user: Option<&'a UserId>, of_commit: Option<&UserId>) -> OtherUser<'a> {
    (user != of_commit).then(|| user.map(Cow::Borrowed))
}

fn user_again(stored: OtherUser<'_>, of_commit: Option<&UserId>) -> Option<UserId> {
    match stored {
        None => of_commit.cloned(),
        Some(other) => other.map(Cow::into_owned),
    }
}

/// Distinguishes `null` from an absent member.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<OtherUser<'static>, D::Error> {
    Ok(Some(Option::<UserId>::deserialize(from)?.map(Cow::Owned)))
}

/// A [`ChangeStamp`] as stored.
#[derive(Serialize, Deserialize)]
struct StoredTouch<'a> {
    at: i64,
    #[serde(
        default,
        deserialize_with = "some",
        skip_serializing_if = "Option::is_none"
    )]
    by: OtherUser<'a>,
}

impl<'a> StoredTouch<'a> {
    fn new(touch: &'a ChangeStamp, user: Option<&UserId>) -> Self {
        Self {
            at: touch.at.micros(),
            by: other_user(touch.by.as_ref(), user),
        }
    }

    fn into_touch(self, user: Option<&UserId>) -> ChangeStamp {
        ChangeStamp {
            at: Timestamp::from_micros(self.at),
            by: user_again(self.by, user),
        }
    }
}

/// A [`RecordState`] as stored; members are in alphabetical order.
#[derive(Serialize, Deserialize)]
struct StoredState<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<Cow<'a, Acl>>,
    at: i64,
    #[serde(
        default,
        deserialize_with = "some",
        skip_serializing_if = "Option::is_none"
    )]
    by: OtherUser<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<StoredTouch<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    database: Option<Cow<'a, UserId>>,
    #[serde(
        default,
        deserialize_with = "fields",
        skip_serializing_if = "no_fields"
    )]
    fields: Cow<'a, BTreeMap<String, Json>>,
    #[serde(
        default,
        deserialize_with = "some",
        skip_serializing_if = "Option::is_none"
    )]
    owner: OtherUser<'a>,
}

fn fields<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Cow<'static, BTreeMap<String, Json>>, D::Error> {
    json::members(from).map(Cow::Owned)
}

fn no_fields(fields: &BTreeMap<String, Json>) -> bool {
    fields.is_empty()
}

impl<'a> StoredState<'a> {
    fn new(state: &'a RecordState, user: Option<&UserId>) -> Self {
        let created = state.created.as_ref();
        Self {
            access: state.access.as_ref().map(Cow::Borrowed),
            at: state.updated.at.micros(),
            by: other_user(state.updated.by.as_ref(), user),
            created: created.map(|touch| StoredTouch::new(touch, user)),
            database: state.database.as_ref().map(Cow::Borrowed),
            fields: Cow::Borrowed(&state.fields),
            owner: other_user(state.owner.as_ref(), user),
        }
    }

    fn into_state(self, user: Option<&UserId>) -> RecordState {
        RecordState {
            database: self.database.map(Cow::into_owned),
            owner: user_again(self.owner, user),
            access: self.access.map(Cow::into_owned),
            created: self.created.map(|touch| touch.into_touch(user)),
            updated: ChangeStamp {
                at: Timestamp::from_micros(self.at),
                by: user_again(self.by, user),
            },
            fields: self.fields.into_owned(),
        }
    }
}

/// A [`RecordPatch`] as stored; members are in alphabetical order.
#[derive(Serialize, Deserialize)]
struct StoredPatch<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<Cow<'a, Acl>>,
    at: i64,
    #[serde(
        default,
        deserialize_with = "some",
        skip_serializing_if = "Option::is_none"
    )]
    by: OtherUser<'a>,
    #[serde(
        default,
        deserialize_with = "fields",
        skip_serializing_if = "no_fields"
    )]
    set: Cow<'a, BTreeMap<String, Json>>,
    #[serde(default, skip_serializing_if = "no_names")]
    unset: Cow<'a, BTreeSet<String>>,
}

fn no_names(names: &BTreeSet<String>) -> bool {
    names.is_empty()
}

impl<'a> StoredPatch<'a> {
    fn new(patch: &'a RecordPatch, user: Option<&UserId>) -> Self {
        Self {
            access: patch.access.as_ref().map(Cow::Borrowed),
            at: patch.updated.at.micros(),
            by: other_user(patch.updated.by.as_ref(), user),
            set: Cow::Borrowed(&patch.set),
            unset: Cow::Borrowed(&patch.unset),
        }
    }

    fn into_patch(self, user: Option<&UserId>) -> RecordPatch {
        RecordPatch {
            set: self.set.into_owned(),
            unset: self.unset.into_owned(),
            access: self.access.map(Cow::into_owned),
            updated: ChangeStamp {
                at: Timestamp::from_micros(self.at),
                by: user_again(self.by, user),
            },
        }
    }
}
