//! Converts rows to users, roles, relations, devices, subscriptions, and settings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use skytrail_actors::import::ImportedSubscriptions;
use skytrail_schema::acl::Acl;
use skytrail_schema::event::{
    AssetState, DeviceKind, DeviceState, Disabled, Link, PastPassword, RoleFlags, Service,
    UserState,
};
use skytrail_schema::id::{AssetName, Database, DeviceId, RoleName, TypeName, UserId};
use skytrail_schema::subscription::Subscription;

use super::layout::text;
use super::record::{maybe_time, time, user};
use super::source::Row;
use crate::http::mask::without_secrets;

/// The tables of a v1.7 database.
pub(super) const TABLES: [&str; 14] = [
    "_asset",
    "_auth",
    "_auth_role",
    "_device",
    "_follow",
    "_friend",
    "_password_history",
    "_record_creation",
    "_record_default_access",
    "_record_field_access",
    "_role",
    "_sso_custom_token",
    "_sso_oauth",
    "_subscription",
];

pub(super) const ROLES: &str = "SELECT id, by_default, is_admin FROM _role ORDER BY id";

pub(super) const DEFAULT_ACCESS: &str =
    "SELECT record_type, default_access FROM _record_default_access ORDER BY record_type";

pub(super) const CREATION_ROLES: &str =
    "SELECT record_type, role_id FROM _record_creation ORDER BY record_type, role_id";

pub(super) const FIELD_ACCESS: &str = "\
SELECT record_type, record_field, user_role, writable, readable, comparable, discoverable \
FROM _record_field_access";

pub(super) const ASSETS: &str = "SELECT id, content_type, size FROM _asset ORDER BY id";

pub(super) const USERS: &str = "\
SELECT a.id, a.password, a.provider_info, a.disabled, a.disabled_message, \
  (extract(epoch FROM a.token_valid_since) * 1000000)::bigint::text AS token_valid_since, \
  (extract(epoch FROM a.last_seen_at) * 1000000)::bigint::text AS last_seen_at, \
  (extract(epoch FROM a.disabled_expiry) * 1000000)::bigint::text AS disabled_expiry, \
  r.roles, h.history, o.oauth, c.principal_id AS custom, \
  (extract(epoch FROM c._created_at) * 1000000)::bigint::text AS custom_at \
FROM _auth a \
LEFT JOIN (SELECT auth_id, json_agg(role_id) AS roles FROM _auth_role GROUP BY auth_id) r \
  ON r.auth_id = a.id \
LEFT JOIN (SELECT auth_id, json_agg(json_build_object('hash', password, 'set_at', \
    (extract(epoch FROM logged_at) * 1000000)::bigint::text) ORDER BY logged_at DESC) AS history \
  FROM _password_history GROUP BY auth_id) h ON h.auth_id = a.id \
LEFT JOIN (SELECT user_id, json_agg(json_build_object('provider', provider, \
    'principal', principal_id, 'profile', profile, \
    'linked_at', (extract(epoch FROM _created_at) * 1000000)::bigint::text, \
    'updated_at', (extract(epoch FROM _updated_at) * 1000000)::bigint::text)) AS oauth \
  FROM _sso_oauth GROUP BY user_id) o ON o.user_id = a.id \
LEFT JOIN _sso_custom_token c ON c.user_id = a.id \
ORDER BY a.id";

pub(super) const FOLLOWS: &str = "SELECT left_id, right_id FROM _follow ORDER BY left_id, right_id";

pub(super) const FRIENDS: &str = "SELECT left_id, right_id FROM _friend ORDER BY left_id, right_id";

/// The latest come first: of several devices with one address, the first counts.
pub(super) const DEVICES: &str = "\
SELECT id, auth_id, type, token, topic, \
  (extract(epoch FROM last_registered_at) * 1000000)::bigint::text AS registered_at \
FROM _device ORDER BY last_registered_at DESC, id";

pub(super) const SUBSCRIPTIONS: &str = "\
SELECT s.id, s.auth_id, s.device_id, s.type, s.notification_info, s.query, \
  d.auth_id AS subscriber \
FROM _subscription s JOIN _device d ON d.id = s.device_id ORDER BY s.device_id, s.id";

/// Converts a role.
pub(super) fn role(row: &Row) -> (RoleName, RoleFlags) {
    let flag = |name: &str| row.get(name).and_then(Json::as_bool) == Some(true);
    let flags = RoleFlags {
        by_default: flag("by_default"),
        is_admin: flag("is_admin"),
    };
    (text(row, "id").into(), flags)
}

