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
mod row;
mod source;
mod triggers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use skytrail_actors::capture::{BatchLimits, CapturedRow, CapturedTransaction, RowChange, Span};
use skytrail_schema::event::{Commit, SqlSource};
use skytrail_schema::id::{RecordId, RecordKey, check_length};
use skytrail_schema::record::Fields;
use skytrail_schema::types::FieldType;
use uuid::Uuid;

use self::cells::{Cell, Cells};
pub(super) use self::constraints::{Retries, lift};
pub use self::moving::{carry_over_captured, count_parked, count_waiting};
pub(super) use self::overlay::{Touched, overlay};
pub(super) use self::parked::{forget, is_parked};
use super::conn::{Conn, Row};
use super::layout::{Catalog, TypeLayout};
use super::names::Name;
use super::read;
use super::sql::{Arg, Sql};

/// How many transactions are read at once.
const MAX_TRANSACTIONS: i64 = 64;

/// The type whose records a table has, by the table's name.
type Tables = HashMap<String, Arc<TypeLayout>>;

/// A row of the outbox.
struct Captured {
    number: u64,
    table: String,
    key: String,
    before: Option<Cells>,
    after: Option<Cells>,
}

/// What a transaction did to one row in total.
struct Net {
    number: u64,
    table: String,
    key: String,
    before: Option<Cells>,
    after: Option<Cells>,
    /// Whether the table has something that only the database can tell apart, such as JSON's null
    /// and SQL's NULL.
    is_hidden: bool,
}

impl Net {
    /// Returns the row's table and key.
    fn place(&self) -> (&str, &str) {
        (&self.table, &self.key)
    }
}

