//! Reads transactions of the outbox.
//!
//! The database can be unable to return a row that it has: JSON with large exponents can have a
//! text that is longer than its longest string. Such a row must not hold up the others. So if
//! reading fails, everything is read again, row by row, and the rows that fail are returned with the
//! reason. Errors that can pass, and those that concern all rows, are for the caller.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use skytrail_actors::capture::{BatchLimits, CapturedTransaction};
use skytrail_schema::event::SqlSource;
use uuid::Uuid;

use super::{Captured, Cells, Contents, Net, Tables, captured, cells, is_sequence, net, tables_of};
use crate::projection::conn::{Conn, Row};
use crate::projection::names::Name;
use crate::projection::postgres::is_about_rows;
use crate::projection::read;
use crate::projection::sql::{Arg, Sql};

/// How many transactions are read at once.
const MAX_TRANSACTIONS: i64 = 64;

/// Whether a failure to read a row is kept for that row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Care {
    /// The first failure ends the reading.
    None,
    /// Each row is read under a savepoint of its own.
    PerRow,
}

/// Reads the oldest transactions.
pub(super) async fn load(
    conn: &mut Conn<'_>,
    limits: BatchLimits,
) -> Result<Vec<CapturedTransaction>, sqlx::Error> {
    match read_all(conn, limits, Care::None).await {
        Err(error) if is_about_rows(&error) => {
            tracing::debug!(%error, "the outbox is read row by row");
            read_all(conn, limits, Care::PerRow).await
        }
        read => read,
    }
}

async fn read_all(
    conn: &mut Conn<'_>,
    limits: BatchLimits,
    care: Care,
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
        let reading = Reading {
            tables: &tables,
            transaction: number.int(0)?,
            care,
        };
        let (rows, is_whole) = reading.rows(&mut tx.conn(), &mut remaining).await?;
        read.extend(transaction(rows));
        if !is_whole {
            break;
        }
    }
    find_hidden(&mut tx.conn(), &tables, &mut read, care).await?;
    tx.rollback().await?;
    transactions.extend(read.into_iter().map(|(source, nets)| CapturedTransaction {
        source,
        rows: nets.into_iter().map(|net| captured(&tables, net)).collect(),
    }));
    Ok(transactions)
}

/// Finds the changed rows where the table has something that JSON does not show: JSON's null in
/// place of NULL, or negative zero. With care, rows that cannot be compared count as such: their
/// records are then stored in full.
async fn find_hidden(
    conn: &mut Conn<'_>,
    tables: &Tables,
    read: &mut [(SqlSource, Vec<Net>)],
    care: Care,
) -> Result<(), sqlx::Error> {
    let mut changed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for net in read.iter().flat_map(|(_, nets)| nets) {
        let (table, key) = net.place();
        if net.is_update() && tables.contains_key(table) {
            changed.entry(table).or_default().insert(key);
        }
    }
    let mut hidden: HashSet<(String, String)> = HashSet::new();
    for (table, keys) in changed {
        let keys: Vec<&str> = keys.into_iter().collect();
        for chunk in keys.chunks(read::MAX_KEYS) {
            let found = if care == Care::PerRow {
                let mut attempt = conn.begin().await?;
                let found = hidden_among(&mut attempt.conn(), table, chunk).await;
                attempt.rollback().await?;
                match found {
                    Err(error) if is_about_rows(&error) => {
                        tracing::warn!(table, %error, "rows changed by SQL are stored in full");
                        chunk.iter().map(|key| (*key).to_owned()).collect()
                    }
                    found => found?,
                }
            } else {
                hidden_among(conn, table, chunk).await?
            };
            hidden.extend(found.into_iter().map(|key| (table.to_owned(), key)));
        }
    }
    for net in read.iter_mut().flat_map(|(_, nets)| nets) {
        let (table, key) = net.place();
        net.is_hidden |= hidden.contains(&(table.to_owned(), key.to_owned()));
    }
    Ok(())
}

async fn hidden_among(
    conn: &mut Conn<'_>,
    table: &str,
    keys: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    let mut sql = Sql::new("SELECT _id FROM ");
    // `t.*` is the row, even if it has a column `t`.
    sql.name(&Name::new(table)).push(
        " AS t WHERE t.* *<> jsonb_populate_record(t.*, \
         (SELECT jsonb_object_agg(c.key, c.value) FROM jsonb_each(to_jsonb(t.*)) AS c \
         WHERE c.value IN ('null','0'))) AND _id",
    );
    sql.within(keys, |key| *key);
    let rows = sql.fetch_all(conn).await?;
    let keys = rows.iter().map(|row| Ok(row.text(0)?.into_owned()));
    keys.collect()
}

/// A row of the outbox, and the part of its transaction that ends with it.
struct Entry {
    source: SqlSource,
    row: Captured,
}

/// A transaction that is read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    tables: &'a Tables,
    transaction: i64,
    care: Care,
}

