//! What happens to users' auth rows, roles and relations.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Link, Service};
use crate::id::{RoleName, UserId};
use crate::json;
use crate::time::Timestamp;

/// A user's auth row. The hash is a hash; passwords and tokens never come here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserState {
    /// Argon2id (or v1's bcrypt) hash; none for users who sign in otherwise or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// Accounts at auth providers of plugins, `provider:principal` to the provider's data.
    #[serde(
        default,
        deserialize_with = "json::members",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub provider_info: BTreeMap<String, Json>,
    /// Accounts elsewhere that sign the user in, those at plugins' auth providers excepted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<Service, Link>,
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
    /// Passwords that must not be used again, the newest first, the present one among them; kept
    /// while the password policy asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub password_history: Vec<PastPassword>,
}

/// A password that was set once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastPassword {
    /// The hash.
    pub hash: String,
    /// When it was set.
    pub set_at: Timestamp,
}

/// A new password. It may not have been one of the history, which then holds it, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordSet {
    /// The hash.
    pub hash: String,
    /// When; tokens issued before are refused from now on.
    pub at: Timestamp,
    /// How many entries the history keeps, this one among them.
    #[serde(default)]
    pub num_kept: usize,
}

/// The same password, hashed anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordRehashed {
    /// The new hash.
    pub hash: String,
}

/// An event that says nothing besides its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoDetails {}

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

/// How a user signed in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedIn {
    /// When.
    pub at: Timestamp,
    /// The auth data that were shown with a password, by name, such as `email`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<String>,
    /// Who vouched for the user, when it was not a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
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
