//! Access lists of records, and how they are evaluated.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::caller::Caller;
use crate::id::{RoleName, UserId};

/// The maximum number of entries in a list that a caller sends. A stored list is read as it is.
pub const MAX_ENTRIES: usize = 5000;

/// What an entry permits; writing includes reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Fetch and query.
    Read,
    /// Save and delete as well.
    Write,
}

/// One entry of an access list. It grants its level if any of the targets that it names matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEntry {
    /// A user relation. It is stored and returned, but never evaluated, as in v1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// Users who have this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// What is granted.
    pub level: Level,
    /// One user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Everyone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

/// A record's access list. No list at all (`Option::None`) means that everyone may read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acl(pub Vec<AccessEntry>);

/// Why an access list was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// Neither null nor an array.
    #[error("_access must be an array")]
    NotAnArray,
    /// An entry has no known level, or names no target.
    #[error("invalid _access entry: _access[{index}] {fault}")]
    BadEntry {
        /// The entry's place in the list, counted from 0.
        index: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Too many entries: every access check of the record would go through all of them.
    #[error("an access list has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
}

impl Acl {
    /// Parses the wire form. `null` becomes `None`.
    ///
    /// # Errors
    /// Not an array, an entry without a level or without a target, or more than [`MAX_ENTRIES`].
    pub fn from_wire(wire: &Json) -> Result<Option<Self>, AclError> {
        match wire {
            Json::Null => Ok(None),
            Json::Array(entries) if entries.len() > MAX_ENTRIES => Err(AclError::TooManyEntries),
            Json::Array(entries) => {
                let entry = |(index, wire)| {
                    let bad = |fault| AclError::BadEntry { index, fault };
                    AccessEntry::from_wire(wire).map_err(bad)
                };
                let entries = entries.iter().enumerate().map(entry);
                Ok(Some(Self(entries.collect::<Result<_, _>>()?)))
            }
            _ => Err(AclError::NotAnArray),
        }
    }

    /// Returns the wire form.
    pub fn to_wire(&self) -> Json {
        Json::Array(self.0.iter().map(AccessEntry::to_wire).collect())
    }

    /// Returns whether some entry grants `level` to the caller. The record's owner is not
    /// considered here.
    pub fn grants(&self, level: Level, caller: &Caller) -> bool {
        self.0.iter().any(|entry| entry.grants(level, caller))
    }
}

impl AccessEntry {
    /// Parses the wire form; fails with what is wrong.
    fn from_wire(wire: &Json) -> Result<Self, &'static str> {
        let object = wire.as_object().ok_or("is not an object")?;
        let level = match object.get("level").and_then(Json::as_str) {
            Some("read") => Level::Read,
            Some("write") => Level::Write,
            _ => return Err("needs the level \"read\" or \"write\""),
        };
        let text = |name: &str| object.get(name).and_then(Json::as_str);
        let public = object.get("public").and_then(Json::as_bool);
        let targets = ["relation", "role", "user_id"].map(text);
        if public.is_none() && targets.iter().all(Option::is_none) {
            return Err("needs user_id, role or public");
        }
        // An empty name matches nobody, and is left out when the entry is written.
        let [relation, role, user_id] = targets.map(|name| name.filter(|name| !name.is_empty()));
        Ok(Self {
            relation: relation.map(str::to_owned),
            role: role.map(RoleName::from),
            level,
            user_id: user_id.map(UserId::from),
            public: public.unwrap_or(false),
        })
    }

    fn to_wire(&self) -> Json {
        let mut object = Map::new();
        if let Some(relation) = self.relation.as_ref().filter(|text| !text.is_empty()) {
            object.insert("relation".into(), relation.clone().into());
        }
        if let Some(role) = self.role.as_ref().filter(|role| !role.as_str().is_empty()) {
            object.insert("role".into(), role.as_str().into());
        }
        let level = if self.level == Level::Write {
            "write"
        } else {
            "read"
        };
        object.insert("level".into(), level.into());
        if let Some(user) = self
            .user_id
            .as_ref()
            .filter(|user| !user.as_str().is_empty())
        {
            object.insert("user_id".into(), user.as_str().into());
        }
        // An entry that names nobody writes `public`, because an entry without any target is
        // refused when it is sent back.
        let names_nobody = object.len() == 1;
        if self.public || names_nobody {
            object.insert("public".into(), self.public.into());
        }
        Json::Object(object)
    }

    fn grants(&self, level: Level, caller: &Caller) -> bool {
        let names_caller = self.public
            || self
                .user_id
                .as_ref()
                .is_some_and(|user| caller.user.as_ref() == Some(user))
            || self
                .role
                .as_ref()
                .is_some_and(|role| caller.roles.contains(role));
        self.level >= level && names_caller
    }
}

#[cfg(test)]
mod tests;
