//! Subscriptions: which changes of records a device wants to be notified of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::code::{ApiError, Code};
use crate::id::{Database, DeviceId, check_length};
use crate::json::members;
use crate::query::Query;

/// What identifies a subscription among those of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubscriptionKey {
    /// The database whose records it covers.
    #[serde(
        with = "stored_database",
        default = "public",
        skip_serializing_if = "is_public"
    )]
    pub database: Database,
    /// The name that the client chose.
    pub id: String,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its name.
    pub key: SubscriptionKey,
    /// The type that clients give it; always `query` so far.
    pub kind: String,
    /// How clients want to be notified; stored for them only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notification_info: Option<NotificationInfo>,
    /// The parameters of `record:query` that select its records.
    #[serde(deserialize_with = "members")]
    pub query: Map<String, Json>,
}

/// The parameters that are stored, and their names in answers.
const PARAMETERS: [(&str, &str); 7] = [
    ("record_type", "record_type"),
    ("predicate", "predicate"),
    ("sort", "order"),
    ("include", "computed_keys"),
    ("desired_keys", "desired_keys"),
    ("limit", "limit"),
    ("offset", "offset"),
];

impl Subscription {
    /// Parses the wire form.
    ///
    /// # Errors
    /// 107 for anything that cannot be parsed, including the query; 108 for a name that is too
    /// long.
    pub fn from_wire(wire: &Json, database: Database) -> Result<Self, ApiError> {
        let object = wire.as_object().ok_or_else(undecodable)?;
        let text = |name: &str| match object.get(name) {
            None | Some(Json::Null) => Ok(String::new()),
            Some(Json::String(text)) => Ok(text.clone()),
            Some(_) => Err(undecodable()),
        };
        check_length("a subscription's id", &text("id")?)?;
        let query = object.get("query").and_then(Json::as_object);
        let query = query.ok_or_else(undecodable)?;
        Query::parse(query).map_err(|_| undecodable())?;
        let is_given = |value: &&Json| match value {
            Json::Null => false,
            Json::Array(items) => !items.is_empty(),
            Json::Object(members) => !members.is_empty(),
            Json::Number(number) => number.as_f64() != Some(0.0),
            _ => true,
        };
        let given = PARAMETERS.iter().filter_map(|(name, _)| {
            let value = query.get(*name).filter(is_given)?;
            Some(((*name).to_owned(), value.clone()))
        });
        let info = object
            .get("notification_info")
            .filter(|info| !info.is_null());
        let info = info.cloned().map(without_nulls);
        let info = info.map(serde_json::from_value).transpose();
        Ok(Self {
            key: SubscriptionKey {
                database,
                id: text("id")?,
            },
            kind: text("type")?,
            notification_info: info.map_err(|_| undecodable())?,
            query: given.collect(),
        })
    }

    /// Returns the wire form.
    pub fn to_wire(&self, device: &DeviceId) -> Json {
        let named = PARAMETERS.iter().filter_map(|(name, answered)| {
            Some(((*answered).to_owned(), self.query.get(*name)?.clone()))
        });
        let query: Map<String, Json> = named.collect();
        let mut object = Map::new();
        object.insert("id".into(), self.key.id.clone().into());
        object.insert("type".into(), self.kind.clone().into());
        object.insert("device_id".into(), device.as_str().into());
        if let Some(info) = &self.notification_info {
            object.insert("notification_info".into(), json!(info));
        }
        object.insert("query".into(), query.into());
        object.into()
    }

    /// Returns the query; `None` if this program can no longer parse it.
    pub fn parse_query(&self) -> Option<Query> {
        Query::parse(&self.query).ok()
    }
}

fn undecodable() -> ApiError {
    ApiError::new(Code::BadRequest, "fails to decode the request payload")
}

/// Removes null members at any depth: a null member is the same as an absent one.
fn without_nulls(json: Json) -> Json {
    match json {
        Json::Object(members) => {
            let members = members.into_iter().filter(|(_, value)| !value.is_null());
            let members = members.map(|(name, value)| (name, without_nulls(value)));
            Json::Object(members.collect())
        }
        other => other,
    }
}

/// How clients want to be notified. The server does not read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotificationInfo {
    /// For Apple's service.
    pub aps: Aps,
}

/// See [`NotificationInfo::aps`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Aps {
    /// What is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<Alert>,
    /// What is played.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sound: String,
    /// Whether the app's icon gets a badge.
    #[serde(skip_serializing_if = "is_false")]
    pub should_badge: bool,
    /// Whether the app is woken.
    #[serde(skip_serializing_if = "is_false")]
    pub should_send_content_available: bool,
}

/// The content of a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "Apple's documentation says what its members mean"
)]
pub struct Alert {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub action_loc_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub loc_key: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loc_args: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub launch_image: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn public() -> Database {
    Database::Public
}

fn is_public(database: &Database) -> bool {
    *database == Database::Public
}

/// Writes a private database as its user's id.
mod stored_database {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::id::Database;

    pub(super) fn serialize<S: Serializer>(database: &Database, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(database.as_stored())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Database, D::Error> {
        String::deserialize(from).map(|text| Database::from_stored(&text))
    }
}