impl Reading<'_> {
    /// Reads as many rows of the transaction as are allowed; returns whether these are all.
    async fn rows(
        self,
        conn: &mut Conn<'_>,
        remaining: &mut RemainingLimits,
    ) -> Result<(Vec<Entry>, bool), sqlx::Error> {
        let mut entries = Vec::new();
        let mut last = 0;
        loop {
            let limit = match self.care {
                Care::None => remaining.next(),
                Care::PerRow => remaining.next().min(1),
            };
            if limit == 0 {
                return Ok((entries, false));
            }
            let num_before = entries.len();
            match self.care {
                Care::None => {
                    let rows = self.select(conn, CONTENTS, (last, limit)).await?;
                    remaining.take(&rows)?;
                    for row in &rows {
                        entries.push(decode(row, contents(row)?)?);
                    }
                }
                Care::PerRow => entries.extend(self.row(conn, last, remaining).await?),
            }
            if let Some(entry) = entries.last() {
                last = i64::try_from(entry.row.number).unwrap_or(i64::MAX);
            }
            if entries.len() - num_before < limit {
                return Ok((entries, true));
            }
        }
    }

    /// Reads the row after one, if there is one.
    async fn row(
        self,
        conn: &mut Conn<'_>,
        last: i64,
        remaining: &mut RemainingLimits,
    ) -> Result<Option<Entry>, sqlx::Error> {
        let mut attempt = conn.begin().await?;
        let read = async |conn: &mut Conn<'_>| {
            let rows = self.select(conn, CONTENTS, (last, 1)).await?;
            let contents = rows.first().map(contents).transpose()?;
            Ok::<_, sqlx::Error>((rows, contents))
        };
        let read = read(&mut attempt.conn()).await;
        attempt.rollback().await?;
        let error = match read {
            Ok((rows, contents)) => {
                remaining.take(&rows)?;
                let entry = rows.first().zip(contents);
                return entry
                    .map(|(row, contents)| decode(row, contents))
                    .transpose();
            }
            Err(error) if is_about_rows(&error) => error,
            Err(error) => return Err(error),
        };
        let reason = match &error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            other => other.to_string(),
        };
        let rows = self.select(conn, NO_CONTENTS, (last, 1)).await?;
        remaining.take(&rows)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let reason = format!("it cannot be read: {reason}");
        let mut entry = decode(row, Err(reason))?;
        entry.row.numbers = self.numbers(conn, &entry.row).await?;
        Ok(Some(entry))
    }

    /// Selects rows after one.
    async fn select(
        self,
        conn: &mut Conn<'_>,
        contents: &'static str,
        (last, limit): (i64, usize),
    ) -> Result<Vec<Row>, sqlx::Error> {
        let mut sql = Sql::new("SELECT id, transaction, role, at, table_name, key, ");
        sql.push(contents)
            .push(", mark::text FROM _outbox WHERE transaction=")
            .bind(Arg::Int(self.transaction))
            .push(" AND id>")
            .bind(Arg::Int(last))
            .push(" ORDER BY id LIMIT ")
            .bind(Arg::Int(i64::try_from(limit).unwrap_or(i64::MAX)));
        sql.fetch_all(conn).await
    }

    /// Reads the former values of a row's sequence fields, if they can be read.
    async fn numbers(self, conn: &mut Conn<'_>, row: &Captured) -> Result<Cells, sqlx::Error> {
        let layout = self.tables.get(&row.table);
        let columns = layout.iter().filter_map(|layout| layout.table.as_ref());
        let columns = columns.flat_map(|table| &table.columns);
        let columns = columns.filter(|column| is_sequence(&column.kind));
        let names: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
        if names.is_empty() {
            return Ok(Cells::default());
        }
        let mut sql = Sql::new(
            "SELECT (SELECT jsonb_object_agg(c.key, c.value) FROM jsonb_each(\
             CASE jsonb_typeof(before) WHEN 'object' THEN before END) AS c WHERE c.key",
        );
        sql.one_of(&names, |name| Arg::catalog(*name))
            .push(") FROM _outbox WHERE id=")
            .bind(Arg::unsigned(row.number));
        let mut attempt = conn.begin().await?;
        let read = sql.fetch_optional(&mut attempt.conn()).await;
        attempt.rollback().await?;
        match read {
            Ok(Some(row)) => Ok(cells(&row, 0)?.unwrap_or_default()),
            Err(error) if !is_about_rows(&error) => Err(error),
            _ => Ok(Cells::default()),
        }
    }
}

/// The columns with a row's states, and what takes their place for a row that cannot be read.
pub(super) const CONTENTS: &str = "before, after";
pub(super) const NO_CONTENTS: &str = "NULL::jsonb, NULL::jsonb";

fn contents(row: &Row) -> Result<Result<Contents, String>, sqlx::Error> {
    Ok(Ok(Contents {
        before: cells(row, 6)?,
        after: cells(row, 7)?,
    }))
}

fn decode(row: &Row, contents: Result<Contents, String>) -> Result<Entry, sqlx::Error> {
    let mark = Uuid::parse_str(&row.text(8)?);
    Ok(Entry {
        source: SqlSource {
            role: row.text(2)?.into_owned(),
            transaction: row.unsigned(1)?,
            at: row.time(3)?,
            outbox: mark.map_err(|error| sqlx::Error::Decode(error.into()))?,
            until: row.unsigned(0)?,
        },
        row: Captured {
            number: row.unsigned(0)?,
            table: row.catalog(4)?.to_owned(),
            key: row.text(5)?.into_owned(),
            contents,
            numbers: Cells::default(),
        },
    })
}

fn transaction(entries: Vec<Entry>) -> Option<(SqlSource, Vec<Net>)> {
    let source = entries.last()?.source.clone();
    let rows = entries.into_iter().map(|entry| entry.row);
    Some((source, net(rows.collect())))
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
