//! Looks up what a condition depends on in addition to the record.

use std::collections::BTreeMap;

use skytrail_schema::id::{RecordKey, TypeName};
use skytrail_schema::predicate::{Condition, Direction, LookedUp};
use skytrail_schema::record::Head;

use super::super::run::Run;
use crate::projection::conn::Conn;
use crate::projection::{accounts, read};

/// Looks up the caller's relations that the query's condition uses.
pub(super) async fn look_up_relations(
    run: &Run<'_>,
    conn: &mut Conn<'_>,
) -> Result<LookedUp, sqlx::Error> {
    let condition = run.bound.condition.as_ref();
    let me = run.viewer.caller.user.as_ref();
    let mut lookups = LookedUp::new(condition, me.cloned());
    let Some(me) = me else { return Ok(lookups) };
    for relation in condition.into_iter().flat_map(Condition::relations) {
        for direction in [Direction::Outward, Direction::Inward] {
            let users = accounts::related(conn, relation, direction, me).await?;
            lookups.add_related((relation, direction), users);
        }
    }
    Ok(lookups)
}

/// Looks up the records that a batch refers to, and replaces those of the previous one.
pub(super) async fn look_up_records(
    run: &Run<'_>,
    conn: &mut Conn<'_>,
    batch: &[(i64, Head)],
    lookups: &mut LookedUp,
) -> Result<(), sqlx::Error> {
    let mut targets: BTreeMap<TypeName, Vec<RecordKey>> = BTreeMap::new();
    for id in lookups.targets(batch.iter().map(|(_, head)| &head.record)) {
        targets.entry(id.record_type).or_default().push(id.key);
    }
    let mut records = Vec::new();
    for (name, keys) in targets {
        if let Some(layout) = run.catalog.get(&name) {
            let heads = read::heads(conn, layout, &keys).await?;
            records.extend(heads.into_iter().flatten().map(|head| head.record));
        }
    }
    records.retain(|record| run.viewer.may_look_into(record));
    lookups.set_records(records);
    Ok(())
}
