//! The outbox: what other programs changed by SQL, on its way into the log.
//!
//! Transactions are read in the order of the last row that each put into the outbox. Rows get their
//! numbers while they are locked. So a transaction that saw what another one did, or waited for it,
//! has a later last number. They could therefore have run one after the other in this order.

mod cells;
mod closing;
mod constraints;
mod moving;
mod overlay;
mod parked;
mod places;
mod reading;
mod row;
mod source;
mod triggers;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use skytrail_actors::capture::{CapturedRow, RowChange, Span};
use skytrail_schema::event::{Commit, SqlSource, Stream};
use skytrail_schema::id::{RecordId, RecordKey, TypeName, check_length};
use skytrail_schema::record::Fields;
use skytrail_schema::types::FieldType;

use self::cells::{Cell, Cells};
pub(super) use self::constraints::{Retries, lift};
pub use self::moving::{copy_captured, count_parked, count_waiting, move_captured};
use self::overlay::overlay;
pub(super) use self::parked::{forget, is_parked};
pub(super) use self::places::{
    Effect, FIRST_OF_SQL, Touched, add_effects, collect_places, push_places, settle_places,
    settle_table,
};
use super::apply::stream_hash;
use super::conn::{Conn, Row};
use super::layout::{Catalog, TypeLayout, is_own};
use super::names::Name;
use super::read;
use super::sql::{Arg, Sql};

/// The type whose records a table has, by the table's name.
type Tables = HashMap<String, Arc<TypeLayout>>;

/// A row of the outbox.
struct Captured {
    number: u64,
    table: String,
    key: String,
    /// The row, or why it cannot be read.
    contents: Result<Contents, String>,
    /// The former values in sequence fields of a row that cannot be read.
    numbers: Cells,
}

/// A row before and after a change.
struct Contents {
    before: Option<Cells>,
    after: Option<Cells>,
}

/// What a transaction did to one row in total.
struct Net {
    /// The numbers of its first and of its last change.
    numbers: (u64, u64),
    table: String,
    key: String,
    contents: Result<Contents, String>,
    /// The former values in sequence fields of a row that cannot be read.
    numbered: Cells,
    /// Whether the table has something that only the database can tell apart, such as JSON's null
    /// and SQL's NULL.
    is_hidden: bool,
}

impl Net {
    /// Returns the row's table and key.
    fn place(&self) -> (&str, &str) {
        (&self.table, &self.key)
    }

    /// Returns whether there is a row before and after.
    fn is_update(&self) -> bool {
        let contents = self.contents.as_ref();
        contents.is_ok_and(|it| it.before.is_some() && it.after.is_some())
    }
}

/// Returns whether anything was ever captured here, or another program has constraints here.
async fn is_in_use(conn: &mut Conn<'_>) -> Result<bool, sqlx::Error> {
    Ok(last_number(conn).await? > 0 || constraints::are_there(conn).await?)
}

/// Returns the last number that a row of the outbox got; 0 if none did.
async fn last_number(conn: &mut Conn<'_>) -> Result<u64, sqlx::Error> {
    let sql = Sql::new(
        "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('_outbox','id')::regclass),0)",
    );
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(0), |row| row.unsigned(0))
}

/// Finds which rows of a table are in the outbox.
pub(super) async fn find(
    conn: &mut Conn<'_>,
    table: &Name,
    keys: &[RecordKey],
) -> Result<HashSet<RecordKey>, sqlx::Error> {
    let mut found = HashSet::new();
    for chunk in keys.chunks(read::MAX_KEYS) {
        let mut sql = Sql::new("SELECT DISTINCT key FROM _outbox WHERE table_name=");
        sql.bind(Arg::name(table)).push(" AND key");
        sql.within(chunk, RecordKey::as_str);
        for row in sql.fetch_all(conn).await? {
            found.insert(RecordKey::from(&*row.text(0)?));
        }
    }
    Ok(found)
}

/// Lists the rows of a table that are in the outbox.
pub(super) async fn list(conn: &mut Conn<'_>, table: &Name) -> Result<Vec<RecordKey>, sqlx::Error> {
    let mut sql = Sql::new("SELECT DISTINCT key FROM _outbox WHERE table_name=");
    sql.bind(Arg::name(table));
    let rows = sql.fetch_all(conn).await?;
    let keys = rows.iter().map(|row| Ok(RecordKey::from(&*row.text(0)?)));
    keys.collect()
}

