//! The numbers that records got when their type got a sequence field, by the position of that event
//! and the place of the record: the log does not have them.
//!
//! A store that an earlier version filled lacks them until [`SqlStore::add_numbers`] has been
//! called.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skytrail_actors::store::StoreError;
use skytrail_schema::id::TypeName;
use skytrail_schema::types::TypeDefinition;

use super::apply::{self, WriterState};
use super::captured::{self, FIRST_OF_SQL};
use super::conn::Conn;
use super::layout::{Column, Table, TypeLayout};
use super::sql::{Arg, Sql};
use super::store::{SqlStore, open_writer_of};

/// How many records one statement looks up.
const PLACES: usize = 256;

/// How many rows one statement of an upgrade adds.
const ROWS: usize = 256;

/// What the records of a type got from one event: the places and the numbers.
pub(crate) type Given = Vec<(u64, i64)>;

/// The order in which the rows that exist are numbered when a sequence field is added.
#[derive(Clone, Copy, Debug)]
pub(super) enum NumberOrder<'a> {
    /// By their times of creation: older logs have them numbered like that.
    Time,
    /// In the order in which the log created them.
    Place {
        /// The places of rows whose creation has been erased since: each of them had a number, too.
        lost: &'a [u64],
    },
}

/// Numbers the rows in a new column of the event at a position.
pub(super) fn number_rows(
    table: &Table,
    column: &Column,
    order: NumberOrder<'_>,
    position: u64,
) -> Sql {
    let mut sql = Sql::new("UPDATE ");
    sql.name(&table.name)
        .push(" SET ")
        .name(&column.name)
        .push(" = _n.number FROM (")
        .append(number_places(table, order, position))
        .push(") AS _n WHERE ")
        .name(&table.name)
        .push("._row = _n.place");
    sql
}

/// Keeps the numbers that rows get from the event at a position.
pub(super) fn keep_numbers(table: &Table, order: NumberOrder<'_>, position: u64) -> Sql {
    let mut sql = Sql::new("INSERT INTO _numbered (position, place, number) SELECT ");
    sql.bind(Arg::unsigned(position))
        .push(",_n.place,_n.number FROM (")
        .append(number_places(table, order, position))
        .push(") AS _n");
    sql
}

/// Counts the records of a type in the log, up to the store's checkpoint.
pub(crate) async fn count(conn: &mut Conn<'_>, table: &Table) -> Result<u64, sqlx::Error> {
    let mut sql = Sql::new("SELECT count(*) FROM ");
    if table.dialect.is_sqlite() {
        sql.name(&table.name);
    } else {
        sql.push("(");
        push_places(&mut sql, table, FIRST_OF_SQL);
        sql.push(") AS p");
    }
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(0), |row| row.unsigned(0))
}

/// Adds the query for the places of the records that the log has, if they are before a position.
///
/// Rows that other programs have inserted have places after all positions: their events follow.
/// Rows that they have deleted are in the outbox until the log has that.
fn push_places(sql: &mut Sql, table: &Table, before: u64) {
    sql.push("SELECT _row AS place FROM ")
        .name(&table.name)
        .push(" WHERE _row<")
        .bind(Arg::unsigned(before));
    if !table.dialect.is_sqlite() {
        sql.push(" UNION ");
        captured::push_places(sql, &table.name, before);
    }
}

/// Returns the query for the places and the numbers of the records that the log has at a position.
fn number_places(table: &Table, order: NumberOrder<'_>, position: u64) -> Sql {
    let mut sql = Sql::default();
    match order {
        NumberOrder::Time => {
            sql.push(
                "SELECT _row AS place, row_number() OVER (ORDER BY _created_at, _id) AS number FROM ",
            )
            .name(&table.name)
            .push(" WHERE _row<")
            .bind(Arg::unsigned(position));
        }
        NumberOrder::Place { lost } => {
            let lost = serde_json::Value::from(lost).to_string();
            sql.push("SELECT place, row_number() OVER (ORDER BY place) AS number FROM (");
            push_places(&mut sql, table, position);
            sql.push(table.dialect.choose(
                " UNION ALL SELECT value FROM json_each(",
                " UNION ALL SELECT value::bigint FROM jsonb_array_elements_text(",
            ))
            .bind(Arg::Text(lost))
            .push(table.dialect.choose("", "::jsonb"))
            .push(")) AS p");
        }
    }
    sql
}

