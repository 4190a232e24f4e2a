//! Extending record types by what records bring. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::TypeExtension;
use skytrail_schema::id::{RecordId, TypeName, check_length};
use skytrail_schema::record::Fields;
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::Value;
use skytrail_schema::width::check_fields;

/// What must be added to the types so that records can be stored: extensions by type.
pub type Extensions = BTreeMap<TypeName, TypeExtension>;

/// Compares what records bring with the types as they are.
///
/// # Errors
/// 114 for a field whose type contradicts its column or another record of the request, for a
/// reference to a type that neither exists nor is about to be created, for more fields than a table
/// takes, and, unless `may_migrate`, for anything that is missing; its `info` names the record and
/// the fields. 108 for a new field with too long a name, and 10000 for a new field with a value of
/// unknown type.
pub fn extensions<'a>(
    records: impl Iterator<Item = (&'a RecordId, &'a Fields)>,
    definition_of: impl Fn(&TypeName) -> Arc<TypeDefinition>,
    may_migrate: bool,
) -> Result<Extensions, ApiError> {
    let mut types: Needed = BTreeMap::new();
    for (id, fields) in records {
        let entry = types.entry(id.record_type.clone()).or_insert_with(|| {
            let definition = definition_of(&id.record_type);
            let is_new = !definition.is_created;
            (definition, TypeExtension::default(), is_new)
        });
        for (name, value) in fields {
            let derived = derive(&entry.0, &mut entry.1, name, value, may_migrate);
            derived.map_err(|error| match error.code {
                Code::IncompatibleSchema => of_record(error, id, [name]),
                _ => error,
            })?;
        }
        let is_missing = entry.2 || !entry.1.fields.is_empty();
        if is_missing && !may_migrate {
            return Err(of_record(migration_disabled(), id, entry.1.fields.keys()));
        }
    }
    let is_needed =
        |(_, extension, is_new): &(_, TypeExtension, bool)| *is_new || !extension.fields.is_empty();
    types.retain(|_, entry| is_needed(entry));
    check_references(&types, definition_of)?;
    check_number(&types)?;
    Ok(extensions_of(types))
}

/// Compares the fields that types shall have with the types as they are.
///
/// # Errors
/// 114 for a field that exists with another type, for a reference to a type that neither exists nor
/// is about to be created, and for more fields than a table takes; 108 for a new field with too
/// long a name.
pub fn creations(
    requested: &BTreeMap<TypeName, BTreeMap<String, FieldType>>,
    definition_of: impl Fn(&TypeName) -> Arc<TypeDefinition>,
) -> Result<Extensions, ApiError> {
    let mut types: Needed = BTreeMap::new();
    for (name, fields) in requested {
        let definition = definition_of(name);
        let mut extension = TypeExtension::default();
        for (field, kind) in fields {
            match definition.fields.get(field) {
                None => {
                    check_length("a field's name", field)?;
                    extension.fields.insert(field.clone(), kind.clone());
                }
                Some(existing) if existing.is_compatible(kind) => {}
                Some(existing) => {
                    return Err(of_type(conflict_by_name(existing, kind), name, field));
                }
            }
        }
        let is_new = !definition.is_created;
        if is_new || !extension.fields.is_empty() {
            types.insert(name.clone(), (definition, extension, is_new));
        }
    }
    check_references(&types, definition_of)?;
    check_number(&types)?;
    Ok(extensions_of(types))
}

/// Per type: its definition, what it lacks, and whether it is new.
type Needed = BTreeMap<TypeName, (Arc<TypeDefinition>, TypeExtension, bool)>;

fn extensions_of(types: Needed) -> Extensions {
    types
        .into_iter()
        .map(|(name, (_, extension, _))| (name, extension))
        .collect()
}

fn derive(
    definition: &TypeDefinition,
    extension: &mut TypeExtension,
    name: &str,
    value: &Value,
    may_migrate: bool,
) -> Result<(), ApiError> {
    let existing = definition.fields.get(name);
    if matches!(value, Value::Unknown(_)) && existing.is_none() {
        return Err(ApiError::unexpected(format!(
            "field {name:?} has a value of unknown type"
        )));
    }
    let Some(derived) = FieldType::of(value) else {
        return Ok(());
    };
    if let Some(existing) = existing {
        return match existing.is_compatible(&derived) {
            true => Ok(()),
            false if !may_migrate => Err(migration_disabled()),
            false => Err(conflict(existing, &derived)),
        };
    }
    match extension.fields.get(name) {
        Some(earlier) if *earlier != derived => Err(cannot_migrate()),
        Some(_) => Ok(()),
        None => {
            // Not only clients name fields: hooks do, too.
            check_length("a field's name", name)?;
            extension.fields.insert(name.to_owned(), derived);
            Ok(())
        }
    }
}

fn check_references(
    types: &Needed,
    definition_of: impl Fn(&TypeName) -> Arc<TypeDefinition>,
) -> Result<(), ApiError> {
    for (name, (_, extension, _)) in types {
        for (field, kind) in &extension.fields {
            if let FieldType::Reference(target) = kind
                && !types.contains_key(target)
                && !definition_of(target).is_created
            {
                return Err(of_type(cannot_migrate(), name, field));
            }
        }
    }
    Ok(())
}

fn check_number(types: &Needed) -> Result<(), ApiError> {
    let mut types = types.values();
    types.try_for_each(|(definition, extension, _)| {
        check_fields(definition, extension.fields.values())
    })
}

/// Adds the record and the fields to a schema error: v1's messages name neither.
fn of_record<'a>(
    error: ApiError,
    id: &RecordId,
    fields: impl IntoIterator<Item = &'a String>,
) -> ApiError {
    let fields: Vec<&String> = fields.into_iter().collect();
    let error = error.with_info("record", json!(id.to_string()));
    error.with_info("fields", json!(fields))
}

fn of_type(error: ApiError, name: &TypeName, field: &str) -> ApiError {
    let error = error.with_info("type", json!(name.as_str()));
    error.with_info("fields", json!([field]))
}

fn migration_disabled() -> ApiError {
    let message = "Record schema requires migration but migration is disabled.";
    ApiError::new(Code::IncompatibleSchema, message)
}

fn cannot_migrate() -> ApiError {
    ApiError::new(Code::IncompatibleSchema, "failed to migrate record schema")
}

fn conflict(existing: &FieldType, derived: &FieldType) -> ApiError {
    let message = format!(
        "conflicting schema {} => {}",
        existing.wire_name(),
        derived.wire_name()
    );
    ApiError::new(Code::IncompatibleSchema, message)
}

/// The conflict as `schema:create` reports it: the message begins with the name of the error.
fn conflict_by_name(existing: &FieldType, requested: &FieldType) -> ApiError {
    let mut error = conflict(existing, requested);
    error.message = format!("IncompatibleSchema: {}", error.message);
    error
}
