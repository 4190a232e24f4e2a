//! `schema:access`, `schema:default_access`

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};
use skytrail_actors::record::messages::{ChangeType, TypeChange};
use skytrail_schema::acl::Acl;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RoleName, TypeName};

use super::{Call, Outcome, Reply, request};

pub(super) async fn access(call: Call) -> Outcome {
    let name = type_name(&call)?;
    let sent = request::texts(&call.body, "create_roles")?.unwrap_or_default();
    let roles: BTreeSet<RoleName> = request::roles(sent.clone());
    change(&call, &name, TypeChange::CreationRoles(roles)).await?;
    Reply::new(&answer(&name, "create_roles", sent.into()))
}

pub(super) async fn default_access(call: Call) -> Outcome {
    let name = type_name(&call)?;
    let sent = request::list(&call.body, "default_access")?
        .cloned()
        .unwrap_or_default();
    if sent.iter().any(|entry| !entry.is_object()) {
        return Err(request::undecodable());
    }
    let sent = Json::Array(sent);
    let invalid =
        |_| ApiError::invalid_argument("invalid default_access entry", &["default_access"]);
    let access = Acl::from_wire(&sent).map_err(invalid)?.unwrap_or_default();
    let written = access.to_wire();
    change(&call, &name, TypeChange::DefaultAccess(access)).await?;
    Reply::new(&answer(&name, "default_access", written))
}

async fn change(call: &Call, name: &TypeName, change: TypeChange) -> Result<(), ApiError> {
    let command = ChangeType {
        context: call.context.clone(),
        name: name.clone(),
        change,
    };
    call.services.records.change_type(command).await
}

fn type_name(call: &Call) -> Result<TypeName, ApiError> {
    let name = request::text(&call.body, "type")?.filter(|name| !name.is_empty());
    name.map(TypeName::from)
        .ok_or_else(|| ApiError::invalid_argument("missing required fields", &["type"]))
}

fn answer(name: &TypeName, member: &str, value: Json) -> Json {
    let mut result = Map::new();
    result.insert("type".into(), name.as_str().into());
    if value != Json::Array(Vec::new()) {
        result.insert(member.into(), value);
    }
    Json::Object(result)
}
