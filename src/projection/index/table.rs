//! The `_index` table: which indexes exist, why, and what somebody wants.

use crate::projection::conn::{Conn, Row};
use serde::Serialize;
use skytrail_schema::id::TypeName;
use skytrail_schema::time::Timestamp;
use std::borrow::Cow;

use super::shape::IndexColumn;
use crate::projection::sql::{Arg, Sql};

/// What somebody wants of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexWish {
    /// Nothing: it is created when queries need it, and dropped when none do.
    #[default]
    Auto,
    /// That it exists.
    Declared,
    /// That it does not exist.
    Forbidden,
}

/// Whether an index exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexState {
    /// It exists.
    Built,
    /// It will be created soon.
    Wanted,
    /// It does not exist.
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
    /// Whether it stays even if nobody uses it.
    pub is_pinned: bool,
    /// Whether it exists.
    pub state: IndexState,
    /// Its name in the database.
    pub name: Option<String>,
    /// Why it was created, or why not.
    pub why: String,
    /// When it was created.
    pub built_at: Option<Timestamp>,
    /// When a query last used it, as far as is known.
    pub last_used_at: Option<Timestamp>,
    /// How many queries used it.
    pub num_uses: u64,
    /// Its size in bytes, with its counterpart over the past.
    pub num_bytes: u64,
    /// Whether it has a counterpart over the table of what the type's records were.
    pub has_past: bool,
}

impl IndexEntry {
    /// Describes an index that nothing is known about yet.
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
            has_past: false,
        }
    }

    /// Lists the columns in the form that commands take.
    pub fn column_list(&self) -> String {
        let column = |column: &IndexColumn| {
            let order = if column.is_descending { ":desc" } else { "" };
            format!("{}{order}", column.field)
        };
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        columns.join(" ")
    }

    /// Returns whether this is the index on these columns.
    pub(crate) fn is_on(&self, record_type: &TypeName, columns: &[IndexColumn]) -> bool {
        self.record_type == *record_type && self.columns == columns
    }

    /// Returns whether it can be dropped when nobody uses it.
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
pub(crate) async fn load(conn: &mut Conn<'_>) -> Result<Vec<IndexEntry>, sqlx::Error> {
    let mut sql = Sql::new(
        "SELECT type, columns, wish, is_pinned, state, name, why, built_at, last_used_at, \
         num_uses, num_bytes, EXISTS (SELECT 1 FROM ",
    );
    // The same name as in `ddl::past_index_name`.
    sql.push(conn.dialect().choose(
        "sqlite_schema AS s WHERE s.name",
        "pg_class AS s WHERE s.relnamespace=to_regnamespace(quote_ident(current_schema)) \
         AND s.relname::text",
    ));
    sql.push("='_asof_' || substr(_index.name, 8)) FROM _index ORDER BY type, columns");
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<IndexEntry, sqlx::Error> {
    Ok(IndexEntry {
        record_type: TypeName::from(&*row.text(0)?),
        columns: row.json(1)?,
        wish: find(&WISHES, &row.text(2)?),
        is_pinned: row.flag(3)?,
        state: find(&STATES, &row.text(4)?),
        name: row.maybe_text(5)?.map(Cow::into_owned),
        why: row.text(6)?.into_owned(),
        built_at: row.maybe_time(7)?,
        last_used_at: row.maybe_time(8)?,
        num_uses: row.unsigned(9)?,
        num_bytes: row.unsigned(10)?,
        has_past: row.flag(11)?,
    })
}

/// Stores an entry, and replaces an earlier one.
pub(crate) async fn save(conn: &mut Conn<'_>, entry: &IndexEntry) -> Result<(), sqlx::Error> {
    let columns = columns_to_json(&entry.columns)?;
    let time = |time: Option<Timestamp>| time.map_or(Arg::Null, Arg::Time);
    let sql = Sql::put(
        "_index",
        [
            ("type", Arg::text(entry.record_type.as_str())),
            ("columns", Arg::Text(columns)),
        ],
        [
            ("wish", Arg::text(name_of(&WISHES, entry.wish))),
            ("is_pinned", Arg::Bool(entry.is_pinned)),
            ("state", Arg::text(name_of(&STATES, entry.state))),
            ("name", Arg::maybe(entry.name.clone())),
            ("why", Arg::text(entry.why.as_str())),
            ("built_at", time(entry.built_at)),
            ("last_used_at", time(entry.last_used_at)),
            ("num_uses", Arg::unsigned(entry.num_uses)),
            ("num_bytes", Arg::unsigned(entry.num_bytes)),
        ],
    );
    sql.execute(conn).await.map(drop)
}

/// Counts uses of an index.
pub(crate) async fn count_uses(
    conn: &mut Conn<'_>,
    name: &str,
    num_uses: u64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("UPDATE _index SET num_uses=num_uses+");
    sql.bind(Arg::unsigned(num_uses)).push(",last_used_at=");
    sql.bind(Arg::Time(now)).push(" WHERE name=");
    sql.bind(Arg::text(name));
    sql.execute(conn).await.map(drop)
}

/// Updates the entries over a field that was renamed or deleted, together with its indexes. The
/// indexes are created again under the new name.
pub(crate) async fn change_field(
    conn: &mut Conn<'_>,
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

/// Records that the index of this name is gone and must not return, and why.
pub(crate) async fn forbid(
    conn: &mut Conn<'_>,
    name: &str,
    why: &'static str,
) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("UPDATE _index SET wish='forbidden',state='none',num_bytes=0,why=");
    sql.bind(Arg::text(why)).push(" WHERE name=");
    sql.bind(Arg::text(name));
    sql.execute(conn).await.map(drop)
}

fn columns_to_json(columns: &[IndexColumn]) -> Result<String, sqlx::Error> {
    serde_json::to_string(columns).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn find<T: Copy + Default>(names: &[(T, &str)], sought: &str) -> T {
    let found = names.iter().find(|(_, name)| *name == sought);
    found.map(|(value, _)| *value).unwrap_or_default()
}

fn name_of<T: PartialEq>(names: &[(T, &'static str)], sought: T) -> &'static str {
    let found = names.iter().find(|(value, _)| *value == sought);
    found.map_or("", |(_, name)| name)
}
