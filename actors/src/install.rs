//! The first events of a new log: the type of user records and the first role.

use std::collections::BTreeMap;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, RoleFlags, Stream, TypeExtension};
use skytrail_schema::id::{RoleName, TypeName};
use skytrail_schema::types::FieldType;
use tokio::sync::Mutex;

use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit, until_settled};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;

/// The role that opens the administrators' actions from the start.
const ADMIN_ROLE: &str = "Admin";

/// Makes what every app has, where it is missing.
///
/// That is the type `user` with a field per auth key (each alternative unique) and the role
/// `Admin`. New auth keys of an existing app are added as case-sensitive text, as v1 does it.
///
/// # Errors
/// What the log says.
pub async fn install(env: &RecordEnv, auth_keys: &[Vec<String>]) -> Result<(), ApiError> {
    let context = RequestContext::system();
    until_settled(&Mutex::new(()), |_| async {
        let read_position = env.live.position();
        let mut plan = Plan::default();
        let definition = env.definition(&TypeName::user());
        let extension = user_extension(env, auth_keys);
        if !definition.is_created || extension != TypeExtension::default() {
            plan.change_type(&definition, EventBody::TypeExtended(extension));
        }
        if env.live.get_roles().is_empty() {
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
        Ok(
            match commit(&env.log, plan, read_position, &context).await? {
                Outcome::Done(_) => Outcome::Done(()),
                Outcome::Conflict => Outcome::Conflict,
            },
        )
    })
    .await
}

fn user_extension(env: &RecordEnv, auth_keys: &[Vec<String>]) -> TypeExtension {
    let definition = env.definition(&TypeName::user());
    let mut fields = BTreeMap::new();
    if !definition.is_created {
        fields.insert("username".to_owned(), FieldType::CaselessString);
        fields.insert("email".to_owned(), FieldType::CaselessString);
        fields.insert("last_login_at".to_owned(), FieldType::DateTime);
    }
    for key in auth_keys.iter().flatten() {
        fields.entry(key.clone()).or_insert(FieldType::String);
    }
    fields.retain(|name, _| !definition.fields.contains_key(name));
    let is_new = |set: &&Vec<String>| !definition.unique.contains(set);
    TypeExtension {
        fields,
        unique: auth_keys.iter().filter(is_new).cloned().collect(),
    }
}
