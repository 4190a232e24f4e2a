//! `schema:create`, `schema:fetch`, `schema:rename`, `schema:delete`, `schema:access`,
//! `schema:default_access`, `schema:temporal`, `schema:retention`, `schema:personal`,
//! `schema:unique`, `schema:settings`, `schema:field_access:get`, `schema:field_access:update`

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::record::messages::{ChangeType, CreateTypes, SetFieldAccess, TypeChange};
use skytrail_schema::acl::{Acl, AclError};
use skytrail_schema::auth_keys::LAST_LOGIN;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Retention;
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{RoleName, TypeName, check_length};
use skytrail_schema::types::{FieldType, TypeDefinition};

use super::{Call, Outcome, Reply, request};

pub(super) async fn create(mut call: Call) -> Outcome {
    let command = CreateTypes {
        context: call.context.clone(),
        types: requested_types(&mut call.body)?,
    };
    call.services.records.create_types(command).await?;
    fetch(call).await
}

/// Reads the types to create, with their fields.
pub(super) fn requested_types(
    body: &mut Map<String, Json>,
) -> Result<BTreeMap<TypeName, BTreeMap<String, FieldType>>, ApiError> {
    let types = request::take_object(body, "record_types")?;
    let types = types
        .into_iter()
        .map(|(name, wire)| Ok((TypeName::from(name), fields_of(&wire)?)));
    let types: Vec<(TypeName, Vec<(String, String)>)> = types.collect::<Result<_, ApiError>>()?;
    let types = types
        .into_iter()
        .map(|(name, fields)| Ok((name.clone(), kinds_of(&name, fields)?)));
    types.collect()
}

pub(super) async fn fetch(call: Call) -> Outcome {
    Reply::new(&json!({"record_types": call.services.records.schema()}))
}

pub(super) async fn rename(call: Call) -> Outcome {
    let [name, from, to] = required(&call.body, ["record_type", "item_name", "new_name"])?;
    let name = TypeName::from(name);
    refuse_sign_in(&call, &name, &from)?;
    change(&call, &name, TypeChange::RenameField { from, to }).await?;
    fetch(call).await
}

pub(super) async fn delete(call: Call) -> Outcome {
    let [name, field] = required(&call.body, ["record_type", "item_name"])?;
    let name = TypeName::from(name);
    refuse_sign_in(&call, &name, &field)?;
    change(&call, &name, TypeChange::DeleteField(field)).await?;
    fetch(call).await
}

/// Refuses to remove a field that users need in order to sign in.
fn refuse_sign_in(call: &Call, name: &TypeName, field: &str) -> Result<(), ApiError> {
    let keys = call.services.settings.auth_keys.keys();
    if *name == TypeName::user() && (field == LAST_LOGIN || keys.contains(field)) {
        let message = format!("users sign in with {field}");
        return Err(ApiError::invalid_argument(message, &["item_name"]));
    }
    Ok(())
}

pub(super) async fn get_field_access(call: Call) -> Outcome {
    Reply::new(&json!({"access": call.services.records.field_access().to_wire()}))
}

pub(super) async fn set_field_access(call: Call) -> Outcome {
    // The list replaces all rules, so a forgotten one must not count as an empty one.
    let missing = || ApiError::invalid_argument("missing required fields", &["access"]);
    let entries = request::list(&call.body, "access")?.ok_or_else(missing)?;
    if entries.iter().any(|entry| !entry.is_object()) {
        return Err(request::undecodable());
    }
    let access = FieldAccess::from_wire(entries)?;
    let written = access.to_wire();
    let context = call.context;
    let command = SetFieldAccess { context, access };
    call.services.records.set_field_access(command).await?;
    Reply::new(&json!({"access": written}))
}

/// Reads the fields of a type to create, as name and type exactly as given.
fn fields_of(wire: &Json) -> Result<Vec<(String, String)>, ApiError> {
    let no_fields = Vec::new();
    let fields = match wire {
        Json::Null => &no_fields,
        Json::Object(object) => request::list(object, "fields")?.unwrap_or(&no_fields),
        _ => return Err(request::undecodable()),
    };
    let field = |wire: &Json| {
        let object = wire.as_object().ok_or_else(request::undecodable)?;
        let text =
            |name| request::text(object, name).map(|text| text.unwrap_or_default().to_owned());
        Ok((text("name")?, text("type")?))
    };
    fields.iter().map(field).collect()
}

/// Parses the types of fields; if a name occurs twice, the later one counts.
fn kinds_of(
    name: &TypeName,
    fields: Vec<(String, String)>,
) -> Result<BTreeMap<String, FieldType>, ApiError> {
    let refuse = |message: &str, what: &str| ApiError::invalid_argument(message, &[what]);
    if name.is_reserved() || name.as_str().is_empty() {
        return Err(refuse("attempts to create reserved table", name.as_str()));
    }
    check_length("a record type's name", name.as_str())?;
    let kind = |(field, kind): (String, String)| {
        check_length("a field's name", &field)?;
        if is_reserved(&field) {
            return Err(refuse("attempts to create reserved field", &field));
        }
        let kind = FieldType::from_wire_name(&kind)
            .ok_or_else(|| refuse("unexpected field type", &kind))?;
        Ok((field, kind))
    };
    fields.into_iter().map(kind).collect()
}

fn is_reserved(field: &str) -> bool {
    field.is_empty() || field.starts_with('_')
}

