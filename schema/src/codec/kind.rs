//! Event bodies as a kind, a schema version and a JSON payload.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CodecError;
use crate::event::EventBody;
use crate::upcast::{self, UpcastError};

/// Defines the kinds once: number, name, current schema version, variant.
macro_rules! kinds {
    ($($number:literal $name:literal @$version:literal => $variant:ident;)*) => {
        /// Returns kind, schema version and payload of a body.
        pub(super) fn encode_body(body: &EventBody) -> Result<(u8, u16, Vec<u8>), CodecError> {
            match body {
                $(EventBody::$variant(payload) => Ok(($number, $version, to_json(payload)?)),)*
            }
        }

        /// Reads a body, bringing older versions up to date.
        ///
        /// # Errors
        /// A kind or version of a newer program, or a payload that does not parse.
        pub fn decode_body(kind: u8, version: u16, payload: &[u8]) -> Result<EventBody, CodecError> {
            match kind {
                $($number => Ok(EventBody::$variant(from_json(kind, version, $version, payload)?)),)*
                _ => Err(CodecError::UnknownEvent { kind, version }),
            }
        }

        /// Returns the name of an event's kind, for people and exports.
        pub fn kind_name(body: &EventBody) -> &'static str {
            match body {
                $(EventBody::$variant(_) => $name,)*
            }
        }
    };
}

kinds! {
    1 "record.created" @1 => RecordCreated;
    2 "record.changed" @1 => RecordChanged;
    3 "record.replaced" @1 => RecordReplaced;
    4 "record.deleted" @1 => RecordDeleted;
    10 "type.extended" @1 => TypeExtended;
    11 "type.default_access_set" @1 => TypeDefaultAccessSet;
    12 "type.creation_roles_set" @1 => TypeCreationRolesSet;
    20 "user.created" @1 => UserCreated;
    21 "user.changed" @1 => UserChanged;
    30 "role.defined" @1 => RoleDefined;
    40 "relation.added" @1 => RelationAdded;
    41 "relation.removed" @1 => RelationRemoved;
}

fn to_json<T: Serialize>(payload: &T) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(payload).map_err(|_| CodecError::Malformed("payload"))
}

fn from_json<T: DeserializeOwned>(
    kind: u8,
    version: u16,
    current: u16,
    payload: &[u8],
) -> Result<T, CodecError> {
    if version == current {
        return serde_json::from_slice(payload).map_err(|_| CodecError::Malformed("payload"));
    }
    let json = serde_json::from_slice(payload).map_err(|_| CodecError::Malformed("payload"))?;
    let json = upcast::to_current(kind, version, current, json)
        .map_err(|UpcastError| CodecError::UnknownEvent { kind, version })?;
    serde_json::from_value(json).map_err(|_| CodecError::Malformed("payload"))
}
