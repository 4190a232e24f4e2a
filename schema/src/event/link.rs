//! Accounts elsewhere that sign a user in, and what happens to them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::json;
use crate::time::Timestamp;

const OAUTH: &str = "oauth";
const CUSTOM_TOKEN: &str = "custom_token";
const PROVIDER: &str = "provider";

/// The service that vouches for a user. Stored as `oauth/<provider>`, `custom_token` or
/// `provider/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// An OAuth provider, through a plugin with the master key.
    OAuth(String),
    /// The server that knows the secret of custom tokens.
    CustomToken,
    /// An auth provider that a plugin registered.
    Provider(String),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OAuth(provider) => write!(f, "{OAUTH}/{provider}"),
            Self::CustomToken => f.write_str(CUSTOM_TOKEN),
            Self::Provider(name) => write!(f, "{PROVIDER}/{name}"),
        }
    }
}

impl Service {
    /// Parses what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text == CUSTOM_TOKEN {
            return Some(Self::CustomToken);
        }
        match text.split_once('/')? {
            (OAUTH, provider) => Some(Self::OAuth(provider.to_owned())),
            (PROVIDER, name) => Some(Self::Provider(name.to_owned())),
            _ => None,
        }
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no such service"))
    }
}

/// An account elsewhere was linked to the user, or its profile was updated. Tokens of the other
/// service are never stored here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountLinked {
    /// The service. A user has one account at each; a new one replaces it.
    pub service: Service,
    /// The account's id at the service.
    pub principal: String,
    /// What the service says about the account.
    #[serde(
        default,
        deserialize_with = "json::value",
        skip_serializing_if = "Json::is_null"
    )]
    pub profile: Json,
    /// When it was linked or updated.
    pub at: Timestamp,
}

/// The user's account elsewhere no longer signs them in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountUnlinked {
    /// The service.
    pub service: Service,
}

/// An account elsewhere, as stored in a user's auth row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The account's id at the service.
    pub principal: String,
    /// What the service says about the account.
    #[serde(
        default,
        deserialize_with = "json::value",
        skip_serializing_if = "Json::is_null"
    )]
    pub profile: Json,
    /// When it was linked.
    pub linked_at: Timestamp,
    /// When it was last used.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn services_come_back(name in "\\PC{0,12}") {
            for service in [
                Service::OAuth(name.clone()),
                Service::Provider(name.clone()),
                Service::CustomToken,
            ] {
                prop_assert_eq!(Service::parse(&service.to_string()), Some(service.clone()));
                let json = serde_json::to_value(&service).unwrap();
                prop_assert_eq!(serde_json::from_value::<Service>(json).unwrap(), service);
            }
        }
    }

    #[test]
    fn other_texts_are_no_service() {
        for text in ["", "oauth", "custom_token/x", "magic/x"] {
            assert_eq!(Service::parse(text), None, "{text}");
        }
    }
}
