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

/// Returns the condition that records must fulfil; `None` if none can.
///
/// The subscription is held against the types and the field rules as a query is. No record can
/// match if its predicate makes no sense for the type as it is, or asks for fields that the owner
/// may not search.
pub fn match_condition(
    query: &Query,
    caller: &Caller,
    rules: &FieldRules,
    types: &[Arc<TypeDefinition>],
) -> Option<Condition> {
    let definition = types.definition(&query.record_type)?;
    rules.check_query(query, caller, types).ok()?;
    match &query.predicate {
        None => Some(Condition::Constant(Some(true))),
        Some(predicate) => bind(predicate, definition, types).ok(),
    }
}

/// Whether the subscription's owner may see the record at all.
pub fn may_see(caller: &Caller, record: &Record) -> bool {
    match &record.database {
        Database::Public => caller.may(Level::Read, record),
        Database::Private(user) => caller.user.as_ref() == Some(user),
    }
}
