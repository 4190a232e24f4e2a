//! `relation:add`, `relation:remove`

use serde_json::{Value as Json, json};
use skytrail_actors::accounts::messages::ChangeRelations;
use skytrail_schema::code::ApiError;
use skytrail_schema::predicate::{Direction, Relation};

use super::{Call, Outcome, request};

pub(super) async fn add(call: Call) -> Outcome {
    change(call, true).await
}

pub(super) async fn remove(call: Call) -> Outcome {
    change(call, false).await
}

async fn change(call: Call, is_addition: bool) -> Outcome {
    let name = request::text(&call.body, "name")?.unwrap_or_default();
    let relation = Relation::from_name(name.trim_start_matches('_'));
    let relation = relation.ok_or_else(|| {
        ApiError::invalid_argument("only friend and follow are relations", &["name"])
    })?;
    let targets = request::texts(&call.body, "targets")?.unwrap_or_default();
    let command = ChangeRelations {
        context: call.context,
        relation,
        direction: Direction::Outward,
        targets: request::users(targets.clone()),
        is_addition,
    };
    let changed = call.services.accounts.change_relations(command).await?;
    let write = |(target, result): (String, Result<_, ApiError>)| match result {
        Ok(_) => json!({"id": target}),
        Err(error) => json!({"id": target, "type": "error", "data": error.to_wire()}),
    };
    Ok(Json::Array(targets.into_iter().zip(changed).map(write).collect()).into())
}