/// Returns whether anything was ever captured here, or another program has constraints here.
async fn is_in_use(conn: &mut Conn<'_>) -> Result<bool, sqlx::Error> {
    let sql = Sql::new(
        "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('_outbox','id')::regclass),0) > 0",
    );
    let row = sql.fetch_optional(conn).await?;
    let was_captured = row.map_or(Ok(false), |row| row.flag(0))?;
    Ok(was_captured || constraints::are_there(conn).await?)
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

/// Deletes from the outbox what a batch of commits brings into the store, since it came from there.
pub(super) async fn take_out_all(
    conn: &mut Conn<'_>,
    commits: &[&Commit],
) -> Result<(), sqlx::Error> {
    for source in commits.iter().filter_map(|commit| commit.sql.as_deref()) {
        take_out(conn, source).await?;
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

fn tables_of(catalog: &Catalog) -> Tables {
    let layouts = catalog.sorted().into_values();
    let named = layouts.filter_map(|layout| {
        let table = layout.table.as_ref()?;
        Some((table.name.as_str().to_owned(), Arc::clone(layout)))
    });
    named.collect()
}

async fn scan(conn: &mut Conn<'_>, tables: &Tables) -> Result<Vec<Span>, sqlx::Error> {
    let sql = Sql::new("SELECT table_name, min(id), max(id) FROM _outbox GROUP BY table_name");
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

async fn load(
    conn: &mut Conn<'_>,
    limits: BatchLimits,
) -> Result<Vec<CapturedTransaction>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    let mut sql =
        Sql::new("SELECT transaction FROM _outbox GROUP BY transaction ORDER BY max(id) LIMIT ");
    sql.bind(Arg::Int(MAX_TRANSACTIONS));
    let numbers = sql.fetch_all(&mut tx.conn()).await?;
    let mut transactions = Vec::new();
    if numbers.is_empty() {
        tx.rollback().await?;
        return Ok(transactions);
    }
    // From the same snapshot as the rows, so it knows all their columns.
    let (catalog, _) = read::catalog(&mut tx.conn()).await?;
    let tables = tables_of(&catalog);
    let mut remaining = RemainingLimits::of(limits);
    let mut read = Vec::new();
    for number in numbers {
        let (rows, is_whole) = rows_of(&mut tx.conn(), number.int(0)?, &mut remaining).await?;
        read.extend(transaction(&rows)?);
        if !is_whole {
            break;
        }
    }
    find_hidden(&mut tx.conn(), &tables, &mut read).await?;
    tx.rollback().await?;
    transactions.extend(read.into_iter().map(|(source, nets)| CapturedTransaction {
        source,
        rows: nets.into_iter().map(|net| captured(&tables, net)).collect(),
    }));
    Ok(transactions)
}

/// Finds the changed rows where the table has something that JSON does not show: JSON's null in
/// place of NULL, or negative zero.
async fn find_hidden(
    conn: &mut Conn<'_>,
    tables: &Tables,
    read: &mut [(SqlSource, Vec<Net>)],
) -> Result<(), sqlx::Error> {
    let mut changed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for net in read.iter().flat_map(|(_, nets)| nets) {
        let (table, key) = net.place();
        if net.before.is_some() && net.after.is_some() && tables.contains_key(table) {
            changed.entry(table).or_default().insert(key);
        }
    }
    let mut hidden: HashSet<(String, String)> = HashSet::new();
    for (table, keys) in changed {
        let keys: Vec<&str> = keys.into_iter().collect();
        for chunk in keys.chunks(read::MAX_KEYS) {
            let mut sql = Sql::new("SELECT _id FROM ");
            sql.name(&Name::new(table)).push(
                " AS t WHERE t *<> jsonb_populate_record(t, \
                 (SELECT jsonb_object_agg(c.key, c.value) FROM jsonb_each(to_jsonb(t)) AS c \
                 WHERE c.value IN ('null','0'))) AND _id",
            );
            sql.within(chunk, |key| *key);
            for row in sql.fetch_all(conn).await? {
                hidden.insert((table.to_owned(), row.text(0)?.into_owned()));
            }
        }
    }
    for net in read.iter_mut().flat_map(|(_, nets)| nets) {
        let (table, key) = net.place();
        net.is_hidden |= hidden.contains(&(table.to_owned(), key.to_owned()));
    }
    Ok(())
}

/// How much can still be read.
struct RemainingLimits {
    num_rows: usize,
    num_bytes: usize,
    /// How many rows to ask for next: few at first, since their size is unknown.
    chunk: usize,
}

impl RemainingLimits {
    const FIRST_CHUNK: usize = 4;
    const MAX_CHUNK: usize = 1024;

    fn of(limits: BatchLimits) -> Self {
        Self {
            num_rows: limits.max_rows,
            num_bytes: limits.max_bytes,
            chunk: Self::FIRST_CHUNK,
        }
    }

    /// Returns how many rows can be read next.
    fn next(&self) -> usize {
        match self.num_bytes {
            0 => 0,
            _ => self.num_rows.min(self.chunk),
        }
    }

    /// Counts rows that were read.
    fn take(&mut self, rows: &[Row]) -> Result<(), sqlx::Error> {
        let mut num_bytes = 0;
        for row in rows {
            for index in [6, 7] {
                num_bytes += row.maybe_text(index)?.map_or(0, |text| text.len());
            }
        }
        self.num_rows = self.num_rows.saturating_sub(rows.len());
        self.num_bytes = self.num_bytes.saturating_sub(num_bytes);
        let mean = num_bytes / rows.len().max(1);
        let fitting = self.num_bytes / mean.max(1);
        self.chunk = fitting.min(self.chunk * 4).clamp(1, Self::MAX_CHUNK);
        Ok(())
    }
}

/// Reads as many rows of a transaction as are allowed; returns whether these are all.
async fn rows_of(
    conn: &mut Conn<'_>,
    transaction: i64,
    remaining: &mut RemainingLimits,
) -> Result<(Vec<Row>, bool), sqlx::Error> {
    let mut rows = Vec::new();
    let mut last = 0;
    loop {
        let limit = remaining.next();
        if limit == 0 {
            return Ok((rows, false));
        }
        let mut sql = Sql::new(
            "SELECT id, transaction, role, at, table_name, key, before, after, mark::text \
             FROM _outbox WHERE transaction=",
        );
        sql.bind(Arg::Int(transaction))
            .push(" AND id>")
            .bind(Arg::Int(last))
            .push(" ORDER BY id LIMIT ")
            .bind(Arg::Int(i64::try_from(limit).unwrap_or(i64::MAX)));
        let some = sql.fetch_all(conn).await?;
        remaining.take(&some)?;
        let is_whole = some.len() < limit;
        if let Some(row) = some.last() {
            last = row.int(0)?;
        }
        rows.extend(some);
        if is_whole {
            return Ok((rows, true));
        }
    }
}

fn transaction(rows: &[Row]) -> Result<Option<(SqlSource, Vec<Net>)>, sqlx::Error> {
    let Some(last) = rows.last() else {
        return Ok(None);
    };
    let mark = Uuid::parse_str(&last.text(8)?);
    let source = SqlSource {
        role: last.text(2)?.into_owned(),
        transaction: last.unsigned(1)?,
        at: last.time(3)?,
        outbox: mark.map_err(|error| sqlx::Error::Decode(error.into()))?,
        until: last.unsigned(0)?,
    };
    let rows = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    Ok(Some((source, net(rows))))
}

fn decode(row: &Row) -> Result<Captured, sqlx::Error> {
    Ok(Captured {
        number: row.unsigned(0)?,
        table: row.catalog(4)?.to_owned(),
        key: row.text(5)?.into_owned(),
        before: cells(row, 6)?,
        after: cells(row, 7)?,
    })
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
        let is_hidden = row.before == row.after;
        match nets.get_mut(place) {
            Some(net) => {
                net.number = row.number;
                net.after = row.after;
                net.is_hidden |= is_hidden;
            }
            None => nets.push(Net {
                number: row.number,
                table: row.table,
                key: row.key,
                before: row.before,
                after: row.after,
                is_hidden,
            }),
        }
    }
    let is_there = |net: &Net| net.is_hidden && net.after.is_some();
    nets.retain(|net| net.before != net.after || is_there(net));
    nets.sort_by_key(|net| (net.before.is_some(), net.after.is_none()));
    nets
}

fn captured(tables: &Tables, net: Net) -> CapturedRow {
    let mut row = CapturedRow {
        number: net.number,
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
    if let (None, Err(reason)) = (&net.before, check_key(&net.key)) {
        row.change = Err(reason);
        return row;
    }
    if let Some(before) = &net.before {
        row.numbered = row::numbers(layout, before);
    }
    row.change = match (&net.before, &net.after) {
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
            let columns: BTreeSet<String> = columns.map(|(name, _)| name.clone()).collect();
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
