//! Looking up what a condition depends on in addition to the record.

use std::collections::BTreeSet;
use std::iter;

use skytrail_schema::caller::Caller;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::predicate::{Cell, Condition, Direction, LookedUp, Relation};
use skytrail_schema::query::Scope;
use skytrail_schema::record::{Head, Record};

use crate::record::env::RecordEnv;
use crate::record::past;
use crate::store::Viewer;

/// Looks up what the condition asks for, as of the present.
///
/// If its fields have the names of a position in the `past`, records are looked up as of that. What
/// the subscription's owner may not see counts as missing; their private database is open to them.
pub(super) async fn look_up(
    env: &RecordEnv,
    condition: &Condition,
    (record, past): (&Record, Option<u64>),
    owner: &Caller,
) -> Result<LookedUp, ApiError> {
    let mut lookups = LookedUp::new(Some(condition), owner.user.clone());
    let targets: Vec<RecordId> = lookups.targets(iter::once(record)).into_iter().collect();
    if !targets.is_empty() {
        let scope = owner.user.clone().map_or(Scope::Public, Scope::Private);
        let viewer = Viewer {
            scope: &scope,
            caller: owner,
        };
        let mut records = Vec::new();
        for head in env.load_heads(&targets).await?.by_id.values() {
            if viewer.may_look_into(&head.record) {
                records.extend(as_of(env, head, past).await?);
            }
        }
        lookups.set_records(records);
    }
    let Some(me) = &owner.user else {
        return Ok(lookups);
    };
    let mut relations = BTreeSet::new();
    collect_relations(condition, record, &mut relations);
    // Only relations to users that the record names are looked up: there may be many others.
    for (relation, other) in relations {
        for (direction, from, to) in [
            (Direction::Outward, me, &other),
            (Direction::Inward, &other, me),
        ] {
            let others = std::slice::from_ref(to);
            let (_, found) = env.store.load_relations(relation, from, others).await?;
            let related = found.contains(to).then(|| other.clone());
            lookups.add_related((relation, direction), related);
        }
    }
    Ok(lookups)
}

/// Returns an existing record as it was at a position.
async fn as_of(
    env: &RecordEnv,
    head: &Head,
    position: Option<u64>,
) -> Result<Option<Record>, ApiError> {
    match position {
        None => Ok(Some(head.record.clone())),
        Some(position) => past::record_at(env, &head.record.id, position).await,
    }
}

fn collect_relations(
    condition: &Condition,
    record: &Record,
    out: &mut BTreeSet<(Relation, UserId)>,
) {
    match condition {
        Condition::And(parts) | Condition::Or(parts) => {
            for part in parts {
                collect_relations(part, record, out);
            }
        }
        Condition::Not(part) => collect_relations(part, record, out),
        Condition::Related {
            column, relation, ..
        } => {
            if let Some(Cell::Text(other)) = column.read(record) {
                out.insert((*relation, UserId::from(&*other)));
            }
        }
        _ => {}
    }
}
