//! The caller: the result of checking a request's key and token.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::acl::{Acl, Level};
use crate::id::{RoleName, UserId};
use crate::record::Record;

/// Which key a request presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// No key, only an access token.
    #[default]
    None,
    /// The app's key, known to clients.
    Client,
    /// The master key: bypasses access control.
    Master,
}

/// Whose rights a request has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rights {
    /// Those of the key and of the user.
    #[default]
    Key,
    /// Only those of the user, although the master key was presented.
    User,
}

impl Rights {
    /// Returns whether the key keeps its own rights.
    pub fn are_of_key(&self) -> bool {
        *self == Self::Key
    }

    /// Returns the key whose rights these are, if `presented` was presented: a master key that acts
    /// with a user's rights is worth no more than the app's key.
    pub fn limit(self, presented: KeyKind) -> KeyKind {
        match (self, presented) {
            (Self::User, KeyKind::Master) => KeyKind::Client,
            _ => presented,
        }
    }
}

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The key that was presented. What it allows is up to `rights`.
    pub key: KeyKind,
    /// Whose rights the request has.
    pub rights: Rights,
    /// The user, if any. It is `_god` for a bare master key where an action needs a user.
    pub user: Option<UserId>,
    /// The user's roles at the time of the request.
    pub roles: BTreeSet<RoleName>,
}

impl Caller {
    /// Returns whether the caller bypasses access control.
    pub fn is_master(&self) -> bool {
        self.rights.limit(self.key) == KeyKind::Master
    }

    /// Returns whether the request may come from a plugin, whatever its rights are: only plugins and
    /// other servers have the master key.
    pub fn may_be_plugin(&self) -> bool {
        self.key == KeyKind::Master
    }

    /// Returns whether the caller may read or write `record`, according to its access list and
    /// owner.
    pub fn may(&self, level: Level, record: &Record) -> bool {
        self.is_master() || self.owns(record) || self.is_granted(level, record.access.as_ref())
    }

    /// Returns whether the caller owns `record`.
    pub fn owns(&self, record: &Record) -> bool {
        self.user.is_some() && self.user == record.owner
    }

    fn is_granted(&self, level: Level, access: Option<&Acl>) -> bool {
        access.is_none_or(|acl| acl.grants(level, self))
    }
}
