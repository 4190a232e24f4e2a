//! Changing record types: extension by what records bring, and settings.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{
    CreationRoles, DefaultAccess, EventBody, NewEvent, RoleFlags, Stream, TypeExtension,
};
use skytrail_schema::id::{RecordId, RoleName, TypeName};
use skytrail_schema::record::Fields;
use skytrail_schema::types::{FieldType, TypeDefinition};
use tokio::sync::Mutex;

use super::attempt::{Outcome, commit, until_settled};
use super::decide::Plan;
use super::env::RecordEnv;
use super::messages::{ChangeType, TypeChange};
use super::migrate;
use crate::context::RequestContext;
use crate::log::{ConflictKey, SequenceRequest};

/// Extends types so that records with these fields can be stored.
///
/// # Errors
/// As [`migrate::extensions`], or what the log says.
pub async fn extend_by<'a>(
    env: &RecordEnv,
    records: impl Iterator<Item = (&'a RecordId, &'a Fields)> + Clone,
    context: &RequestContext,
) -> Result<(), ApiError> {
    let turn = Mutex::new(());
    let is_extended = until_settled(&turn, |_| {
        let records = records.clone();
        async move {
            let read_position = env.live.position();
            let definition_of = |name: &TypeName| TypeDefinition::clone(&env.definition(name));
            let needed = migrate::extensions(records, definition_of, context.may_migrate)?;
            if needed.is_empty() {
                return Ok(Outcome::Done(false));
            }
            let mut plan = Plan::default();
            for (name, extension) in needed {
                number_present(env, &mut plan, &name, &extension).await?;
                let definition = env.definition(&name);
                plan.change_type(&definition, EventBody::TypeExtended(extension));
            }
            Ok(
                match commit(&env.log, plan, read_position, context).await? {
                    Outcome::Done(_) => Outcome::Done(true),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        }
    })
    .await?;
    if is_extended {
        env.plugins.announce("schema-changed", schema(env));
    }
    Ok(())
}

/// Returns all types with their fields, as clients and plugins see them.
pub fn schema(env: &RecordEnv) -> Json {
    let is_public =
        |definition: &&Arc<TypeDefinition>| definition.is_created && !definition.name.is_reserved();
    let types = env.live.get_types();
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

/// Records that are there when a sequence field is added get the first numbers, from the projector.
/// So the store must have them all, and none may come or go until the field is there; new
/// records are numbered behind them.
async fn number_present(
    env: &RecordEnv,
    plan: &mut Plan,
    name: &TypeName,
    extension: &TypeExtension,
) -> Result<(), ApiError> {
    let definition = env.definition(name);
    let is_sequence = |field: &&FieldType| **field == FieldType::Sequence;
    if !definition.is_created || extension.fields.values().find(is_sequence).is_none() {
        return Ok(());
    }
    env.applied.wait_for(env.live.position()).await?;
    let num_records = env.store.count_records(&definition).await?;
    plan.reads.insert(ConflictKey::population(name));
    for (field, kind) in &extension.fields {
        if is_sequence(&kind) {
            plan.number(field, i64::try_from(num_records).ok());
        }
    }
    Ok(())
}

/// Changes a type's settings.
///
/// # Errors
/// What the log says.
pub async fn change(
    env: &RecordEnv,
    turn: &Mutex<()>,
    command: ChangeType,
) -> Result<(), ApiError> {
    until_settled(turn, |_| {
        let command = &command;
        async move {
            let read_position = env.live.position();
            let definition = env.definition(&command.name);
            let mut plan = Plan::default();
            let body = match &command.change {
                TypeChange::DefaultAccess(access) => {
                    EventBody::TypeDefaultAccessSet(DefaultAccess {
                        access: access.clone(),
                    })
                }
                TypeChange::CreationRoles(roles) => {
                    plan.define_roles(env, roles.iter());
                    EventBody::TypeCreationRolesSet(CreationRoles {
                        roles: roles.clone(),
                    })
                }
            };
            plan.change_type(&definition, body);
            discard(commit(&env.log, plan, read_position, &command.context).await?)
        }
    })
    .await
}

fn discard<T>(outcome: Outcome<T>) -> Result<Outcome<()>, ApiError> {
    Ok(match outcome {
        Outcome::Done(_) => Outcome::Done(()),
        Outcome::Conflict => Outcome::Conflict,
    })
}

impl Plan {
    /// Adds an event of a type's stream.
    pub fn change_type(&mut self, definition: &TypeDefinition, body: EventBody) {
        let stream = Stream::Type(definition.name.clone());
        self.push(stream, definition.version + 1, body);
    }

    /// Adds an event of any stream, which the decision has read and now writes.
    pub fn push(&mut self, stream: Stream, version: u32, body: EventBody) {
        let key = ConflictKey::stream(&stream);
        self.reads.insert(key);
        self.writes.insert(key);
        self.events.push(NewEvent {
            stream,
            version,
            body,
            provenance: Vec::new(),
        });
    }

    /// Defines those of the roles that do not exist yet.
    pub fn define_roles<'a>(&mut self, env: &RecordEnv, roles: impl Iterator<Item = &'a RoleName>) {
        let known = env.live.get_roles();
        for role in roles.filter(|role| !known.contains_key(*role)) {
            let stream = Stream::Role((*role).clone());
            self.push(stream, 1, EventBody::RoleDefined(RoleFlags::default()));
        }
    }

    /// Asks for the number of a sequence field of the plan's next event.
    pub fn number(&mut self, field: &str, explicit: Option<i64>) {
        let event = self.events.len();
        self.sequences.push(SequenceRequest {
            event,
            field: field.to_owned(),
            explicit,
        });
    }
}
