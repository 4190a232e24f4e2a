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
use crate::event::{self, ChangeStamp, EventBody, EventKind, RecordPatch, RecordState};
use crate::field_access::FieldAccess;
use crate::id::UserId;
use crate::json;
use crate::subscription::SubscriptionKey;
use crate::time::Timestamp;
use crate::upcast::{self, UpcastError};

/// Returns the payload of a body as a JSON value, for people and exports. `user` is the commit's
/// user.
///
/// # Errors
/// An erased body has no payload.
pub fn payload_json(body: &EventBody, user: Option<&UserId>) -> Result<Json, CodecError> {
    let bytes = body.encode(user)?;
    json::from_slice(&bytes).map_err(|_| CodecError::Malformed("payload"))
}

/// The payload of an event.
pub(crate) trait Payload: Sized {
    /// Encodes the payload; `user` is the commit's user.
    fn encode(&self, user: Option<&UserId>) -> Result<Vec<u8>, CodecError>;

    /// Decodes a payload, upgrading older versions; `user` is the commit's user.
    fn decode(stored: &Stored<'_>, user: Option<&UserId>) -> Result<Self, CodecError>;
}

impl Payload for RecordState {
    fn encode(&self, user: Option<&UserId>) -> Result<Vec<u8>, CodecError> {
        to_json(&StoredState::new(self, user))
    }

    fn decode(stored: &Stored<'_>, user: Option<&UserId>) -> Result<Self, CodecError> {
        Ok(stored.parse::<StoredState<'_>>()?.into_state(user))
    }
}

impl Payload for RecordPatch {
    fn encode(&self, user: Option<&UserId>) -> Result<Vec<u8>, CodecError> {
        to_json(&StoredPatch::new(self, user))
    }

    fn decode(stored: &Stored<'_>, user: Option<&UserId>) -> Result<Self, CodecError> {
        Ok(stored.parse::<StoredPatch<'_>>()?.into_patch(user))
    }
}

impl Payload for ChangeStamp {
    fn encode(&self, user: Option<&UserId>) -> Result<Vec<u8>, CodecError> {
        to_json(&StoredTouch::new(self, user))
    }

    fn decode(stored: &Stored<'_>, user: Option<&UserId>) -> Result<Self, CodecError> {
        Ok(stored.parse::<StoredTouch<'_>>()?.into_touch(user))
    }
}

/// Payloads that are stored as they serialize.
macro_rules! plain {
    ($($payload:ty),* $(,)?) => {
        $(impl Payload for $payload {
            fn encode(&self, _: Option<&UserId>) -> Result<Vec<u8>, CodecError> {
                to_json(self)
            }

            fn decode(stored: &Stored<'_>, _: Option<&UserId>) -> Result<Self, CodecError> {
                stored.parse()
            }
        })*
    };
}

plain! {
    event::AccountLinked, event::AccountUnlinked, event::AssetState, event::AssetUpload,
    event::CreationRoles, event::DefaultAccess, event::DeviceState, event::Disabled,
    event::ErasureEnd, event::ErasureRequest, FieldAccess, event::FieldDeletion,
    event::FieldRename, event::Intervals, event::LogRestored, event::LoggedIn, event::NoDetails,
    event::PasswordRehashed, event::PasswordSet, event::Personal, event::PluginRegistration,
    event::RelationTarget, event::Retention, event::RoleFlags, event::SavedSubscription,
    SubscriptionKey, event::TaskClaim, event::TaskEnd, event::TaskSchedule, event::TypeExtension,
    event::UserPatch, event::UserState,
}

/// A payload as it was written.
pub(crate) struct Stored<'a> {
    pub(crate) kind: EventKind,
    pub(crate) version: u16,
    pub(crate) bytes: &'a [u8],
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
