//! What is asked.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use skytrail_schema::code::ApiError;
use skytrail_schema::predicate::{Operand, Predicate};
use skytrail_schema::query::{Query, Scope};

/// A query that can be followed.
#[derive(Clone, Debug)]
pub struct LiveQuery {
    /// What it asks.
    pub query: Query,
    /// In which database.
    pub scope: Scope,
    /// Tells it from other queries: those that ask the same share the text.
    pub(super) text: Arc<str>,
    /// Whether the result depends on other records or relations, too: then events of its own
    /// records are not enough to tell what becomes of it.
    pub(super) is_wide: bool,
    /// Whether other records or relations decide which of its records the query finds.
    pub(super) looks_beyond: bool,
}

impl LiveQuery {
    /// Parses the parameters of `record:query`, except for those that make no sense here.
    ///
    /// # Errors
    /// Those of [`Query::parse`]; 108 for an order, a page, a count or a time in the past.
    pub fn parse(parameters: &Map<String, Json>, scope: Scope) -> Result<Self, ApiError> {
        let query = Query::parse(parameters)?;
        let refused = [
            ("sort", !query.sort.is_empty()),
            ("limit", query.limit.is_some()),
            ("offset", query.offset > 0),
            ("count", query.count),
            (
                "as_of",
                parameters.get("as_of").is_some_and(|it| !it.is_null()),
            ),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, is_there)| *is_there) {
            let text =
                format!("a live query cannot have {name}: it covers every record that matches");
            return Err(ApiError::invalid_argument(text, &[name]));
        }
        let member = |name: &str| parameters.get(name).cloned().unwrap_or_default();
        let database = match &scope {
            Scope::Public => Json::Null,
            Scope::Private(user) => user.as_str().into(),
            Scope::Union => Json::Bool(true),
        };
        let members = ["record_type", "predicate", "include", "desired_keys"].map(member);
        let looks_beyond = query.predicate.as_ref().is_some_and(looks_beyond);
        Ok(Self {
            text: json!([members, database]).to_string().into(),
            is_wide: !query.include.is_empty() || looks_beyond,
            looks_beyond,
            query,
            scope,
        })
    }
}

/// Whether a predicate looks beyond the record.
fn looks_beyond(predicate: &Predicate) -> bool {
    let is_beyond = |operand: &Operand| matches!(operand, Operand::Path(path) if path.0.len() > 1);
    match predicate {
        Predicate::And(parts) | Predicate::Or(parts) => parts.iter().any(looks_beyond),
        Predicate::Not(part) => looks_beyond(part),
        Predicate::Compare(_, left, right) | Predicate::In(left, right) => {
            is_beyond(left) || is_beyond(right)
        }
        Predicate::UserRelation { .. } => true,
    }
}
