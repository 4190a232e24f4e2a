//! What happens to users' auth rows, roles and relations.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Link, Service};
use crate::code::{ApiError, Code};
use crate::id::{RoleName, UserId};
use crate::json;
use crate::time::Timestamp;

/// A user's auth row. It holds password hashes only; passwords and tokens are never stored here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserState {
    /// Argon2id (or v1's bcrypt) hash; absent for users who sign in another way or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// Accounts at plugins' auth providers: `provider:principal` maps to the provider's data.
    #[serde(
        default,
        deserialize_with = "json::members",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub provider_info: BTreeMap<String, Json>,
    /// Accounts elsewhere that sign the user in, except those at plugins' auth providers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<Service, Link>,
    /// Tokens issued before this time are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_valid_since: Option<Timestamp>,
    /// The time of the last login or `me`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// The user's roles.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<RoleName>,
    /// Whether, why and until when the user is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
    /// Passwords that must not be used again, newest first, including the current one. They are
    /// kept while the password policy requires it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub password_history: Vec<PastPassword>,
}

impl UserState {
    /// Refuses a user who is locked out.
    ///
    /// # Errors
    /// 127 with the reason and the time when it ends, if they are known.
    pub fn check_enabled(&self, now: Timestamp) -> Result<(), ApiError> {
        const MICROS_PER_SECOND: i64 = 1_000_000;
        let Some(disabled) = &self.disabled else {
            return Ok(());
        };
        if disabled.expiry.is_some_and(|expiry| expiry <= now) {
            return Ok(());
        }
        let mut error = ApiError::new(Code::UserDisabled, "user is disabled");
        if let Some(expiry) = disabled.expiry {
            let seconds = expiry.micros().div_euclid(MICROS_PER_SECOND);
            let expiry = Timestamp::from_micros(seconds * MICROS_PER_SECOND);
            error = error.with_info("expiry", expiry.to_string().into());
        }
        if let Some(message) = disabled.message.as_ref().filter(|text| !text.is_empty()) {
            error = error.with_info("message", message.clone().into());
        }
        Err(error)
    }
}

/// A password that was once set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastPassword {
    /// The hash.
    pub hash: String,
    /// When it was set.
    pub set_at: Timestamp,
}

/// A new password. It must not be one of those in the history, to which it is then added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordSet {
    /// The hash.
    pub hash: String,
    /// When it was set; tokens issued before are refused from now on.
    pub at: Timestamp,
    /// How many entries the history keeps, including this one.
    #[serde(default)]
    pub num_kept: usize,
}

/// The same password, rehashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordRehashed {
    /// The new hash.
    pub hash: String,
}

/// An event that says nothing but its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoDetails {}

/// Why and until when a user is disabled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// A message to the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Until when; absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Timestamp>,
}

/// What changed in a user's auth row; absent members are unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserPatch {
    /// See [`UserState::last_seen_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// Roles that were added.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles_added: BTreeSet<RoleName>,
    /// Roles that were removed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles_removed: BTreeSet<RoleName>,
}

/// How a user signed in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedIn {
    /// When.
    pub at: Timestamp,
    /// The names of the auth data that were given with a password, such as `email`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<String>,
    /// The service that vouched for the user, if they did not use a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// A role's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFlags {
    /// Given to everyone who signs up.
    pub by_default: bool,
    /// Grants the administrators' actions, but no access to records.
    pub is_admin: bool,
}

/// The other end of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationTarget {
    /// The other user.
    pub to: UserId,
}
