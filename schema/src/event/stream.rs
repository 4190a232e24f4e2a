//! The things whose histories the log contains.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::id::{AssetName, DeviceId, PluginName, RecordId, RoleName, TaskId, TypeName, UserId};
use crate::predicate::Relation;

const FIELD_ACCESS: &str = "field_access";

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
    /// The app's field access rules.
    FieldAccess,
    /// One file.
    Asset(AssetName),
    /// One device.
    Device(DeviceId),
    /// What one device subscribes to.
    Subscriptions(DeviceId),
    /// One scheduled task.
    Task(TaskId),
    /// One erasure, by its own id.
    Erasure(Uuid),
    /// One plugin.
    Plugin(PluginName),
    /// One restore of the log from a backup, by its own id.
    Restore(Uuid),
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(id) => write!(f, "record/{id}"),
            Self::Type(name) => write!(f, "type/{name}"),
            Self::User(id) => write!(f, "user/{id}"),
            Self::Role(name) => write!(f, "role/{name}"),
            Self::Relation(relation, user) => write!(f, "{}/{user}", relation.name()),
            Self::FieldAccess => f.write_str(FIELD_ACCESS),
            Self::Asset(name) => write!(f, "asset/{name}"),
            Self::Device(id) => write!(f, "device/{id}"),
            Self::Subscriptions(id) => write!(f, "subscriptions/{id}"),
            Self::Task(id) => write!(f, "task/{id}"),
            Self::Erasure(id) => write!(f, "erasure/{id}"),
            Self::Plugin(name) => write!(f, "plugin/{name}"),
            Self::Restore(id) => write!(f, "restore/{id}"),
        }
    }
}

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no such stream"))
    }
}

impl Stream {
    /// Returns the record type of the stream, if it belongs to one.
    pub fn record_type(&self) -> Option<&TypeName> {
        match self {
            Self::Record(id) => Some(&id.record_type),
            Self::Type(name) => Some(name),
            _ => None,
        }
    }

    /// Parses what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text == FIELD_ACCESS {
            return Some(Self::FieldAccess);
        }
        let (kind, rest) = text.split_once('/')?;
        Some(match kind {
            "record" => Self::Record(RecordId::parse(rest)?),
            "type" => Self::Type(rest.into()),
            "user" => Self::User(rest.into()),
            "role" => Self::Role(rest.into()),
            "asset" => Self::Asset(rest.into()),
            "device" => Self::Device(rest.into()),
            "subscriptions" => Self::Subscriptions(rest.into()),
            "task" => Self::Task(TaskId::parse(rest)?),
            "erasure" => Self::Erasure(Uuid::try_parse(rest).ok()?),
            "plugin" => Self::Plugin(rest.into()),
            "restore" => Self::Restore(Uuid::try_parse(rest).ok()?),
            _ => Self::Relation(Relation::from_name(kind)?, rest.into()),
        })
    }
}

impl Relation {
    /// Returns the relation's name, used as stream prefix and table suffix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Friend => "friend",
            Self::Follow => "follow",
        }
    }

    /// Returns the relation with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "friend" => Some(Self::Friend),
            "follow" => Some(Self::Follow),
            _ => None,
        }
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
            "field_access",
            "asset/folder/a.png",
            "device/d1",
            "subscriptions/d1",
            "task/chat/mod.tick",
            "erasure/67e55044-10b1-426f-9247-bb680e5fe0c8",
            "plugin/chat",
            "restore/67e55044-10b1-426f-9247-bb680e5fe0c8",
        ];
        for text in streams {
            assert_eq!(Stream::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Stream::parse("other/x"), None);
    }
}
