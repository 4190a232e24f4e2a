//! Changing record types: new fields, renamed and deleted fields, settings, access to fields.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{
    CreationRoles, DefaultAccess, EventBody, FieldDeletion, FieldRename, Intervals, NewEvent,
    Personal, RoleFlags, Stream, TypeExtension,
};
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{RecordId, RoleName, TypeName};
use skytrail_schema::record::Fields;
use skytrail_schema::types::{FieldType, TypeDefinition};
use tokio::sync::Mutex;

use super::apply;
use super::attempt::{Outcome, commit, retry_on_conflict, turn_of};
use super::decide::Plan;
use super::env::RecordEnv;
use super::messages::{ChangeType, CreateTypes, SetFieldAccess, TypeChange};
use super::migrate::{self, Extensions};
use super::unique;
use crate::context::RequestContext;
use crate::log::{ConflictKey, SequenceRequest};

/// Extends types so that records with these fields can be stored.
///
/// # Errors
/// Those of [`migrate::extensions`] and of the log.
pub async fn extend_by<'a>(
    env: &RecordEnv,
    records: impl Iterator<Item = (&'a RecordId, &'a Fields)> + Clone + Send,
    context: &RequestContext,
) -> Result<(), ApiError> {
    let needed = |definition_of: &DefinitionOf<'_>| {
        migrate::extensions(records.clone(), definition_of, context.may_migrate)
    };
    if extend(env, needed, context).await? {
        announce(env);
    }
    Ok(())
}

/// Creates types and gives them fields. Tells plugins even if everything existed already.
///
/// # Errors
/// Those of [`migrate::creations`] and of the log.
pub async fn create(env: &RecordEnv, command: CreateTypes) -> Result<(), ApiError> {
    let needed =
        |definition_of: &DefinitionOf<'_>| migrate::creations(&command.types, definition_of);
    extend(env, needed, &command.context).await?;
    announce(env);
    Ok(())
}

/// Finds a type as it is now.
type DefinitionOf<'a> = dyn Fn(&TypeName) -> Arc<TypeDefinition> + Sync + 'a;

