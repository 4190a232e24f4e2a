//! The first events of a log, and those that a changed `AUTH_RECORD_KEYS` requires: the type of
//! user records with its unique fields, and the first role.

use std::collections::BTreeMap;

use skytrail_schema::auth_keys::{AuthKeys, LAST_LOGIN};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, RoleFlags, Stream, TypeExtension};
use skytrail_schema::id::{RoleName, TypeName};
use skytrail_schema::types::{FieldType, TypeDefinition};

use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, commit, retry_on_conflict};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;
use crate::record::unique;

/// The role that can use the administrators' actions from the start.
const ADMIN_ROLE: &str = "Admin";

/// Creates what every app has, where it is missing.
///
/// This is the type `user` with a field per auth key (each alternative unique) and the role
/// `Admin`. In an existing app, new auth keys are added as case-sensitive strings, and alternatives
/// that are no longer configured need no longer be unique. Both happen only where types may be
/// extended, that is, with `may_migrate`.
///
/// # Errors
/// 114 where types may not be extended; 109 when users share a value that has to become unique; and
/// those of the log.
pub async fn install(
    env: &RecordEnv,
    auth_keys: &AuthKeys,
    may_migrate: bool,
) -> Result<(), ApiError> {
    let context = RequestContext::system();
    retry_on_conflict(None, |_| async {
        let read_position = env.model.position();
        let mut plan = Plan::default();
        let definition = env.definition(&TypeName::user());
        let extension = user_extension(&definition, auth_keys, may_migrate);
        if !definition.is_created || extension != TypeExtension::default() {
            if definition.is_created && !may_migrate {
                return Err(refusal(&extension));
            }
            check_unique(env, &mut plan, &definition, &extension).await?;
            plan.change_type(&definition, EventBody::TypeExtended(extension));
        }
        if env.model.get_roles().is_empty() {
            let flags = RoleFlags {
                is_admin: true,
                by_default: false,
            };
            let role = Stream::Role(RoleName::from(ADMIN_ROLE));
            plan.push(role, 1, EventBody::RoleDefined(flags));
        }
        if plan.events.is_empty() {
            return Ok(Outcome::Done(()));
        }
        let done = commit(&env.log, plan, read_position, &context).await?;
        Ok(done.discard())
    })
    .await
}

fn user_extension(
    definition: &TypeDefinition,
    auth_keys: &AuthKeys,
    may_migrate: bool,
) -> TypeExtension {
    let mut fields = BTreeMap::new();
    if !definition.is_created {
        fields.insert("username".to_owned(), FieldType::CaselessString);
        fields.insert("email".to_owned(), FieldType::CaselessString);
    }
    fields.insert(LAST_LOGIN.to_owned(), FieldType::DateTime);
    for key in auth_keys.keys() {
        fields.entry(key.to_owned()).or_insert(FieldType::String);
    }
    fields.retain(|name, _| !definition.fields.contains_key(name));
    let alternatives = auth_keys.alternatives();
    let is_new = |set: &&Vec<String>| !definition.unique.contains(set);
    let is_left_over = |set: &&Vec<String>| may_migrate && !alternatives.contains(set);
    TypeExtension {
        fields,
        unique: alternatives.iter().filter(is_new).cloned().collect(),
        no_longer_unique: definition
            .unique
            .iter()
            .filter(is_left_over)
            .cloned()
            .collect(),
        counters: BTreeMap::new(),
        numbered: BTreeMap::new(),
    }
}

fn refusal(extension: &TypeExtension) -> ApiError {
    let fields: Vec<&str> = extension.fields.keys().map(String::as_str).collect();
    let message = format!(
        "AUTH_RECORD_KEYS needs a change of the type user (new fields: {fields:?}, unique from \
         now on: {:?}); start once with DEV_MODE=YES to apply it",
        extension.unique
    );
    ApiError::new(Code::IncompatibleSchema, message)
}

/// Checks all users for values that have to become unique. No user may be created or deleted until
/// the decision is committed.
async fn check_unique(
    env: &RecordEnv,
    plan: &mut Plan,
    before: &TypeDefinition,
    extension: &TypeExtension,
) -> Result<(), ApiError> {
    if !before.is_created || extension.unique.is_empty() {
        return Ok(());
    }
    plan.reads.insert(ConflictKey::population(&before.name));
    for fields in &extension.unique {
        if let Some([one, other]) = unique::find_shared(env, before, fields).await? {
            let message = format!(
                "AUTH_RECORD_KEYS makes {fields:?} unique, but {one} and {other} have the same"
            );
            return Err(ApiError::new(Code::Duplicated, message));
        }
    }
    Ok(())
}
