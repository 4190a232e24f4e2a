//! `relation:add`, `relation:remove`

use serde_json::{Value as Json, json};
use skytrail_actors::accounts::messages::ChangeRelations;
use skytrail_actors::context::RequestContext;
use skytrail_actors::record::messages::FetchRecords;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::predicate::{Direction, Relation};
use skytrail_schema::query::Scope;

use super::{Call, Outcome, Reply, request};
use crate::services::Services;

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
        let message = "Only friend and follow relation is supported";
        ApiError::new(Code::NotSupported, message)
    })?;
    let targets = request::texts(&call.body, "targets")?.unwrap_or_default();
    let command = ChangeRelations {
        context: call.context,
        relation,
        direction: Direction::Outward,
        targets: request::users(targets.clone()),
        is_addition,
    };
    let context = command.context.clone();
    let changed = call.services.accounts.change_relations(command).await?;
    let mut results = Vec::with_capacity(targets.len());
    for (target, changed) in targets.into_iter().zip(changed) {
        results.push(match (changed, is_addition) {
            (Ok(user), true) => {
                let data = profile(&call.services, &context, &user).await?;
                json!({"id": target, "type": "user", "data": data})
            }
            (Ok(_), false) => json!({"id": target}),
            (Err(_), true) => {
                let error = ApiError::unexpected(format!("failed to fetch user id = {target}"));
                json!({"id": target, "type": "error", "data": error.to_wire()})
            }
            (Err(error), false) => json!({"id": target, "type": "error", "data": error.to_wire()}),
        });
    }
    Reply::new(&results)
}

/// Returns a user's record as the caller may see it; of a hidden one that it is there.
async fn profile(
    services: &Services,
    context: &RequestContext,
    user: &UserId,
) -> Result<Json, ApiError> {
    let id = RecordId::user(user);
    let command = FetchRecords {
        context: context.clone(),
        scope: Scope::Public,
        ids: vec![id.clone()],
    };
    let found = services.records.fetch(command).await?;
    let record = found.into_iter().flatten().next();
    Ok(record.map_or_else(
        || json!({"_id": id.to_string(), "_type": "record", "_access": null}),
        |record| Json::Object(record.to_wire()),
    ))
}
