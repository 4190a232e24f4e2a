//! What a save requires of the records that it replaces, checked in every attempt, before hooks.
//!
//! A caller learns no more than from a query: a predicate is refused for the fields that a query
//! refuses, and a record that the query could not return does not match.

use std::collections::HashMap;
use std::sync::Arc;

use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{Database, TypeName};
use skytrail_schema::predicate::bind::bind;
use skytrail_schema::predicate::evaluate::Nothing;
use skytrail_schema::predicate::{Condition, Context, Predicate};
use skytrail_schema::query::Scope;
use skytrail_schema::record::Head;

use super::{Drafts, failed};
use crate::evaluation::Evaluation;
use crate::record::draft::taken;
use crate::record::env::{RecordEnv, Rights};
use crate::record::messages::{Precondition, SaveRecords};
use crate::record::read::may_find;
use crate::store::Viewer;

/// A precondition, bound to the types of the save's records.
pub(super) enum Bound {
    Nothing,
    Absent,
    /// By type; an error if a query of the caller would be refused with it.
    Matches(HashMap<TypeName, Result<Condition, ApiError>>),
}

impl Bound {
    /// Binds a precondition to the types as they are now, for a caller with these rights.
    pub(super) fn new(
        env: &RecordEnv,
        (precondition, command): (&Precondition, &SaveRecords),
        rights: &Rights,
    ) -> Self {
        let predicate = match precondition {
            Precondition::Nothing => return Self::Nothing,
            Precondition::Absent => return Self::Absent,
            Precondition::Matches(predicate) => predicate,
        };
        let mut conditions = HashMap::new();
        for item in command.items.iter().flatten() {
            let name = &item.id.record_type;
            if !conditions.contains_key(name) {
                conditions.insert(name.clone(), bind_to(env, name, predicate, rights));
            }
        }
        Self::Matches(conditions)
    }

    /// Returns the version of a record that the save builds on, given the stored one.
    ///
    /// A save that only creates builds on none. Whether there is one matters only after the right
    /// to create was checked, see [`Self::refuse_existing`].
    ///
    /// # Errors
    /// 113 without a record that could match, and those of a query with the predicate.
    pub(super) fn original(
        &self,
        record_type: &TypeName,
        stored: Option<Arc<Head>>,
    ) -> Result<Option<Arc<Head>>, ApiError> {
        match self {
            Self::Nothing => Ok(stored),
            Self::Absent => Ok(None),
            Self::Matches(conditions) => {
                if let Some(Err(error)) = conditions.get(record_type) {
                    return Err(error.clone());
                }
                stored.map(Some).ok_or_else(not_matching)
            }
        }
    }

    /// Returns the error for a draft that would create a record under an id that is taken.
    pub(super) fn refuse_existing(&self) -> ApiError {
        match self {
            Self::Absent => ApiError::new(Code::Duplicated, "the record exists already"),
            Self::Nothing | Self::Matches(_) => taken(),
        }
    }

    /// Fails the drafts whose record, as it is before them, does not match. The caller may change these records.
    pub(super) async fn check(&self, caller: &Caller, database: &Database, drafts: &mut Drafts) {
        let Self::Matches(conditions) = self else {
            return;
        };
        let bound = conditions.iter().filter_map(|(name, condition)| {
            let condition = condition.as_ref().ok()?;
            Some((name, Evaluation::new(Some(condition))))
        });
        let mut evaluations: HashMap<&TypeName, Evaluation<'_>> = bound.collect();
        let scope = match database {
            Database::Public => Scope::Public,
            Database::Private(user) => Scope::Private(user.clone()),
        };
        let viewer = Viewer {
            scope: &scope,
            caller,
        };
        let context = Context {
            user: caller.user.as_ref(),
            lookups: &Nothing,
        };
        for slot in drafts.iter_mut() {
            let Ok(draft) = slot else { continue };
            let stored = draft.original.as_ref().map(|head| &head.record);
            let stored = stored.filter(|record| may_find(&viewer, record));
            let evaluation = evaluations.get_mut(&draft.record.id.record_type);
            let matches = match (stored, evaluation) {
                (Some(record), Some(evaluation)) => evaluation.matches(record, context).await,
                _ => Ok(false),
            };
            let error = match matches {
                Ok(true) => continue,
                Ok(false) => not_matching(),
                Err(error) => error,
            };
            *slot = Err(failed(&draft.record.id, error));
        }
    }
}

fn bind_to(
    env: &RecordEnv,
    name: &TypeName,
    predicate: &Predicate,
    rights: &Rights,
) -> Result<Condition, ApiError> {
    let definition = env.definition(name);
    if !definition.is_created {
        // It has no records, and a query would find none whatever it asks for.
        return Ok(Condition::Constant(Some(false)));
    }
    let types = std::slice::from_ref(&definition);
    let of = (definition.as_ref(), types);
    rights
        .rules
        .check_predicate(predicate, &rights.caller, of)?;
    bind(predicate, &definition, types)
}

/// The same for a record that does not exist: a record of another database is one of these.
fn not_matching() -> ApiError {
    let message = "the record does not exist, or does not match the condition in \"if\"";
    ApiError::new(Code::ConstraintViolated, message)
}
