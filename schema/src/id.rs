//! Identifiers: names and keys that are checked once, where they enter the server.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::code::{ApiError, Code};

/// Reads a string into its final place, without a copy in between.
struct ReadText;

impl Visitor<'_> for ReadText {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.into())
    }
}

/// Defines a cheap-to-clone string newtype that is transparent on the wire.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a string that the caller has already checked.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// Returns the string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(ReadText).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }
    };
}

text_id! {
    /// The name of a record type, for example `message`.
    TypeName
}
text_id! {
    /// The part of a record id after the first `/`; unique per type across all databases.
    RecordKey
}
text_id! {
    /// A user's id: the key of both the auth row and the `user` record.
    UserId
}
text_id! {
    /// A device's id, which the server assigns.
    DeviceId
}
text_id! {
    /// The name of a plugin.
    PluginName
}
text_id! {
    /// The name of a role.
    RoleName
}

text_id! {
    /// The name of a file: a relative path that never leads out of the store's folder.
    AssetName
}

impl TypeName {
    /// The type of user records.
    pub const USER: &str = "user";

    /// Returns whether the name belongs to the system (starts with `_`).
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('_')
    }

    /// Returns the type of user records, `user`.
    pub fn user() -> Self {
        Self::new(Self::USER)
    }

    /// Returns whether this is the type of user records.
    pub fn is_user(&self) -> bool {
        &*self.0 == Self::USER
    }
}

impl UserId {
    /// Returns `_god`, the user as whom a bare master key acts.
    pub fn god() -> Self {
        Self::new("_god")
    }
}

/// The maximum length of names and ids, in bytes. PostgreSQL cannot index three times as much.
pub const MAX_NAME_BYTES: usize = 1024;

/// Refuses a name or an id that is too long for some store.
///
/// # Errors
/// 108, which names `what` is too long.
pub fn check_length(what: &str, name: &str) -> Result<(), ApiError> {
    if name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let message = format!("{what} can have at most {MAX_NAME_BYTES} bytes");
    Err(ApiError::new(Code::InvalidArgument, message))
}

/// The full id of a record: `type/key`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The record type.
    pub record_type: TypeName,
    /// The key within the type.
    pub key: RecordKey,
}

impl RecordId {
    /// Builds an id from its parts.
    pub fn new(record_type: impl Into<TypeName>, key: impl Into<RecordKey>) -> Self {
        Self {
            record_type: record_type.into(),
            key: key.into(),
        }
    }

    /// Parses `type/key`, split at the first `/`; returns `None` when there is no `/`.
    ///
    /// Both parts may be empty here. An action that requires more refuses them with the error that
    /// it documents.
    pub fn parse(text: &str) -> Option<Self> {
        let (record_type, key) = text.split_once('/')?;
        Some(Self::new(record_type, key))
    }

    /// Returns the id of a user's record.
    pub fn user(id: &UserId) -> Self {
        Self::new(TypeName::user(), id.as_str())
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.record_type, self.key)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A scheduled task: a timer of a plugin. Written as `plugin/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The timer's name; can contain slashes.
    pub name: Arc<str>,
}

impl TaskId {
    /// Builds an id from its parts.
    pub fn new(plugin: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            plugin: plugin.into(),
            name: name.into(),
        }
    }

    /// Parses `plugin/name`, split at the first `/`; returns `None` when there is no `/`.
    pub fn parse(text: &str) -> Option<Self> {
        let (plugin, name) = text.split_once('/')?;
        Some(Self::new(plugin, name))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.plugin, self.name)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The database that contains a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Database {
    /// The shared database; record access lists apply.
    Public,
    /// The database of one user.
    Private(UserId),
}

impl Database {
    /// Returns the stored form: empty for public, else the user's id.
    pub fn as_stored(&self) -> &str {
        match self {
            Self::Public => "",
            Self::Private(user) => user.as_str(),
        }
    }

    /// Reads the stored form.
    pub fn from_stored(text: &str) -> Self {
        if text.is_empty() {
            Self::Public
        } else {
            Self::Private(UserId::new(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_contain_slashes() {
        let id = RecordId::parse("note/a/b").unwrap();
        assert_eq!(id.record_type.as_str(), "note");
        assert_eq!(id.key.as_str(), "a/b");
        assert_eq!(id.to_string(), "note/a/b");
    }

    #[test]
    fn an_id_without_slash_is_refused() {
        assert!(RecordId::parse("note").is_none());
    }
}