/// Loads the numbers of records, which are named by events and places.
pub(crate) async fn load(
    conn: &mut Conn<'_>,
    at: &[(u64, u64)],
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let mut by_event: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (position, place) in at {
        by_event.entry(*position).or_default().push(*place);
    }
    let mut found: HashMap<(u64, u64), i64> = HashMap::new();
    for (position, places) in by_event {
        for some in places.chunks(PLACES) {
            let mut sql = Sql::new("SELECT place, number FROM _numbered WHERE position=");
            sql.bind(Arg::unsigned(position)).push(" AND place");
            sql.one_of(some, |place| Arg::unsigned(*place));
            for row in sql.fetch_all(conn).await? {
                found.insert((position, row.unsigned(0)?), row.int(1)?);
            }
        }
    }
    Ok(at.iter().map(|at| found.get(at).copied()).collect())
}

impl SqlStore {
    /// Returns whether an earlier version filled the store, without the numbers.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn lacks_numbers(&self) -> Result<bool, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        // See the migration.
        let sql = Sql::new("SELECT position FROM _numbered WHERE position=0");
        let row = sql.fetch_optional(&mut conn).await;
        Ok(row.map_err(|error| self.failed(error))?.is_some())
    }

    /// Adds what an event gave to the records of a type. Adding it again changes nothing.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn add_numbers(&self, position: u64, given: &Given) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let added = async {
            let (mut conn, _) = open_writer_of(&mut writer)?.conn()?;
            let mut tx = conn.begin_writing().await?;
            for some in given.chunks(ROWS) {
                let mut sql = Sql::new("INSERT INTO _numbered (position, place, number) VALUES ");
                sql.separated(some, |sql, (place, number)| {
                    sql.push("(").bind(Arg::unsigned(position)).push(",");
                    sql.bind(Arg::unsigned(*place)).push(",");
                    sql.bind(Arg::Int(*number)).push(")");
                });
                sql.push(" ON CONFLICT (position, place) DO NOTHING");
                sql.execute(&mut tx.conn()).await?;
            }
            tx.commit().await
        };
        added.await.map_err(|error| self.failed(error))
    }

    /// Notes that the store has all numbers, and at which positions each type's records got them.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn finish_numbers(
        &self,
        numbered: &HashMap<TypeName, Vec<u64>>,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let finished = async {
            let (mut conn, state) = open_writer_of(&mut writer)?.conn()?;
            let mut tx = conn.begin_writing().await?;
            for layout in state.catalog.sorted().into_values() {
                if let Some(positions) = numbered.get(&layout.definition.name) {
                    let definition = TypeDefinition {
                        numbered: positions.clone(),
                        ..TypeDefinition::clone(&layout.definition)
                    };
                    let layout = TypeLayout {
                        definition: Arc::new(definition),
                        ..TypeLayout::clone(layout)
                    };
                    let saved = apply::save_type(&mut tx.conn(), &layout).await;
                    saved.map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
                }
            }
            let sql = Sql::new("DELETE FROM _numbered WHERE position=0");
            sql.execute(&mut tx.conn()).await?;
            tx.commit().await?;
            let is_lazy = state.is_lazy;
            *state = WriterState::load(&mut conn).await?;
            state.is_lazy = is_lazy;
            self.catalog.store(Arc::clone(&state.catalog));
            Ok(())
        };
        finished.await.map_err(|error| self.failed(error))
    }
}