/// Lists up to so many records of some types whose rows are in the outbox.
pub(super) async fn list_some(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    types: &[TypeName],
    limit: usize,
) -> Result<Vec<RecordId>, sqlx::Error> {
    let mut found = Vec::new();
    for name in types {
        let Some(table) = catalog.table(name) else {
            continue;
        };
        let remaining = i64::try_from(limit.saturating_sub(found.len())).unwrap_or(i64::MAX);
        let mut sql = Sql::new("SELECT DISTINCT key FROM _outbox WHERE table_name=");
        sql.bind(Arg::name(&table.name)).push(" LIMIT ");
        sql.bind(Arg::Int(remaining));
        for row in sql.fetch_all(conn).await? {
            found.push(RecordId::new(name.clone(), &*row.text(0)?));
        }
    }
    Ok(found)
}

/// Takes out of the outbox what a batch of commits brings into the store, and applies the rest of it
/// to the rows that the batch wrote.
pub(super) async fn import(
    conn: &mut Conn<'_>,
    commits: &[&Commit],
    touched: Touched,
) -> Result<(), sqlx::Error> {
    for source in commits.iter().filter_map(|commit| commit.sql.as_deref()) {
        take_out(conn, source).await?;
    }
    if touched.is_empty() {
        return Ok(());
    }
    let sql = Sql::new("SELECT EXISTS (SELECT FROM _place), EXISTS (SELECT FROM _outbox)");
    let row = sql.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    if row.flag(0)? {
        settle_places(conn, &touched).await?;
    }
    if row.flag(1)? {
        overlay(conn, touched).await?;
    }
    Ok(())
}

async fn take_out(conn: &mut Conn<'_>, source: &SqlSource) -> Result<(), sqlx::Error> {
    if conn.dialect().is_sqlite() {
        return Ok(());
    }
    // The last of the rows tells whether these are the ones. After a failover or a crash undid a
    // transaction, another one may have received its numbers.
    let mut sql = Sql::new("DELETE FROM _outbox AS o USING _outbox AS last WHERE last.id=");
    sql.bind(Arg::unsigned(source.until))
        .push(" AND last.transaction=")
        .bind(Arg::unsigned(source.transaction))
        .push(" AND last.mark=")
        .bind(Arg::Text(source.outbox.to_string()))
        .push("::uuid AND o.transaction=last.transaction AND o.id<=last.id");
    sql.execute(conn).await?;
    Ok(())
}

/// Takes a transaction out of the outbox, unless records have changed since it was decided that it
/// brings nothing.
async fn discard(
    conn: &mut Conn<'_>,
    source: &SqlSource,
    (ids, position): (&[RecordId], u64),
) -> Result<bool, sqlx::Error> {
    let mut tx = conn.begin_writing().await?;
    // Waits for a batch that has applied the transaction to rows, see `overlay`.
    take_out(&mut tx.conn(), source).await?;
    for some in ids.chunks(read::MAX_KEYS) {
        let mut sql = Sql::new("SELECT 1 FROM _history WHERE position>");
        sql.bind(Arg::unsigned(position)).push(" AND stream");
        sql.one_of(some, |id| {
            Arg::Int(stream_hash(&Stream::Record(id.clone())))
        });
        sql.push(" LIMIT 1");
        if sql.fetch_optional(&mut tx.conn()).await?.is_some() {
            tx.rollback().await?;
            return Ok(false);
        }
    }
    tx.commit().await?;
    Ok(true)
}

fn tables_of(catalog: &Catalog) -> Tables {
    let layouts = catalog.sorted().into_values();
    let named = layouts.filter_map(|layout| {
        let table = layout.table.as_ref()?;
        Some((table.name.as_str().to_owned(), Arc::clone(layout)))
    });
    named.collect()
}

async fn scan(
    conn: &mut Conn<'_>,
    tables: &Tables,
    in_log: &[(u64, u64)],
) -> Result<Vec<Span>, sqlx::Error> {
    let mut sql = Sql::new("SELECT table_name, min(id), max(id) FROM _outbox WHERE true");
    for (transaction, until) in in_log {
        sql.push(" AND NOT (transaction=")
            .bind(Arg::unsigned(*transaction))
            .push(" AND id<=")
            .bind(Arg::unsigned(*until))
            .push(")");
    }
    sql.push(" GROUP BY table_name");
    let rows = sql.fetch_all(conn).await?;
    let spans = rows.iter().map(|row| {
        let layout = tables.get(row.catalog(0)?);
        Ok(Span {
            record_type: layout.map(|layout| layout.definition.name.clone()),
            first: row.unsigned(1)?,
            last: row.unsigned(2)?,
        })
    });
    spans.collect()
}

