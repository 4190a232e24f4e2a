//! The rules of access to fields for past states: those of today, under the names that fields had,
//! and in addition those of then.
//!
//! Rules and changes of types are taken as of one position. If a field were renamed in between, its
//! rule would be looked up under the old name.

use std::collections::BTreeMap;
use std::sync::Arc;

use skytrail_schema::caller::Caller;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, Stream};
use skytrail_schema::field_access::{FieldRules, Reshaping};
use skytrail_schema::id::TypeName;

use super::env::RecordEnv;
use super::readers;
use super::write_model::WriteModel;

/// Returns the rules for records of some types as they were at a position: nobody sees or searches
/// what today's rules or those of then forbid.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn of_both_times(
    env: &RecordEnv,
    caller: &Caller,
    types: &[&TypeName],
    position: u64,
) -> Result<Arc<FieldRules>, ApiError> {
    let mut rules = PastRules::load(env, caller, types, position)
        .await?
        .at(position);
    if !caller.is_master() {
        let then = readers::rules_at(env, position).await?;
        Arc::make_mut(&mut rules).hold_besides(Arc::new(then));
    }
    Ok(rules)
}

/// Today's rules, and what has happened to the fields of some types since a position.
#[derive(Debug)]
pub(super) struct PastRules {
    today: Arc<FieldRules>,
    since: BTreeMap<TypeName, Vec<(u64, Reshaping)>>,
}

impl PastRules {
    /// Reads what has happened to types. Reads nothing for the master key, which no rule restricts.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub(super) async fn load(
        env: &RecordEnv,
        caller: &Caller,
        types: &[&TypeName],
        position: u64,
    ) -> Result<Self, ApiError> {
        let (until, today) = env.model.at_one_position(WriteModel::get_field_rules);
        let mut since = BTreeMap::new();
        if !caller.is_master() {
            env.applied.wait_for(until).await?;
            for name in types {
                let changes = changes(env, name, (position + 1, until)).await?;
                since.insert(TypeName::clone(name), changes);
            }
        }
        Ok(Self { today, since })
    }

    /// Returns the rules for records and queries as of a position. It must not be before the
    /// position that they were loaded for.
    pub(super) fn at(&self, position: u64) -> Arc<FieldRules> {
        let mut rules = Arc::clone(&self.today);
        for (name, changes) in &self.since {
            let later = changes.iter().filter(|(at, _)| *at > position);
            let later: Vec<Reshaping> = later.map(|(_, change)| change.clone()).collect();
            if !later.is_empty() {
                Arc::make_mut(&mut rules).carry_back(name, &later);
            }
        }
        rules
    }
}

/// Lists what happened to a type's fields within a range of positions.
async fn changes(
    env: &RecordEnv,
    name: &TypeName,
    (from, until): (u64, u64),
) -> Result<Vec<(u64, Reshaping)>, ApiError> {
    if env.definition(name).position < from {
        return Ok(Vec::new());
    }
    let stream = Stream::Type(name.clone());
    let mut changes = Vec::new();
    for (_, event) in env.streams().read(&stream, from..=until).await? {
        let change = match event.body {
            EventBody::TypeFieldRenamed(rename) => Reshaping::Renamed {
                from: rename.from,
                to: rename.to,
            },
            EventBody::TypeFieldDeleted(deletion) => Reshaping::Deleted {
                field: deletion.field,
                rules: Arc::new(readers::rules_at(env, event.position).await?),
            },
            _ => continue,
        };
        changes.push((event.position, change));
    }
    Ok(changes)
}
