//! `relation:add`, `relation:remove`

use serde_json::{Value as Json, json};
use skytrail_actors::accounts::messages::ChangeRelations;
use skytrail_actors::context::RequestContext;
use skytrail_actors::record::messages::FetchRecords;
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::predicate::{Direction, Relation};
use skytrail_schema::query::Scope;

use super::{Call, Outcome, request};
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
    let context = command.context.clone();
    let changed = call.services.accounts.change_relations(command).await?;
    let mut results = Vec::with_capacity(targets.len());
    for (target, changed) in targets.into_iter().zip(changed) {
        results.push(match changed {
            Ok(user) => {
                let data = profile(&call.services, &context, &user).await?;
                json!({"id": target, "type": "user", "data": data})
            }
            Err(error) => json!({"id": target, "type": "error", "data": error.to_wire()}),
        });
    }
    Ok(Json::Array(results).into())
}

/// Returns a user's record; access lists do not hide the users that one relates to.
async fn profile(
    services: &Services,
    context: &RequestContext,
    user: &UserId,
) -> Result<Json, ApiError> {
    let mut context = context.clone();
    context.caller.key = KeyKind::Master;
    let ids = vec![RecordId::user(user)];
    let found = services
        .records
        .fetch(FetchRecords {
            context,
            scope: Scope::Public,
            ids,
        })
        .await?;
    let record = found.into_iter().flatten().next();
    Ok(record.map_or(Json::Null, |record| Json::Object(record.to_wire())))
}
