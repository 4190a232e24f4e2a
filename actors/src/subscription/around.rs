//! What a condition depends on besides the record.

use std::collections::{BTreeSet, HashMap};

use skytrail_schema::caller::Caller;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::predicate::{Cell, Condition, Relation, Surroundings};
use skytrail_schema::record::{Head, Record};

use super::matching::may_see;
use crate::record::env::RecordEnv;
use crate::record::past;

/// The records that one record refers to, and relations of the subscription's owner.
#[derive(Default)]
pub(super) struct Around {
    records: HashMap<RecordId, Record>,
    related: BTreeSet<(Relation, UserId, UserId)>,
}

impl Around {
    /// Loads what the condition asks for, as of the present; when its fields have the names of a
    /// position of the `past`, records as of that. What the subscription's owner may not see is not
    /// there.
    pub(super) async fn load(
        env: &RecordEnv,
        condition: &Condition,
        (record, past): (&Record, Option<u64>),
        owner: &Caller,
    ) -> Result<Self, ApiError> {
        let mut around = Self::default();
        let columns = condition.columns().into_iter();
        let vias = columns.filter_map(|column| column.via.as_ref());
        let targets: Vec<RecordId> = vias.filter_map(|via| via.target_of(record)).collect();
        if !targets.is_empty() {
            for (id, head) in env.load_heads(&targets).await?.by_id {
                if may_see(owner, &head.record)
                    && let Some(record) = as_of(env, &head, past).await?
                {
                    around.records.insert(id, record);
                }
            }
        }
        let mut wanted = BTreeSet::new();
        collect_relations(condition, record, &mut wanted);
        for (relation, other) in wanted {
            let Some(me) = &owner.user else { break };
            for (from, to) in [(me, &other), (&other, me)] {
                let others = std::slice::from_ref(to);
                let (_, found) = env.store.load_relations(relation, from, others).await?;
                if found.contains(to) {
                    around.related.insert((relation, from.clone(), to.clone()));
                }
            }
        }
        Ok(around)
    }
}

/// Returns a record that is there as it was at a position.
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

impl Surroundings for Around {
    fn find_record(&self, id: &RecordId) -> Option<&Record> {
        self.records.get(id)
    }

    fn is_related(&self, relation: Relation, from: &UserId, to: &UserId) -> bool {
        let wanted = (relation, from.clone(), to.clone());
        self.related.contains(&wanted)
    }
}
