//! `relation:query`, `relation:add`, `relation:remove`; v1's iOS SDK calls the last `relation:delete`

use serde_json::{Value as Json, json};
use skytrail_actors::accounts::messages::{ChangeRelations, ListRelated, RelatedUser};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;
use skytrail_schema::predicate::{Direction, Relation};

use super::{Call, Outcome, Reply, request};

pub(super) async fn query(call: Call) -> Outcome {
    let limit = request::whole_number(&call.body, "limit")?.filter(|limit| *limit > 0);
    let offset = offset(&call, limit)?;
    // One more than allowed shows that there are too many.
    let most = (call.services.settings.limits.page_records as u64).saturating_add(1);
    let command = ListRelated {
        relation: relation(&call)?,
        direction: direction(&call)?,
        limit: Some(limit.map_or(most, |limit| limit.min(most))),
        offset,
        context: call.context,
    };
    let found = call.services.accounts.list_related(command).await?;
    call.services
        .settings
        .limits
        .check_page(found.users.len())?;
    let users: Vec<Json> = found.users.into_iter().map(item).collect();
    Reply::with_info(&users, Some(&json!({"count": found.count})))
}

pub(super) async fn add(call: Call) -> Outcome {
    change(call, true).await
}

pub(super) async fn remove(call: Call) -> Outcome {
    change(call, false).await
}

async fn change(call: Call, is_addition: bool) -> Outcome {
    let relation = relation(&call)?;
    let targets = request::texts(&call.body, "targets")?.unwrap_or_default();
    let command = ChangeRelations {
        context: call.context,
        relation,
        targets: request::users(targets.clone()),
        is_addition,
    };
    let changed = call.services.accounts.change_relations(command).await?;
    let write = |(target, changed): (String, Result<RelatedUser, ApiError>)| match changed {
        Ok(user) if is_addition => item(user),
        Ok(_) => json!({"id": target}),
        Err(error) => {
            let error = if is_addition {
                ApiError::unexpected(format!("failed to fetch user id = {target}"))
            } else {
                error
            };
            json!({"id": target, "type": "error", "data": error.to_wire()})
        }
    };
    let results: Vec<Json> = targets.into_iter().zip(changed).map(write).collect();
    Reply::new(&results)
}

/// Encodes a user as clients expect it. If there is no record that the caller may read, at least
/// the id is included.
fn item(user: RelatedUser) -> Json {
    let data = user.profile.map_or_else(
        || {
            let id = RecordId::user(&user.id).to_string();
            json!({"_id": id, "_type": "record", "_access": null})
        },
        |record| Json::Object(record.to_wire()),
    );
    json!({"id": user.id, "type": "user", "data": data})
}

fn relation(call: &Call) -> Result<Relation, ApiError> {
    let name = request::text(&call.body, "name")?.unwrap_or_default();
    let relation = Relation::from_name(name.strip_prefix('_').unwrap_or(name));
    relation.ok_or_else(|| {
        let message = "Only friend and follow relation is supported";
        ApiError::new(Code::NotSupported, message)
    })
}

fn direction(call: &Call) -> Result<Direction, ApiError> {
    match request::text(&call.body, "direction")?.unwrap_or_default() {
        "outward" => Ok(Direction::Outward),
        "inward" => Ok(Direction::Inward),
        "mutual" | "" => Ok(Direction::Mutual),
        _ => Err(ApiError::invalid_argument(
            "only outward, inward and mutual direction is allowed",
            &["direction"],
        )),
    }
}

/// Reads how many users to skip: `offset`, or else the pages of `limit` before `page`, counted from
/// 1.
fn offset(call: &Call, limit: Option<u64>) -> Result<u64, ApiError> {
    if let Some(offset) = request::whole_number(&call.body, "offset")? {
        return Ok(offset);
    }
    let page = request::whole_number(&call.body, "page")?.unwrap_or_default();
    Ok(page
        .saturating_sub(1)
        .saturating_mul(limit.unwrap_or_default()))
}