/// Converts a type's default access.
pub(super) fn default_access(row: &Row) -> Result<(TypeName, Option<Acl>), String> {
    let access = row.get("default_access").unwrap_or(&Json::Null);
    let access = Acl::from_wire(access).map_err(|error| error.to_string())?;
    Ok((text(row, "record_type").into(), access))
}

/// Adds a role that may create records of a type.
pub(super) fn creation_role(row: &Row, all: &mut BTreeMap<TypeName, BTreeSet<RoleName>>) {
    let role = text(row, "role_id");
    if !role.is_empty() {
        let name = text(row, "record_type").into();
        all.entry(name).or_default().insert(role.into());
    }
}

/// Converts a file's metadata.
pub(super) fn asset(row: &Row) -> Result<(AssetName, AssetState), String> {
    let name = text(row, "id");
    let clean = AssetName::clean(name).filter(|clean| clean.as_str() == name);
    let state = AssetState {
        content_type: text(row, "content_type").to_owned(),
        size: row.get("size").and_then(Json::as_u64).unwrap_or_default(),
    };
    let reason = || "the name points outside the folder, or cannot be fetched".to_owned();
    Ok((clean.ok_or_else(reason)?, state))
}

/// Converts a user's auth row.
pub(super) fn auth(row: &mut Row) -> Result<(UserId, UserState), String> {
    let mut state = UserState {
        token_valid_since: maybe_time(row, "token_valid_since")?,
        last_seen_at: maybe_time(row, "last_seen_at")?,
        ..UserState::default()
    };
    let hash = text(row, "password");
    state.password_hash = (!hash.is_empty()).then(|| hash.to_owned());
    if let Some(Json::Object(info)) = row.remove("provider_info") {
        // Secrets are removed, as from what providers return at a login: the log never forgets.
        let info = info.into_iter();
        state.provider_info = info
            .map(|(who, said)| (who, without_secrets(said)))
            .collect();
    }
    let roles = row.get("roles").and_then(Json::as_array);
    let roles = roles.into_iter().flatten().filter_map(Json::as_str);
    state.roles = roles.map(RoleName::from).collect();
    if row.get("disabled") == Some(&Json::Bool(true)) {
        let message = text(row, "disabled_message");
        state.disabled = Some(Disabled {
            message: (!message.is_empty()).then(|| message.to_owned()),
            expiry: maybe_time(row, "disabled_expiry")?,
        });
    }
    for past in objects(row, "history") {
        state.password_history.push(PastPassword {
            hash: text(&past, "hash").to_owned(),
            set_at: time(&past, "set_at")?,
        });
    }
    for account in objects(row, "oauth") {
        let service = Service::OAuth(text(&account, "provider").to_owned());
        let link = Link {
            principal: text(&account, "principal").to_owned(),
            profile: account.get("profile").cloned().unwrap_or_default(),
            linked_at: time(&account, "linked_at")?,
            updated_at: time(&account, "updated_at")?,
        };
        state.links.insert(service, link);
    }
    if let Some(at) = maybe_time(row, "custom_at")? {
        let link = Link {
            principal: text(row, "custom").to_owned(),
            profile: Json::Null,
            linked_at: at,
            updated_at: at,
        };
        state.links.insert(Service::CustomToken, link);
    }
    Ok((text(row, "id").into(), state))
}

fn objects(row: &mut Row, name: &str) -> Vec<Row> {
    let objects = match row.remove(name) {
        Some(Json::Array(objects)) => objects,
        _ => Vec::new(),
    };
    let objects = objects.into_iter().filter_map(|object| match object {
        Json::Object(object) => Some(object),
        _ => None,
    });
    objects.collect()
}

/// Converts a device.
pub(super) fn device(row: &Row) -> Result<(DeviceId, DeviceState), String> {
    let kind = text(row, "type");
    let unknown = || format!("there are no devices of type {kind:?}");
    let given = |name: &str| Some(text(row, name)).filter(|text| !text.is_empty());
    let state = DeviceState {
        user: user(row, "auth_id"),
        kind: DeviceKind::parse(kind).ok_or_else(unknown)?,
        token: given("token").map(str::to_owned),
        topic: given("topic").map(str::to_owned),
        registered_at: time(row, "registered_at")?,
    };
    Ok((text(row, "id").into(), state))
}