/// Reads required strings: the name of a type, then names of fields.
fn required<const N: usize>(
    body: &Map<String, Json>,
    names: [&'static str; N],
) -> Result<[String; N], ApiError> {
    let mut values = [const { String::new() }; N];
    for (value, name) in values.iter_mut().zip(names) {
        *value = request::text(body, name)?.unwrap_or_default().to_owned();
        check_length(name, value)?;
    }
    let named = || values.iter().zip(names);
    let missing: Vec<&str> = named()
        .filter(|(value, _)| value.is_empty())
        .map(|(_, name)| name)
        .collect();
    if !missing.is_empty() {
        return Err(ApiError::invalid_argument(
            "missing required fields",
            &missing,
        ));
    }
    let reserved = named().find(|(value, _)| value.starts_with('_'));
    match reserved {
        None => Ok(values),
        Some((_, "record_type")) => {
            let message = "attempts to change reserved table";
            Err(ApiError::invalid_argument(message, &["record_type"]))
        }
        Some((_, name)) => {
            let message = "attempts to change reserved key";
            Err(ApiError::invalid_argument(message, &[name]))
        }
    }
}

pub(super) async fn access(call: Call) -> Outcome {
    let name = type_name(&call)?;
    let sent = request::texts(&call.body, "create_roles")?.unwrap_or_default();
    let roles: BTreeSet<RoleName> = request::roles(sent.clone())?;
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
    let invalid = |error: AclError| {
        let message = match error {
            AclError::TooManyEntries => error.to_string(),
            _ => "invalid default_access entry".to_owned(),
        };
        ApiError::invalid_argument(message, &["default_access"])
    };
    let access = Acl::from_wire(&sent).map_err(invalid)?.unwrap_or_default();
    let written = access.to_wire();
    change(&call, &name, TypeChange::DefaultAccess(access)).await?;
    Reply::new(&answer(&name, "default_access", written))
}

pub(super) async fn retention(call: Call) -> Outcome {
    let name = type_name(&call)?;
    let number = |member: &str| {
        let number = request::whole_number(&call.body, member)?;
        let fits = |number: u64| u32::try_from(number).ok().filter(|number| *number > 0);
        let wrong = || {
            let message = format!("{member} should be a number above 0");
            ApiError::invalid_argument(message, &[member])
        };
        number.map(|it| fits(it).ok_or_else(wrong)).transpose()
    };
    let retention = Retention {
        versions: number("versions")?,
        days: number("days")?,
        keeps_files: !request::with_files(&call.body)?,
    };
    change(&call, &name, TypeChange::Retention(retention)).await?;
    Reply::new(&answer(&name, "retention", retention_to_wire(retention)))
}

fn retention_to_wire(retention: Retention) -> Json {
    let mut wire = json!(retention);
    if let Some(wire) = wire.as_object_mut() {
        let keeps_files = wire.remove("keeps_files").is_some();
        wire.insert("files".to_owned(), (!keeps_files).into());
    }
    wire
}

pub(super) async fn temporal(call: Call) -> Outcome {
    let name = type_name(&call)?;
    let is_temporal = truth(&call, "temporal")?;
    change(&call, &name, TypeChange::Intervals(is_temporal)).await?;
    Reply::new(&answer(&name, "temporal", is_temporal.into()))
}

pub(super) async fn personal(call: Call) -> Outcome {
    let name = type_name(&call)?;
    if name.is_user() {
        let message = "user records are erased with their users anyway";
        return Err(ApiError::invalid_argument(message, &["type"]));
    }
    let is_personal = truth(&call, "personal")?;
    change(&call, &name, TypeChange::Personal(is_personal)).await?;
    Reply::new(&answer(&name, "personal", is_personal.into()))
}

pub(super) async fn unique(call: Call) -> Outcome {
    let name = type_name(&call)?;
    let missing = || request::missing(&["fields"]);
    let fields = request::texts(&call.body, "fields")?.ok_or_else(missing)?;
    let are_unique = call.body.get("unique").is_none() || truth(&call, "unique")?;
    change(&call, &name, TypeChange::Unique(fields, are_unique)).await?;
    let types = call.services.records.definitions();
    let definition = types.iter().find(|definition| definition.name == name);
    let sets = definition.map(|definition| &definition.unique);
    Reply::new(&json!({"type": name, "unique": sets}))
}

pub(super) async fn settings(call: Call) -> Outcome {
    let types = call.services.records.definitions();
    let is_public = |definition: &&Arc<TypeDefinition>| !definition.name.is_reserved();
    let settings = types.iter().filter(is_public).map(|definition| {
        let default_access = definition.default_access.as_ref().map(Acl::to_wire);
        let settings = json!({
            "create_roles": definition.creation_roles,
            "default_access": default_access.unwrap_or_else(|| json!([])),
            "personal": definition.is_personal,
            "retention": retention_to_wire(definition.retention.unwrap_or_default()),
            "temporal": definition.intervals_since.is_some(),
            "unique": definition.unique,
        });
        (definition.name.to_string(), settings)
    });
    Reply::new(&json!({"record_types": settings.collect::<Map<_, _>>()}))
}

/// Reads a required boolean.
fn truth(call: &Call, member: &str) -> Result<bool, ApiError> {
    let said = call.body.get(member).and_then(Json::as_bool);
    let missing = || {
        let message = format!("{member} must be true or false");
        ApiError::invalid_argument(message, &[member])
    };
    said.ok_or_else(missing)
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
    let missing = || ApiError::invalid_argument("missing required fields", &["type"]);
    let name = name.ok_or_else(missing)?;
    check_length("a record type's name", name)?;
    Ok(TypeName::from(name))
}

fn answer(name: &TypeName, member: &str, value: Json) -> Json {
    let mut result = Map::new();
    result.insert("type".into(), name.as_str().into());
    if value != Json::Array(Vec::new()) {
        result.insert(member.into(), value);
    }
    Json::Object(result)
}
