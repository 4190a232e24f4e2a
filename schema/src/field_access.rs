//! Field access: who may see, change and search which fields.
//!
//! One ordered list of rules for the whole app. A field that no rule names is open.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{RoleName, UserId};

/// The app's rules, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldAccess(pub Vec<FieldAccessEntry>);

/// One rule: what the users of `user_role` may do with a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldAccessEntry {
    /// The record type; `*` for any.
    pub record_type: String,
    /// The field; `*` for any.
    pub record_field: String,
    /// Whom the rule is about.
    pub user_role: FieldUserRole,
    /// May save it.
    pub writable: bool,
    /// Sees it in answers, and may include what it refers to.
    pub readable: bool,
    /// May use it in any predicate, and sort by it.
    pub comparable: bool,
    /// May use it in predicates of plain equality.
    pub discoverable: bool,
}

/// Whom a field access rule is about. The order is that in which the rules of one field are tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldUserRole {
    /// The record's owner.
    Owner,
    /// One user.
    User(UserId),
    /// The users that a field of the record names.
    Field(String),
    /// The users who have a role.
    Role(RoleName),
    /// Whoever is signed in.
    AnyUser,
    /// Everyone.
    Public,
}

impl FieldUserRole {
    /// Parses the wire form, for example `_role:editor`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, argument) = match text.split_once(':') {
            Some((kind, argument)) => (kind, Some(argument)),
            None => (text, None),
        };
        Some(match (kind, argument) {
            ("_owner", None) => Self::Owner,
            ("_user_id", Some(user)) => Self::User(user.into()),
            ("_field", Some(field)) => Self::Field(field.to_owned()),
            ("_role", Some(role)) => Self::Role(role.into()),
            ("_any_user", None) => Self::AnyUser,
            ("_public", None) => Self::Public,
            _ => return None,
        })
    }
}

impl fmt::Display for FieldUserRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("_owner"),
            Self::User(user) => write!(f, "_user_id:{user}"),
            Self::Field(field) => write!(f, "_field:{field}"),
            Self::Role(role) => write!(f, "_role:{role}"),
            Self::AnyUser => f.write_str("_any_user"),
            Self::Public => f.write_str("_public"),
        }
    }
}

impl Serialize for FieldUserRole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FieldUserRole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("unknown user role"))
    }
}
