//! What the evaluation of a condition needs besides the record.

use std::collections::{BTreeMap, BTreeSet};

use crate::projection::conn::Conn;
use skytrail_schema::id::{RecordKey, TypeName};
use skytrail_schema::predicate::column::Via;
use skytrail_schema::predicate::{Direction, LookedUp};
use skytrail_schema::record::Head;

use super::super::run::Run;
use crate::projection::{people, read};

/// The caller's relations, and the records that a portion of candidates refers to.
#[derive(Default)]
pub(super) struct Around {
    vias: Vec<Via>,
    known: LookedUp,
}

impl Around {
    /// Loads the relations that the query's condition asks for.
    pub(super) async fn load(run: &Run<'_>, conn: &mut Conn<'_>) -> Result<Self, sqlx::Error> {
        let mut around = Self::default();
        around.known.me.clone_from(&run.asker.caller.user);
        let Some(condition) = &run.bound.condition else {
            return Ok(around);
        };
        let columns = condition.columns().into_iter();
        around.vias = columns.filter_map(|column| column.via.clone()).collect();
        for relation in condition.relations() {
            let Some(me) = &around.known.me else { break };
            let outward = people::related(conn, relation, Direction::Outward, me).await?;
            let inward = people::related(conn, relation, Direction::Inward, me).await?;
            let tag = |user| (relation, user);
            around.known.outward.extend(outward.into_iter().map(tag));
            around.known.inward.extend(inward.into_iter().map(tag));
        }
        Ok(around)
    }

    /// Returns what was looked up.
    pub(super) fn known(&self) -> &LookedUp {
        &self.known
    }

    /// Loads the records that a portion refers to, in the place of those before.
    pub(super) async fn load_records(
        &mut self,
        run: &Run<'_>,
        conn: &mut Conn<'_>,
        portion: &[(i64, Head)],
    ) -> Result<(), sqlx::Error> {
        self.known.records.clear();
        let mut wanted: BTreeMap<TypeName, BTreeSet<RecordKey>> = BTreeMap::new();
        for via in &self.vias {
            for id in portion
                .iter()
                .filter_map(|(_, head)| via.target_of(&head.record))
            {
                wanted.entry(id.record_type).or_default().insert(id.key);
            }
        }
        for (name, keys) in wanted {
            let Some(layout) = run.catalog.get(&name) else {
                continue;
            };
            let keys: Vec<RecordKey> = keys.into_iter().collect();
            let heads = read::heads(conn, layout, &keys).await?;
            let records = heads.into_iter().flatten().map(|head| head.record);
            let records = records.filter(|record| run.asker.may_look_into(record));
            self.known
                .records
                .extend(records.map(|record| (record.id.clone(), record)));
        }
        Ok(())
    }
}
