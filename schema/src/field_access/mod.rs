//! Field access: who may see, change and search which fields.
//!
//! There is one list of rules for the whole app ([`FieldAccess`]), which is sorted into the order
//! in which the rules are tried ([`FieldRules`]). For a field, only the rules of the most specific
//! group count: those for its type and name, else for the type's `*`, else for the name in any
//! type, else for `*` in any type. Within the group, the first rule that is about the caller
//! decides; if none is, access is denied. A field without a group is open.

mod past;
mod query;
mod renamed;
mod rules;

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::auth_keys::AuthKeys;
use crate::code::ApiError;
use crate::id::{RoleName, TypeName, UserId};

pub use past::Reshaping;
pub use rules::{FieldRules, FieldUse, IS_VERIFIED};

/// Matches any record type or field.
const ANY: &str = "*";

/// All the rules of the app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldAccess(pub Vec<FieldAccessEntry>);

impl FieldAccess {
    /// Returns the rules of a new app: every signed-in user sees and searches user names, email
    /// addresses and the other auth keys; only their owners change them.
    pub fn installed(auth_keys: &AuthKeys) -> Self {
        let entry = |field: &str, user_role: FieldUserRole| FieldAccessEntry {
            record_type: TypeName::USER.to_owned(),
            record_field: field.to_owned(),
            writable: user_role == FieldUserRole::Owner,
            user_role,
            readable: true,
            comparable: true,
            discoverable: true,
        };
        let of_field = |field| {
            let roles = [FieldUserRole::Owner, FieldUserRole::AnyUser];
            roles.map(|role| entry(field, role))
        };
        let mut fields = auth_keys.keys();
        fields.extend(["email", "username"]);
        Self(fields.into_iter().flat_map(of_field).collect())
    }

    /// Parses and sorts the entries of `schema:field_access:update`.
    ///
    /// # Errors
    /// 108 for a malformed entry, 10000 for two entries with the same type, field and users.
    pub fn from_wire(entries: &[Json]) -> Result<Self, ApiError> {
        let entries = entries.iter().map(FieldAccessEntry::from_wire);
        let invalid = || ApiError::invalid_argument("invalid access entry", &["access"]);
        let mut entries: Vec<_> = entries.collect::<Option<_>>().ok_or_else(invalid)?;
        entries.sort_by(FieldAccessEntry::compare);
        let mut pairs = entries.iter().zip(entries.iter().skip(1));
        if pairs.any(|(left, right)| left.compare(right).is_eq()) {
            let text = "two access entries have the same type, field and users";
            return Err(ApiError::unexpected(text));
        }
        Ok(Self(entries))
    }

    /// Returns the wire form, sorted by type, field (`*` last) and the order in which rules are
    /// tried.
    pub fn to_wire(&self) -> Json {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by(|left, right| left.compare(right));
        entries.into_iter().map(FieldAccessEntry::to_wire).collect()
    }
}

impl FieldAccessEntry {
    fn from_wire(wire: &Json) -> Option<Self> {
        let text = |name: &str| wire.get(name).and_then(Json::as_str);
        let named = |name: &str| text(name).filter(|text| !text.is_empty());
        let flag = |name: &str| wire.get(name).and_then(Json::as_bool);
        Some(Self {
            record_type: named("record_type")?.to_owned(),
            record_field: named("record_field")?.to_owned(),
            user_role: FieldUserRole::parse(text("user_role")?)?,
            writable: flag("writable")?,
            readable: flag("readable")?,
            comparable: flag("comparable")?,
            discoverable: flag("discoverable")?,
        })
    }

    fn to_wire(&self) -> Json {
        json!({
            "record_type": self.record_type,
            "record_field": self.record_field,
            "user_role": self.user_role,
            "writable": self.writable,
            "readable": self.readable,
            "comparable": self.comparable,
            "discoverable": self.discoverable,
        })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let names = |entry: &Self| {
            let is_any = |text: &str| text == ANY;
            let (of_type, field) = (entry.record_type.clone(), entry.record_field.clone());
            (is_any(&of_type), of_type, is_any(&field), field)
        };
        let by_name = names(self).cmp(&names(other));
        by_name.then_with(|| self.user_role.cmp(&other.user_role))
    }
}

/// One rule: what the users that `user_role` describes may do with a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldAccessEntry {
    /// The record type; `*` for any.
    pub record_type: String,
    /// The field; `*` for any.
    pub record_field: String,
    /// Whom the rule is about.
    pub user_role: FieldUserRole,
    /// They may save it.
    pub writable: bool,
    /// They see it in answers, and may include what it refers to.
    pub readable: bool,
    /// They may use it in any predicate, and sort by it.
    pub comparable: bool,
    /// They may use it in predicates of plain equality.
    pub discoverable: bool,
}

/// Whom a field access rule is about. The rules of one field are tried in this order.
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
    /// Everyone who is signed in.
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

#[cfg(test)]
mod tests;
