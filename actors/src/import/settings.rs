//! Roles, record types with their settings, and field rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skytrail_schema::acl::Acl;
use skytrail_schema::auth_keys::AuthKeys;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{
    CreationRoles, DefaultAccess, EventBody, RoleFlags, Stream, TypeExtension,
};
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{RoleName, TypeName};
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::width::check_fields;

use super::{Importer, Outcome};
use crate::install::install;
use crate::record::apply;
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;
use crate::record::types::number_present;
use crate::record::unique;

/// A type as it would be.
pub(super) type PlannedType = Arc<TypeDefinition>;

/// A record type of the source.
#[derive(Clone, Debug)]
pub struct ImportedType {
    /// The name.
    pub name: TypeName,
    /// Whether there can be records of it; a type can have settings before.
    pub is_created: bool,
    /// Its fields.
    pub fields: BTreeMap<String, FieldType>,
    /// Sets of fields that are unique together.
    pub unique: Vec<Vec<String>>,
    /// The last number of each sequence field.
    pub counters: BTreeMap<String, i64>,
    /// The access list of records that have none of their own.
    pub default_access: Option<Acl>,
    /// The roles that may create records.
    pub creation_roles: BTreeSet<RoleName>,
}

impl Importer {
    /// Returns a type as it is, or would be.
    pub fn definition(&self, name: &TypeName) -> Arc<TypeDefinition> {
        let planned = self.planned.read().get(name).cloned();
        planned.unwrap_or_else(|| self.env.definition(name))
    }