/// Extends types by what is `needed`; returns whether anything was.
async fn extend(
    env: &RecordEnv,
    needed: impl Fn(&DefinitionOf<'_>) -> Result<Extensions, ApiError>,
    context: &RequestContext,
) -> Result<bool, ApiError> {
    retry_on_conflict(None, |attempt| {
        let read_position = env.model.position();
        let definition_of = |name: &TypeName| env.definition(name);
        let needed = needed(&definition_of);
        async move {
            let needed = needed?;
            if needed.is_empty() {
                return Ok(Outcome::Done(false));
            }
            let mut extensions = needed.iter();
            if attempt == 0
                && extensions.any(|(name, it)| apply::numbers(&env.definition(name), it))
            {
                // Records that SQL has deleted before get no numbers, and new ones do.
                env.captured.drain().await?;
                return Ok(Outcome::Conflict);
            }
            let mut plan = Plan::default();
            for (name, mut extension) in needed {
                let definition = env.definition(&name);
                number_present(env, &mut plan, &definition, &mut extension).await?;
                plan.change_type(&definition, EventBody::TypeExtended(extension));
            }
            let done = commit(&env.log, plan, read_position, context).await?;
            Ok(done.map(|_| true))
        }
    })
    .await
}

/// Tells plugins the types as they are now.
fn announce(env: &RecordEnv) {
    env.plugins.announce("schema-changed", schema(env));
}

/// Returns all types with their fields, as clients and plugins see them.
pub fn schema(env: &RecordEnv) -> Json {
    let is_public =
        |definition: &&Arc<TypeDefinition>| definition.is_created && !definition.name.is_reserved();
    let types = env.model.get_types();
    let fields_of = |definition: &TypeDefinition| -> Json {
        let fields = definition.fields.iter();
        let own = fields.filter(|(name, _)| !name.starts_with('_'));
        own.map(|(name, field)| json!({"name": name, "type": field.wire_name()}))
            .collect()
    };
    let types = types.iter().filter(is_public).map(|definition| {
        let fields = json!({"fields": fields_of(definition)});
        (definition.name.to_string(), fields)
    });
    Json::Object(types.collect())
}

/// Numbers the records that exist when a sequence field is added: the projector gives them the
/// first numbers.
///
/// So the store must have them all, and none may be created or deleted until the field exists. New
/// records get the numbers after these.
pub(crate) async fn number_present(
    env: &RecordEnv,
    plan: &mut Plan,
    definition: &TypeDefinition,
    extension: &mut TypeExtension,
) -> Result<(), ApiError> {
    if !apply::numbers(definition, extension) {
        return Ok(());
    }
    env.applied.wait_for(env.model.position()).await?;
    let num_records = env.store.count_records(definition).await?;
    let num_records = i64::try_from(num_records).unwrap_or(i64::MAX);
    plan.reads.insert(ConflictKey::population(&definition.name));
    for (field, kind) in &extension.fields {
        if *kind == FieldType::Sequence {
            extension.numbered.insert(field.clone(), num_records);
            plan.number(field, Some(num_records));
        }
    }
    Ok(())
}

/// Changes a type's settings or one of its fields.
///
/// # Errors
/// 110 for a field that does not exist, or whose new name is taken; those of [`unique::declare`],
/// of [`unique::refuse_constrained`] and of the log.
pub async fn change(
    env: &RecordEnv,
    turn: &Mutex<()>,
    command: ChangeType,
) -> Result<(), ApiError> {
    match &command.change {
        TypeChange::Unique(fields, true) => {
            return unique::declare(env, turn, &command, fields).await;
        }
        TypeChange::Unique(fields, false) => {
            unique::refuse_constrained(env, &command.name, fields).await?;
        }
        _ => {}
    }
    commit_change(env, turn, &command).await?;
    if matches!(
        command.change,
        TypeChange::RenameField { .. } | TypeChange::DeleteField(_)
    ) {
        announce(env);
    }
    Ok(())
}

/// Appends a change, if it changes anything; returns whether it does.
pub(super) async fn commit_change(
    env: &RecordEnv,
    turn: &Mutex<()>,
    command: &ChangeType,
) -> Result<bool, ApiError> {
    retry_on_conflict(turn_of(turn, &command.context), |_| async {
        let read_position = env.model.position();
        let mut plan = Plan::default();
        plan.change_by(env, &command.name, &command.change)?;
        if plan.events.is_empty() {
            return Ok(Outcome::Done(false));
        }
        let done = commit(&env.log, plan, read_position, &command.context).await?;
        Ok(done.map(|_| true))
    })
    .await
}

/// Sets the rules of access to fields.
///
/// # Errors
/// Those of the log.
pub async fn set_field_access(env: &RecordEnv, command: SetFieldAccess) -> Result<(), ApiError> {
    retry_on_conflict(None, |_| async {
        let read_position = env.model.position();
        let mut plan = Plan::default();
        plan.set_field_access(env.model.get_field_access().0, command.access.clone());
        let done = commit(&env.log, plan, read_position, &command.context).await?;
        Ok(done.discard())
    })
    .await
}

/// Returns the error for a refused change of a field, with the code that v1 has for whatever its
/// database refuses.
fn cannot_alter(reason: &str) -> ApiError {
    let message = format!("failed to alter table: {reason}");
    ApiError::new(Code::ResourceNotFound, message)
}

/// Refuses a field that the type does not have.
pub(super) fn require_field(definition: &TypeDefinition, field: &str) -> Result<(), ApiError> {
    let name = &definition.name;
    if !definition.is_created {
        return Err(cannot_alter(&format!("type {name:?} does not exist")));
    }
    if !definition.fields.contains_key(field) {
        let reason = format!("type {name:?} has no field {field:?}");
        return Err(cannot_alter(&reason));
    }
    Ok(())
}

impl Plan {
    fn change_by(
        &mut self,
        env: &RecordEnv,
        name: &TypeName,
        change: &TypeChange,
    ) -> Result<(), ApiError> {
        let definition = env.definition(name);
        let body = match change {
            TypeChange::DefaultAccess(access) => EventBody::TypeDefaultAccessSet(DefaultAccess {
                access: access.clone(),
            }),
            TypeChange::Retention(retention) => EventBody::TypeRetentionSet(*retention),
            TypeChange::Personal(is_personal) => {
                let is_personal = *is_personal;
                EventBody::TypePersonalSet(Personal { is_personal })
            }
            TypeChange::Intervals(are_kept) => {
                let are_kept = *are_kept;
                EventBody::TypeIntervalsSet(Intervals { are_kept })
            }
            TypeChange::CreationRoles(roles) => {
                self.define_roles(env, roles.iter());
                EventBody::TypeCreationRolesSet(CreationRoles {
                    roles: roles.clone(),
                })
            }
            TypeChange::RenameField { from, to } => {
                require_field(&definition, from)?;
                if definition.fields.contains_key(to) {
                    let reason = format!("type {:?} already has a field {to:?}", name.as_str());
                    return Err(cannot_alter(&reason));
                }
                self.rename_in_field_access(env, name, (from, to));
                let (from, to) = (from.clone(), to.clone());
                EventBody::TypeFieldRenamed(FieldRename { from, to })
            }
            TypeChange::DeleteField(field) => {
                require_field(&definition, field)?;
                let field = field.clone();
                EventBody::TypeFieldDeleted(FieldDeletion { field })
            }
            TypeChange::Unique(fields, are_unique) => {
                let Some(extension) = unique::extension(&definition, fields, *are_unique)? else {
                    return Ok(());
                };
                EventBody::TypeExtended(extension)
            }
        };
        self.change_type(&definition, body);
        Ok(())
    }

    /// Renames a field in the rules of access to fields; otherwise a new name would open it.
    fn rename_in_field_access(
        &mut self,
        env: &RecordEnv,
        name: &TypeName,
        (from, to): (&str, &str),
    ) {
        self.reads.insert(ConflictKey::stream(&Stream::FieldAccess));
        let (version, access) = env.model.get_field_access();
        if let Some(access) = access.with_renamed_field(name.as_str(), from, to) {
            self.set_field_access(version, access);
        }
    }

    fn set_field_access(&mut self, version: u32, access: FieldAccess) {
        let body = EventBody::FieldAccessSet(access);
        self.push(Stream::FieldAccess, version + 1, body);
    }

    /// Adds an event to a type's stream.
    pub fn change_type(&mut self, definition: &TypeDefinition, body: EventBody) {
        let stream = Stream::Type(definition.name.clone());
        self.push(stream, definition.version + 1, body);
    }

    /// Adds an event to any stream, which the decision has read and now writes.
    pub fn push(&mut self, stream: Stream, version: u32, body: EventBody) {
        let key = ConflictKey::stream(&stream);
        self.reads.insert(key);
        self.writes.insert(key);
        self.events.push(NewEvent {
            stream,
            version,
            body,
            provenance: Vec::new(),
            subject: None,
        });
    }

    /// Defines the roles that do not exist yet.
    pub fn define_roles<'a>(&mut self, env: &RecordEnv, roles: impl Iterator<Item = &'a RoleName>) {
        let roles_now = env.model.get_roles();
        for role in roles.filter(|role| !roles_now.contains_key(*role)) {
            let stream = Stream::Role((*role).clone());
            self.push(stream, 1, EventBody::RoleDefined(RoleFlags::default()));
        }
    }

    /// Requests the number of a sequence field for the plan's next event.
    pub fn number(&mut self, field: &str, explicit: Option<i64>) {
        let event = self.events.len();
        self.sequences.push(SequenceRequest {
            event,
            field: field.to_owned(),
            explicit,
        });
    }
}