fn cells(row: &Row, index: usize) -> Result<Option<Cells>, sqlx::Error> {
    row.maybe_catalog(index)?.map(Cells::read).transpose()
}

/// Folds the changes of each row. Created rows are first and deleted ones last, each in the order
/// of their first change: the same transaction may have created what a row refers to.
fn net(rows: Vec<Captured>) -> Vec<Net> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut nets: Vec<Net> = Vec::new();
    for row in rows {
        let place = places.entry((row.table.clone(), row.key.clone()));
        let place = *place.or_insert(nets.len());
        let contents = row.contents.as_ref();
        let is_hidden = contents.is_ok_and(|it| it.before == it.after);
        match nets.get_mut(place) {
            Some(net) => {
                net.numbers.1 = row.number;
                net.is_hidden |= is_hidden;
                match (&mut net.contents, row.contents) {
                    (Ok(all), Ok(last)) => all.after = last.after,
                    (contents @ Ok(_), Err(reason)) => {
                        if let Ok(Contents {
                            before: Some(before),
                            ..
                        }) = contents
                        {
                            net.numbered = std::mem::take(before);
                        }
                        *contents = Err(reason);
                    }
                    (Err(_), _) => {}
                }
            }
            None => nets.push(Net {
                numbers: (row.number, row.number),
                table: row.table,
                key: row.key,
                contents: row.contents,
                numbered: row.numbers,
                is_hidden,
            }),
        }
    }
    let is_change = |net: &Net| match &net.contents {
        Ok(it) => it.before != it.after || net.is_hidden && it.after.is_some(),
        Err(_) => true,
    };
    nets.retain(is_change);
    nets.sort_by_key(|net| match &net.contents {
        Ok(it) => (it.before.is_some(), it.after.is_none()),
        Err(_) => (true, false),
    });
    nets
}

fn captured(tables: &Tables, net: Net) -> CapturedRow {
    let (first, number) = net.numbers;
    let mut row = CapturedRow {
        first,
        number,
        id: None,
        change: Err(format!("no record type has the table {:?}", net.table)),
        excess: Vec::new(),
        numbered: Fields::new(),
    };
    let Some(layout) = tables.get(&net.table) else {
        return row;
    };
    let id = RecordId::new(layout.definition.name.clone(), net.key.as_str());
    row.id = Some(id.clone());
    let contents = match net.contents {
        Ok(contents) => contents,
        Err(reason) => {
            row.numbered = row::numbers(layout, &net.numbered);
            row.change = Err(reason);
            return row;
        }
    };
    if let (None, Err(reason)) = (&contents.before, check_key(&net.key)) {
        row.change = Err(reason);
        return row;
    }
    if let Some(before) = &contents.before {
        row.numbered = row::numbers(layout, before);
    }
    row.change = match (&contents.before, &contents.after) {
        (_, None) => Ok(RowChange::Deleted),
        (None, Some(after)) => {
            let columns: BTreeSet<String> = after.iter().map(|(name, _)| name.clone()).collect();
            let made = row::parse(layout, id, after, &columns);
            row.excess = row::excess(layout, &columns, after);
            made.map(|(record, _)| RowChange::Made(Box::new(record)))
        }
        (Some(before), Some(after)) if before == after => Ok(RowChange::Hidden),
        (Some(before), Some(after)) => {
            let columns = after.iter();
            let columns = columns.filter(|(name, value)| before.get(name) != Some(value));
            let columns = columns.filter(|(name, _)| !is_own(name));
            let columns: BTreeSet<String> = columns.map(|(name, _)| name.clone()).collect();
            if columns.is_empty() {
                row.change = Ok(RowChange::Hidden);
                return row;
            }
            row.excess = row::excess(layout, &columns, after);
            let is_hidden = net.is_hidden || row::is_beside(layout, &columns);
            row::parse(layout, id, after, &columns).map(|(record, columns)| RowChange::Changed {
                row: Box::new(record),
                columns,
                is_hidden,
            })
        }
    };
    row
}

fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err("its _id is empty".to_owned());
    }
    check_length("_id", key).map_err(|error| error.message.to_string())
}

/// Returns whether a field numbers its records.
fn is_sequence(kind: &FieldType) -> bool {
    *kind == FieldType::Sequence
}