    /// Imports roles.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn roles(&self, roles: &[(RoleName, RoleFlags)]) -> Result<Vec<Outcome>, ApiError> {
        let position = self.env.model.position();
        let (plan, outcomes) = plan_roles(&self.env, roles);
        self.append(plan, position).await?;
        Ok(outcomes)
    }

    /// Creates what every app has, where it is missing. It follows the roles and precedes
    /// everything else.
    ///
    /// # Errors
    /// Those of [`install`].
    pub async fn install(&self, auth_keys: &AuthKeys) -> Result<(), ApiError> {
        if self.options.is_dry {
            return Ok(());
        }
        // A server that exists already was installed with its own settings.
        if self.env.definition(&TypeName::user()).is_created {
            return Ok(());
        }
        install(&self.env, auth_keys, true).await
    }

    /// Imports a type. Fields that are here with another type stay; their names are returned with
    /// what is wrong.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn record_type(
        &self,
        imported: &ImportedType,
    ) -> Result<(Outcome, BTreeMap<String, String>), ApiError> {
        let mut kinds = imported.fields.values();
        if kinds.any(|kind| *kind == FieldType::Sequence) {
            // Records that SQL has deleted before get no numbers, and new ones do.
            self.env.captured.drain().await?;
        }
        let position = self.read_position().await?;
        let here = self.definition(&imported.name);
        let mut clashes = BTreeMap::new();
        for (field, kind) in &imported.fields {
            match here.fields.get(field) {
                Some(other) if other != kind && !(is_text(other) && is_text(kind)) => {
                    let reason = format!(
                        "it is {} in the source and {} here",
                        kind.wire_name(),
                        other.wire_name()
                    );
                    clashes.insert(field.clone(), reason);
                }
                _ => {}
            }
        }
        let missing = imported.fields.iter();
        let missing = missing.filter(|(name, _)| !here.fields.contains_key(*name));
        if let Err(refused) = check_fields(&here, missing.map(|(_, kind)| kind)) {
            return Ok((Outcome::Refused(refused.message), clashes));
        }
        let mut plan = Plan::default();
        let mut bodies = self.extension(imported, &here).await?;
        let mut kept = Vec::new();
        match (&here.default_access, &imported.default_access) {
            (None, Some(access)) => {
                let access = access.clone();
                bodies.push(EventBody::TypeDefaultAccessSet(DefaultAccess { access }));
            }
            (here, imported) if here != imported => kept.push("default access"),
            _ => {}
        }
        if here.creation_roles.is_empty() && !imported.creation_roles.is_empty() {
            let roles = imported.creation_roles.clone();
            bodies.push(EventBody::TypeCreationRolesSet(CreationRoles { roles }));
        } else if here.creation_roles != imported.creation_roles {
            kept.push("roles that may create");
        }
        let mut definition = TypeDefinition::clone(&here);
        for mut body in bodies {
            if let EventBody::TypeExtended(extension) = &mut body {
                let stored = self.env.definition(&imported.name);
                number_present(&self.env, &mut plan, &stored, extension).await?;
            }
            self.plan_type(&mut plan, &mut definition, body);
        }
        let is_changed = !plan.events.is_empty();
        self.append(plan, position).await?;
        if self.options.is_dry {
            let planned = Arc::new(definition);
            self.planned.write().insert(imported.name.clone(), planned);
        }
        let outcome = match (is_changed, kept.as_slice()) {
            (_, [_, ..]) => Outcome::Kept(format!("different settings here: {}", kept.join(", "))),
            (true, []) => Outcome::Added,
            (false, []) => Outcome::Present,
        };
        Ok((outcome, clashes))
    }

    /// Returns the event that gives a type what it lacks, if it lacks anything.
    async fn extension(
        &self,
        imported: &ImportedType,
        here: &TypeDefinition,
    ) -> Result<Vec<EventBody>, ApiError> {
        if !imported.is_created {
            return Ok(Vec::new());
        }
        let fields = imported.fields.iter();
        let fields = fields.filter(|(name, _)| !here.fields.contains_key(*name));
        let is_declared = |set: &Vec<String>| {
            let mut declared = here.unique.iter();
            declared.any(|it| unique::are_same(it, set))
        };
        let unique = imported.unique.iter().filter(|set| !is_declared(set));
        let last = self.env.store.load_snapshot().await?.sequences;
        let gave = |field: &str, number: i64| {
            let mut last = last.iter();
            last.any(|it| it.0 == imported.name && it.1 == field && it.2 >= number)
        };
        let counters = imported.counters.iter();
        let counters = counters.filter(|(field, number)| !gave(field, **number));
        let extension = TypeExtension {
            fields: fields
                .map(|(name, kind)| (name.clone(), kind.clone()))
                .collect(),
            unique: unique.cloned().collect(),
            no_longer_unique: Vec::new(),
            counters: counters.map(|(name, last)| (name.clone(), *last)).collect(),
            numbered: BTreeMap::new(),
        };
        let is_idle = here.is_created && extension == TypeExtension::default();
        Ok(if is_idle {
            Vec::new()
        } else {
            vec![EventBody::TypeExtended(extension)]
        })
    }

    /// Notes what a type would become.
    pub(super) fn plan_extension(&self, name: &TypeName, extension: &TypeExtension) {
        let mut definition = TypeDefinition::clone(&self.definition(name));
        apply::extend(&mut definition, extension);
        self.planned
            .write()
            .insert(name.clone(), Arc::new(definition));
    }

    /// Adds an event of a type to a plan, and applies it to the type.
    fn plan_type(&self, plan: &mut Plan, definition: &mut TypeDefinition, body: EventBody) {
        if let EventBody::TypeExtended(extension) = &body {
            for (field, last) in &extension.counters {
                plan.number(field, Some(*last));
            }
            apply::extend(definition, extension);
        }
        plan.change_type(definition, body);
        definition.version += 1;
    }

    /// Imports the field rules, if there are none here.
    ///
    /// # Errors
    /// The log failed.
    pub async fn field_access(&self, rules: FieldAccess) -> Result<Outcome, ApiError> {
        let position = self.env.model.position();
        let (version, here) = self.env.model.get_field_access();
        let wire = rules.to_wire();
        if here.to_wire() == wire {
            return Ok(Outcome::Present);
        }
        if version > 0 {
            let reason = "different rules exist here".to_owned();
            return Ok(Outcome::Kept(reason));
        }
        let mut plan = Plan::default();
        plan.push(
            Stream::FieldAccess,
            version + 1,
            EventBody::FieldAccessSet(rules),
        );
        self.append(plan, position).await?;
        Ok(Outcome::Added)
    }
}

/// Plans to define the roles that are not here; existing ones stay as they are.
pub(crate) fn plan_roles(env: &RecordEnv, roles: &[(RoleName, RoleFlags)]) -> (Plan, Vec<Outcome>) {
    let existing = env.model.get_roles().into_iter();
    let mut existing: BTreeMap<_, _> = existing.map(|(name, (_, flags))| (name, flags)).collect();
    let mut plan = Plan::default();
    let mut define = |(name, flags): &(RoleName, RoleFlags)| match existing.get(name) {
        None => {
            existing.insert(name.clone(), *flags);
            let body = EventBody::RoleDefined(*flags);
            plan.push(Stream::Role(name.clone()), 1, body);
            Outcome::Added
        }
        Some(here) if here == flags => Outcome::Present,
        Some(_) => Outcome::Kept("its flags differ here".to_owned()),
    };
    let outcomes = roles.iter().map(&mut define).collect();
    (plan, outcomes)
}

fn is_text(kind: &FieldType) -> bool {
    matches!(kind, FieldType::String | FieldType::CaselessString)
}
