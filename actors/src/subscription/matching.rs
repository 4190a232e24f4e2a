//! Whether a subscription is about a record, and whether its owner may hear of it. Pure.

use std::sync::Arc;

use skytrail_schema::acl::Level;
use skytrail_schema::caller::Caller;
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::Database;
use skytrail_schema::predicate::Condition;
use skytrail_schema::predicate::bind::bind;
use skytrail_schema::predicate::column::Types as _;
use skytrail_schema::query::Query;
use skytrail_schema::record::Record;
use skytrail_schema::types::TypeDefinition;

/// Which records a subscription is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// All of the type.
    All,
    /// Those that fulfil a condition.
    Those(Condition),
    /// None: the condition makes no sense for the type as it is, or asks for fields that the owner
    /// may not search.
    None,
}

/// Holds a subscription's query against the types and the rules for fields, as a query is.
pub fn wanted(
    query: &Query,
    caller: &Caller,
    rules: &FieldRules,
    types: &[Arc<TypeDefinition>],
) -> Wanted {
    let Some(definition) = types.definition(&query.record_type) else {
        return Wanted::None;
    };
    if rules.check_query(query, caller, types).is_err() {
        return Wanted::None;
    }
    match &query.predicate {
        None => Wanted::All,
        Some(predicate) => bind(predicate, definition, types).map_or(Wanted::None, Wanted::Those),
    }
}

/// Whether the subscription's owner may see the record at all.
pub fn may_see(caller: &Caller, record: &Record) -> bool {
    match &record.database {
        Database::Public => caller.may(Level::Read, record),
        Database::Private(user) => caller.user.as_ref() == Some(user),
    }
}
