//! Fields whose values are unique together.
//!
//! A set of fields is declared first, and then its records are looked through once more: saves that
//! were decided before the declaration, and are in the log by then, did not know of it. If two
//! records have the same values after all, the declaration is withdrawn.
//!
//! Where others write by SQL, their constraints make fields unique as well, see [`crate::capture`].

use serde_json::json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::TypeExtension;
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::types::{FieldType, TypeDefinition};
use tokio::sync::Mutex;

use super::env::RecordEnv;
use super::messages::{ChangeType, TypeChange};
use super::types::{commit_change, require_field};
use crate::context::{CommitGate, RequestContext};

/// How many sets a type can have: a save looks up the values that it takes in each.
const MAX_SETS: usize = 16;
/// How many fields a set can have.
const MAX_FIELDS: usize = 8;

/// Makes fields unique together that no two records have the same values in.
///
/// # Errors
/// 109 if two records have the same values: the fields are not declared then. Those of
/// [`extension`] and of the log.
pub(crate) async fn declare(
    env: &RecordEnv,
    turn: &Mutex<()>,
    command: &ChangeType,
    fields: &[String],
) -> Result<(), ApiError> {
    let extension = extension(&env.definition(&command.name), fields, true)?;
    if let Err(error) = refuse_shared(env, command, fields).await {
        // If they were declared already, the server was killed before it looked through the records.
        // Other errors say nothing about the records.
        if error.code == Code::Duplicated && extension.is_none() {
            withdraw(env, turn, command, fields).await?;
        }
        return Err(error);
    }
    let has_declared = commit_change(env, turn, command).await?;
    let refused = refuse_shared(env, command, fields).await;
    if refused.is_err() && has_declared {
        withdraw(env, turn, command, fields).await?;
    }
    refused
}

/// Refuses to withdraw what a constraint in the database makes unique: the ingestion of SQL would
/// declare it again.
///
/// # Errors
/// 108 if there is such a constraint; those of the database.
pub(crate) async fn refuse_constrained(
    env: &RecordEnv,
    name: &TypeName,
    fields: &[String],
) -> Result<(), ApiError> {
    let sets = env.captured.unique_sets().await?;
    let is_this = |(of, set): &(TypeName, Vec<String>)| of == name && are_same(set, fields);
    if !sets.iter().any(is_this) {
        return Ok(());
    }
    let list = fields.join(", ");
    let message = format!("a constraint of the database makes {list} unique: drop it first");
    Err(ApiError::invalid_argument(message, &["fields"]))
}

/// Returns whether two sets have the same fields, in any order.
pub(crate) fn are_same(one: &[String], other: &[String]) -> bool {
    let has = |set: &[String], part: &[String]| part.iter().all(|field| set.contains(field));
    has(one, other) && has(other, one)
}

/// Withdraws a declaration, whether or not the client still waits.
async fn withdraw(
    env: &RecordEnv,
    turn: &Mutex<()>,
    command: &ChangeType,
    fields: &[String],
) -> Result<(), ApiError> {
    let command = ChangeType {
        context: RequestContext {
            deadline: None,
            commit_gate: CommitGate::default(),
            ..command.context.clone()
        },
        name: command.name.clone(),
        change: TypeChange::Unique(fields.to_vec(), false),
    };
    commit_change(env, turn, &command).await.map(drop)
}

async fn refuse_shared(
    env: &RecordEnv,
    command: &ChangeType,
    fields: &[String],
) -> Result<(), ApiError> {
    let definition = env.definition(&command.name);
    let Some([one, other]) = find_shared(env, &definition, fields).await? else {
        return Ok(());
    };
    let list = fields.join(", ");
    // Not everybody who may declare fields may see all records.
    let message = if command.context.caller.is_master() {
        format!("{one} and {other} have the same {list}")
    } else {
        format!("two records have the same {list}")
    };
    Err(ApiError::new(Code::Duplicated, message).with_info("arguments", json!(fields)))
}

/// Finds two records that have the same values in some fields, as the log is now.
///
/// # Errors
/// Those of the store.
pub(crate) async fn find_shared(
    env: &RecordEnv,
    definition: &TypeDefinition,
    fields: &[String],
) -> Result<Option<[RecordId; 2]>, ApiError> {
    env.applied.wait_for(env.model.position()).await?;
    let found = env.store.find_shared(definition, fields).await?;
    let id = |key| RecordId {
        record_type: definition.name.clone(),
        key,
    };
    Ok(found.map(|keys| keys.map(id)))
}

