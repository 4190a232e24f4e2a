//! The `_index` table: which indexes there are, why, and what somebody wants.

use serde::Serialize;
use skytrail_schema::id::TypeName;
use skytrail_schema::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::shape::IndexColumn;
use crate::projection::sql::{Arg, Sql};

/// What somebody wants of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexWish {
    /// Nothing: it is made when queries need it, and dropped when none do.
    #[default]
    Auto,
    /// That it is there.
    Declared,
    /// That it is not there.
    Forbidden,
}

/// Whether an index is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexState {
    /// It is.
    Built,
    /// It shall be, soon.
    Wanted,
    /// It is not.
    #[default]
    None,
}

/// An index that queries or people asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IndexEntry {
    /// The record type.
    pub record_type: TypeName,
    /// The columns, in order.
    pub columns: Vec<IndexColumn>,
    /// What somebody wants.
    pub wish: IndexWish,
    /// Whether it stays although nobody uses it.
    pub is_pinned: bool,
    /// Whether it is there.
    pub state: IndexState,
    /// Its name in the database.
    pub name: Option<String>,
    /// Why it was made, or why not.
    pub why: String,
    /// When it was made.
    pub built_at: Option<Timestamp>,
    /// When a query used it last, as far as was seen.
    pub last_used_at: Option<Timestamp>,
    /// How many queries used it.
    pub num_uses: u64,
    /// Its size.
    pub num_bytes: u64,
}

impl IndexEntry {
    /// Describes an index about which nothing is known yet.
    pub fn new(record_type: TypeName, columns: Vec<IndexColumn>) -> Self {
        Self {
            record_type,
            columns,
            wish: IndexWish::Auto,
            is_pinned: false,
            state: IndexState::None,
            name: None,
            why: String::new(),
            built_at: None,
            last_used_at: None,
            num_uses: 0,
            num_bytes: 0,
        }
    }

    /// Whether it is the index on these columns.
    pub(crate) fn is_on(&self, record_type: &TypeName, columns: &[IndexColumn]) -> bool {
        self.record_type == *record_type && self.columns == columns
    }

    /// Whether it may be dropped when nobody uses it.
    pub(crate) fn is_loose(&self) -> bool {
        self.wish == IndexWish::Auto && !self.is_pinned
    }
}

const WISHES: [(IndexWish, &str); 3] = [
    (IndexWish::Auto, "auto"),
    (IndexWish::Declared, "declared"),
    (IndexWish::Forbidden, "forbidden"),
];

const STATES: [(IndexState, &str); 3] = [
    (IndexState::Built, "built"),
    (IndexState::Wanted, "wanted"),
    (IndexState::None, "none"),
];

/// Loads all entries, by type and columns.
pub(crate) async fn load(conn: &mut SqliteConnection) -> Result<Vec<IndexEntry>, sqlx::Error> {
    let sql = Sql::new(
        "SELECT type, columns, wish, is_pinned, state, name, why, built_at, last_used_at, \
         num_uses, num_bytes FROM _index ORDER BY type, columns",
    );
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &SqliteRow) -> Result<IndexEntry, sqlx::Error> {
    let columns = serde_json::from_str(row.try_get(1)?);
    let (wish, state): (&str, &str) = (row.try_get(2)?, row.try_get(4)?);
    let time = |index: usize| {
        let micros: Option<i64> = row.try_get_unchecked(index)?;
        Ok::<_, sqlx::Error>(micros.map(Timestamp::from_micros))
    };
    let count = |index: usize| {
        let number: i64 = row.try_get(index)?;
        Ok::<_, sqlx::Error>(u64::try_from(number).unwrap_or_default())
    };
    Ok(IndexEntry {
        record_type: TypeName::from(row.try_get::<&str, _>(0)?),
        columns: columns.map_err(|error| sqlx::Error::Decode(error.into()))?,
        wish: find(&WISHES, wish),
        is_pinned: row.try_get::<i64, _>(3)? != 0,
        state: find(&STATES, state),
        name: row.try_get_unchecked(5)?,
        why: row.try_get(6)?,
        built_at: time(7)?,
        last_used_at: time(8)?,
        num_uses: count(9)?,
        num_bytes: count(10)?,
    })
}