/// Converts a subscription.
pub(super) fn subscription(row: &Row) -> Result<ImportedSubscriptions, String> {
    let stored = row.get("query").and_then(Json::as_object);
    let stored = stored.ok_or("it has no query")?;
    let mut query = Row::new();
    query.insert("record_type".to_owned(), text(stored, "Type").into());
    let condition = stored.get("Predicate").map(predicate).transpose()?;
    let others = [
        ("predicate", condition.flatten()),
        ("limit", stored.get("Limit").cloned()),
        ("offset", stored.get("Offset").cloned()),
        ("desired_keys", stored.get("DesiredKeys").cloned()),
    ];
    for (name, value) in others {
        query.insert(name.to_owned(), value.unwrap_or_default());
    }
    let wire = json!({
        "id": text(row, "id"),
        "type": text(row, "type"),
        "notification_info": row.get("notification_info"),
        "query": query,
    });
    let database = match user(row, "auth_id") {
        None => Database::Public,
        Some(user) => Database::Private(user),
    };
    let unreadable = |_| "its query cannot be read".to_owned();
    Ok(ImportedSubscriptions {
        device: text(row, "device_id").into(),
        subscriber: user(row, "subscriber"),
        subscriptions: vec![Subscription::from_wire(&wire, database).map_err(unreadable)?],
    })
}

/// Converts a predicate from v1's stored form to the clients' form; `None` for an empty one.
fn predicate(stored: &Json) -> Result<Option<Json>, String> {
    let number = stored.get("Operator").and_then(Json::as_u64);
    let name = match number.unwrap_or_default() {
        0 => return Ok(None),
        1 => "and",
        2 => "or",
        3 => "not",
        4 => "eq",
        5 => "gt",
        6 => "lt",
        7 => "gte",
        8 => "lte",
        9 => "neq",
        10 => "like",
        11 => "ilike",
        12 => "in",
        _ => {
            return Err(
                "its condition calls a function, and v1 stores those incompletely".to_owned(),
            );
        }
    };
    let children = stored.get("Children").and_then(Json::as_array);
    let mut condition = vec![Json::from(name)];
    for child in children.into_iter().flatten() {
        condition.push(if matches!(number, Some(1..=3)) {
            predicate(child)?.ok_or("its condition has an empty part")?
        } else {
            expression(child)?
        });
    }
    Ok(Some(condition.into()))
}

fn expression(stored: &Json) -> Result<Json, String> {
    let value = stored.get("Value").unwrap_or(&Json::Null);
    match stored.get("Type").and_then(Json::as_u64) {
        Some(1) => Ok(match value.get("ID").and_then(Json::as_str) {
            Some(id) => json!({"$type": "ref", "$id": id}),
            None => value.clone(),
        }),
        Some(2) => Ok(json!({"$type": "keypath", "$val": value})),
        _ => Err("its condition calls a function, and v1 stores those incompletely".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_other_services_is_left_behind() {
        let said = json!({"name": "Ada", "access_token": "x", "more": [{"refresh_token": "y"}]});
        let row = json!({"id": "ada", "provider_info": {"token-service:ada": said}});
        let mut row = row.as_object().unwrap().clone();
        let (_, state) = auth(&mut row).unwrap();
        let kept = json!({"token-service:ada": {"name": "Ada", "more": [{}]}});
        assert_eq!(json!(state.provider_info), kept);
    }

    #[test]
    fn stored_conditions_are_written_as_clients_do() {
        let field = |name: &str| json!({"Type": 2, "Value": name});
        let literal = |value: Json| json!({"Type": 1, "Value": value});
        let eq = json!({"Operator": 4, "Children": [field("r"), literal(json!({"ID": "x/1"}))]});
        let within = json!({"Operator": 12, "Children": [field("n"), literal(json!([1, 2]))]});
        let not = json!({"Operator": 3, "Children": [eq]});
        let stored = json!({"Operator": 1, "Children": [within, not]});
        let path = |name: &str| json!({"$type": "keypath", "$val": name});
        let expected = json!([
            "and",
            ["in", path("n"), [1, 2]],
            ["not", ["eq", path("r"), {"$type": "ref", "$id": "x/1"}]],
        ]);
        assert_eq!(predicate(&stored), Ok(Some(expected)));
        assert_eq!(predicate(&json!({"Operator": 0})), Ok(None));
        assert!(predicate(&json!({"Operator": 13})).is_err());
    }
}