/// Returns the change of a type that makes fields unique together, or no longer; `None` if they are
/// so already.
///
/// # Errors
/// 108 for fields that cannot be unique, 110 for a type or a field that does not exist.
pub(crate) fn extension(
    definition: &TypeDefinition,
    fields: &[String],
    are_unique: bool,
) -> Result<Option<TypeExtension>, ApiError> {
    check(definition, fields)?;
    let declared = definition.unique.iter();
    let declared = declared.filter(|set| are_same(set, fields));
    let declared: Vec<Vec<String>> = declared.cloned().collect();
    if are_unique != declared.is_empty() {
        return Ok(None);
    }
    if are_unique && definition.unique.len() >= MAX_SETS {
        let message = format!("a type can have {MAX_SETS} unique sets of fields");
        return Err(ApiError::invalid_argument(message, &["fields"]));
    }
    let unique = if are_unique {
        vec![fields.to_vec()]
    } else {
        Vec::new()
    };
    Ok(Some(TypeExtension {
        unique,
        no_longer_unique: declared,
        ..TypeExtension::default()
    }))
}

fn check(definition: &TypeDefinition, fields: &[String]) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::invalid_argument(message, &["fields"]));
    if definition.name.is_user() {
        return refuse("AUTH_RECORD_KEYS says which fields of users are unique".to_owned());
    }
    if fields.is_empty() || fields.len() > MAX_FIELDS {
        return refuse(format!("fields should list 1 to {MAX_FIELDS} fields"));
    }
    for (index, field) in fields.iter().enumerate() {
        require_field(definition, field)?;
        if fields.iter().take(index).any(|earlier| earlier == field) {
            return refuse(format!("fields has {field:?} twice"));
        }
        let kind = definition.fields.get(field);
        if let Some(kind) = kind.filter(|kind| !is_comparable(kind)) {
            return refuse(format!("{field:?} cannot be unique: its type is {kind}"));
        }
    }
    Ok(())
}

fn is_comparable(kind: &FieldType) -> bool {
    use FieldType::{Asset, Geometry, Json, Location};
    !matches!(kind, Json | Asset | Location | Geometry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(unique: &[&[&str]]) -> TypeDefinition {
        let mut definition = TypeDefinition::empty(TypeName::from("note"));
        definition.is_created = true;
        for name in ["slug", "room", "place"] {
            let name = name.to_owned();
            definition.fields.insert(name, FieldType::String);
        }
        let json = FieldType::Json;
        definition.fields.insert("tags".to_owned(), json);
        definition.unique = unique.iter().map(|set| named(set)).collect();
        definition
    }

    fn named(fields: &[&str]) -> Vec<String> {
        fields.iter().map(|&field| field.to_owned()).collect()
    }

    #[test]
    fn a_set_is_the_same_in_any_order() {
        let declared = definition(&[&["room", "slug"]]);
        let again = extension(&declared, &named(&["slug", "room"]), true);
        assert_eq!(again.unwrap(), None);
        let gone = extension(&declared, &named(&["slug", "room"]), false);
        let gone = gone.unwrap().unwrap();
        assert_eq!(gone.no_longer_unique, [named(&["room", "slug"])]);
        let part = extension(&declared, &named(&["slug"]), true);
        assert_eq!(part.unwrap().unwrap().unique, [named(&["slug"])]);
        let other = extension(&declared, &named(&["slug"]), false);
        assert_eq!(other.unwrap(), None);
    }

    #[test]
    fn fields_that_cannot_be_unique_are_named() {
        let declared = definition(&[]);
        let code = |fields: &[&str]| {
            let error = extension(&declared, &named(fields), true).unwrap_err();
            (error.code.number(), error.message.to_string())
        };
        let (number, message) = code(&["slug", "tags"]);
        assert_eq!((number, message.contains("\"tags\"")), (108, true));
        let (number, message) = code(&["slug", "slug"]);
        assert_eq!((number, message.contains("\"slug\" twice")), (108, true));
        let (number, message) = code(&["other"]);
        assert_eq!((number, message.contains("\"other\"")), (110, true));
        assert_eq!(code(&[]).0, 108);
    }
}