/// Saves an entry, in the place of an earlier one.
pub(crate) async fn save(
    conn: &mut SqliteConnection,
    entry: &IndexEntry,
) -> Result<(), sqlx::Error> {
    let columns = columns_to_json(&entry.columns)?;
    let time = |time: Option<Timestamp>| time.map_or(Arg::Null, |time| Arg::Int(time.micros()));
    let values = [
        Arg::text(entry.record_type.as_str()),
        Arg::Text(columns),
        Arg::text(name_of(&WISHES, entry.wish)),
        Arg::Int(entry.is_pinned.into()),
        Arg::text(name_of(&STATES, entry.state)),
        Arg::maybe(entry.name.clone()),
        Arg::text(entry.why.as_str()),
        time(entry.built_at),
        time(entry.last_used_at),
        Arg::unsigned(entry.num_uses),
        Arg::unsigned(entry.num_bytes),
    ];
    let mut sql = Sql::new(
        "INSERT OR REPLACE INTO _index (type, columns, wish, is_pinned, state, name, why, \
         built_at, last_used_at, num_uses, num_bytes) VALUES (",
    );
    for (index, value) in values.into_iter().enumerate() {
        sql.push(if index == 0 { "" } else { "," }).bind(value);
    }
    sql.push(")");
    sql.execute(conn).await.map(drop)
}

/// Counts uses of an index.
pub(crate) async fn count_uses(
    conn: &mut SqliteConnection,
    name: &str,
    num_uses: u64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("UPDATE _index SET num_uses=num_uses+");
    sql.bind(Arg::unsigned(num_uses)).push(",last_used_at=");
    sql.bind(Arg::Int(now.micros())).push(" WHERE name=");
    sql.bind(Arg::text(name));
    sql.execute(conn).await.map(drop)
}

/// A field got another name, or is gone, and so are the indexes over it: what is known of them
/// follows, and they are made again under the new name.
pub(crate) async fn change_field(
    conn: &mut SqliteConnection,
    record_type: &TypeName,
    field: &str,
    new_name: Option<&str>,
) -> Result<(), sqlx::Error> {
    for mut entry in load(conn).await? {
        let is_over = entry.columns.iter().any(|column| column.field == field);
        if entry.record_type != *record_type || !is_over {
            continue;
        }
        let mut sql = Sql::new("DELETE FROM _index WHERE type=");
        sql.bind(Arg::text(record_type.as_str()));
        sql.push(" AND columns=");
        sql.bind(Arg::Text(columns_to_json(&entry.columns)?));
        sql.execute(conn).await?;
        if new_name.is_none() && entry.is_loose() {
            continue;
        }
        for column in &mut entry.columns {
            if let Some(new_name) = new_name.filter(|_| column.field == field) {
                new_name.clone_into(&mut column.field);
            }
        }
        if entry.state == IndexState::Built {
            entry.state = IndexState::Wanted;
        }
        entry.name = None;
        entry.num_bytes = 0;
        save(conn, &entry).await?;
    }
    Ok(())
}

fn columns_to_json(columns: &[IndexColumn]) -> Result<String, sqlx::Error> {
    serde_json::to_string(columns).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn find<T: Copy + Default>(names: &[(T, &str)], wanted: &str) -> T {
    let found = names.iter().find(|(_, name)| *name == wanted);
    found.map(|(value, _)| *value).unwrap_or_default()
}

fn name_of<T: PartialEq>(names: &[(T, &'static str)], wanted: T) -> &'static str {
    let found = names.iter().find(|(value, _)| *value == wanted);
    found.map_or("", |(_, name)| name)
}
