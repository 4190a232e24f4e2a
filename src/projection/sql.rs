//! SQL text, assembled so that it cannot carry anybody's data.
//!
//! A statement consists of three things only: literals of this program (`&'static str`), quoted
//! [`Name`]s, and bound values. Only this file and `ddl.rs` write SQL text at run time, and only
//! this one vouches for it.

use std::sync::Arc;

use futures_util::stream::{BoxStream, Stream, TryStreamExt as _};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Point;
use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::conn::{Conn, Row, Watch, within};
use super::dialect::Dialect;
use super::names::Name;
use super::{postgres, sqlite};

/// The maximum number of values that a statement can bind; SQLite's limit is 32,766.
pub(crate) const MAX_VALUES: usize = 30_000;

/// A value to bind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A float.
    Real(f64),
    /// A string.
    Text(String),
    /// A time.
    Time(Timestamp),
    /// JSON, serialized.
    Json(String),
    /// Text of the database's catalog, such as a name: it is sent as it is.
    Catalog(String),
    /// A place on the globe.
    Point(Point),
}

impl Arg {
    fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Real(_) => Kind::Real,
            Self::Text(_) => Kind::Text,
            Self::Time(_) => Kind::Time,
            Self::Json(_) => Kind::Json,
            Self::Catalog(_) => Kind::Catalog,
            Self::Point(_) => Kind::Point,
        }
    }

    /// Binds a string.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Binds text of the database's catalog.
    pub(crate) fn catalog(text: impl Into<String>) -> Self {
        Self::Catalog(text.into())
    }

    /// Binds a name as the database's catalog has it.
    pub(crate) fn name(name: &Name) -> Self {
        Self::catalog(name.as_str())
    }

    /// Binds a name as SQL text, as `to_regclass` takes it.
    pub(crate) fn quoted(name: &Name) -> Self {
        Self::catalog(name.quoted())
    }

    /// Binds a string or NULL.
    pub(crate) fn maybe(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }

    /// Returns about how many bytes the value takes in memory.
    pub(crate) fn weight(&self) -> usize {
        let of_text = match self {
            Self::Text(text) | Self::Json(text) | Self::Catalog(text) => text.len(),
            _ => 0,
        };
        size_of::<Self>() + of_text
    }

    /// Binds an unsigned number; positions stay below 2^63.
    pub(crate) fn unsigned(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// The kind of value that a placeholder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// NULL only.
    Null,
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A float.
    Real,
    /// A string.
    Text,
    /// A time.
    Time,
    /// JSON.
    Json,
    /// Text of the database's catalog.
    Catalog,
    /// A place on the globe.
    Point,
}

/// The placeholder of a bound value: its `?` is at byte `at` of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Hole {
    at: usize,
    kind: Kind,
}

/// Waits until all rows have been taken, or one was refused.
async fn all_taken<E>(
    mut rows: impl Stream<Item = Result<Result<(), E>, sqlx::Error>> + Unpin,
) -> Result<Result<(), E>, sqlx::Error> {
    while let Some(taken) = rows.try_next().await? {
        if taken.is_err() {
            return Ok(taken);
        }
    }
    Ok(Ok(()))
}

/// Clears a connection's cache of prepared statements if one of them no longer fits its table.
/// Returns whether to try once more.
async fn forgot_stale(
    conn: &mut PgConnection,
    watch: Option<&Watch>,
    error: Option<&sqlx::Error>,
) -> Result<bool, sqlx::Error> {
    if !error.is_some_and(postgres::is_stale) {
        return Ok(false);
    }
    within(watch, conn.clear_cached_statements()).await?;
    // A transaction in which a statement failed cannot continue.
    Ok(!conn.is_in_transaction())
}

/// SQL text written by [`Sql`]. It is cheap to clone, so that texts in frequent use are built once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SafeText {
    text: Arc<str>,
    holes: Arc<[Hole]>,
}

impl SafeText {
    /// Runs the statement; returns the number of rows that it changed.
    pub(crate) async fn execute(
        &self,
        conn: &mut Conn<'_>,
        args: Vec<Arg>,
    ) -> Result<u64, sqlx::Error> {
        let dialect = conn.dialect();
        match conn {
            Conn::Sqlite(conn, watch) => {
                let query = self.for_sqlite(args)?;
                let done = within(*watch, query.execute(&mut **conn)).await?;
                Ok(done.rows_affected())
            }
            Conn::Postgres(conn, _, watch) => {
                let query = self.for_postgres(dialect, args)?;
                let done = within(*watch, query.execute(&mut **conn)).await?;
                Ok(done.rows_affected())
            }
        }
    }

    /// Runs the statement and returns all its rows.
    pub(crate) async fn fetch_all(
        &self,
        conn: &mut Conn<'_>,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let dialect = conn.dialect();
        match conn {
            Conn::Sqlite(conn, watch) => {
                let query = self.for_sqlite(args)?;
                let rows = within(*watch, query.fetch_all(&mut **conn)).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Conn::Postgres(conn, _, watch) => {
                let query = self.for_postgres(dialect, args.clone())?;
                let mut rows = within(*watch, query.fetch_all(&mut **conn)).await;
                if forgot_stale(conn, *watch, rows.as_ref().err()).await? {
                    let query = self.for_postgres(dialect, args)?;
                    rows = within(*watch, query.fetch_all(&mut **conn)).await;
                }
                Ok(rows?.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Runs the statement and passes on its rows as they arrive, until one is refused.
    pub(crate) async fn for_each<E: From<sqlx::Error>>(
        &self,
        conn: &mut Conn<'_>,
        args: Vec<Arg>,
        mut take: impl FnMut(&Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let dialect = conn.dialect();
        let (taken, watch) = match conn {
            Conn::Sqlite(conn, watch) => {
                let rows = self.for_sqlite(args)?.fetch(&mut **conn);
                let rows = rows.map_ok(|row| take(&Row::Sqlite(row)));
                (within(*watch, all_taken(rows)).await?, watch)
            }
            Conn::Postgres(conn, _, watch) => {
                let rows = self.for_postgres(dialect, args.clone())?;
                let rows = rows.fetch(&mut **conn);
                let rows = rows.map_ok(|row| take(&Row::Postgres(row)));
                let mut taken = within(*watch, all_taken(rows)).await;
                if forgot_stale(conn, *watch, taken.as_ref().err()).await? {
                    let rows = self.for_postgres(dialect, args)?.fetch(&mut **conn);
                    let rows = rows.map_ok(|row| take(&Row::Postgres(row)));
                    taken = within(*watch, all_taken(rows)).await;
                }
                (taken?, watch)
            }
        };
        if let (Err(_), Some(watch)) = (&taken, watch) {
            watch.leave();
        }
        taken
    }

    /// Runs the statement and returns its first row.
    pub(crate) async fn fetch_optional(
        &self,
        conn: &mut Conn<'_>,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, sqlx::Error> {
        let dialect = conn.dialect();
        match conn {
            Conn::Sqlite(conn, watch) => {
                let query = self.for_sqlite(args)?;
                let row = within(*watch, query.fetch_optional(&mut **conn)).await?;
                Ok(row.map(Row::Sqlite))
            }
            Conn::Postgres(conn, _, watch) => {
                let query = self.for_postgres(dialect, args.clone())?;
                let mut row = within(*watch, query.fetch_optional(&mut **conn)).await;
                if forgot_stale(conn, *watch, row.as_ref().err()).await? {
                    let query = self.for_postgres(dialect, args)?;
                    row = within(*watch, query.fetch_optional(&mut **conn)).await;
                }
                Ok(row?.map(Row::Postgres))
            }
        }
    }

    /// Returns the statement that asks for the plan of this one.
    pub(crate) fn explained(&self, dialect: Dialect) -> Self {
        let explain = dialect.choose("EXPLAIN QUERY PLAN ", "EXPLAIN (FORMAT JSON) ");
        let holes = self.holes.iter().map(|hole| Hole {
            at: hole.at + explain.len(),
            kind: hole.kind,
        });
        Self {
            text: format!("{explain}{}", self.text).into(),
            holes: holes.collect(),
        }
    }

    /// Runs the statement on a file and returns its rows as they arrive.
    pub(crate) fn stream<'a>(
        &self,
        conn: &'a mut SqliteConnection,
    ) -> Result<BoxStream<'a, Result<SqliteRow, sqlx::Error>>, sqlx::Error> {
        Ok(conn.fetch(self.for_sqlite(Vec::new())?))
    }

    fn for_sqlite(
        &self,
        args: Vec<Arg>,
    ) -> Result<Query<'static, Sqlite, SqliteArguments>, sqlx::Error> {
        let text = AssertSqlSafe(Arc::clone(&self.text));
        Ok(sqlx::query_with(text, sqlite::arguments(args)?))
    }

    fn for_postgres(
        &self,
        dialect: Dialect,
        args: Vec<Arg>,
    ) -> Result<Query<'static, Postgres, PgArguments>, sqlx::Error> {
        let kinds = self.holes.iter().map(|hole| hole.kind);
        let args = postgres::arguments(dialect, kinds.zip(args))?;
        Ok(sqlx::query_with(
            AssertSqlSafe(self.numbered(dialect)),
            args,
        ))
    }

    /// Writes the text for PostgreSQL, where placeholders have numbers. They also have the kinds of
    /// their values, so that a prepared statement in the cache never gets a value of another kind.
    fn numbered(&self, dialect: Dialect) -> String {
        let mut text = String::with_capacity(self.text.len() + self.holes.len() * 8);
        let (mut from, mut number) = (0, 0);
        for hole in &*self.holes {
            text.push_str(self.text.get(from..hole.at).unwrap_or_default());
            from = hole.at + 1;
            if hole.kind == Kind::Null {
                text.push_str("NULL");
                continue;
            }
            number += 1;
            text.push('$');
            text.push_str(&number.to_string());
            text.push_str(dialect.cast(hole.kind));
        }
        text.push_str(self.text.get(from..).unwrap_or_default());
        text
    }
}

/// A statement under construction.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sql {
    text: String,
    holes: Vec<Hole>,
    args: Vec<Arg>,
}

impl Sql {
    /// Starts a statement.
    pub(crate) fn new(text: &'static str) -> Self {
        let mut sql = Self::default();
        sql.push(text);
        sql
    }

    /// Builds the statement that inserts a row into a table, or replaces the one with the same key.
    pub(crate) fn put<const KEYS: usize, const OTHERS: usize>(
        table: &'static str,
        key: [(&'static str, Arg); KEYS],
        others: [(&'static str, Arg); OTHERS],
    ) -> Self {
        let key_names = key.each_ref().map(|(name, _)| *name);
        let other_names = others.each_ref().map(|(name, _)| *name);
        let mut sql = Self::new("INSERT INTO ");
        sql.push(table).push(" (");
        sql.list(key_names.into_iter().chain(other_names));
        sql.push(") VALUES (");
        sql.separated(key.into_iter().chain(others), |sql, (_, value)| {
            sql.bind(value);
        });
        sql.push(") ON CONFLICT (").list(key_names);
        sql.push(") DO UPDATE SET ");
        sql.separated(other_names, |sql, name| {
            sql.push(name).push("=excluded.").push(name);
        });
        sql
    }

    /// Adds literals of this program, separated by commas.
    fn list(&mut self, texts: impl IntoIterator<Item = &'static str>) -> &mut Self {
        self.separated(texts, |sql, text| {
            sql.push(text);
        })
    }

    /// Adds something for each item, separated by commas.
    pub(crate) fn separated<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut add: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.push(",");
            }
            add(self, item);
        }
        self
    }

    /// Adds a literal of this program.
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a quoted identifier.
    pub(crate) fn name(&mut self, name: &Name) -> &mut Self {
        self.text.push_str(name.quoted());
        self
    }

    /// Adds a table alias that consists of a letter and a number.
    pub(crate) fn alias(&mut self, letter: char, number: usize) -> &mut Self {
        debug_assert!(letter.is_ascii_lowercase(), "aliases are letters");
        self.text.push('_');
        self.text.push(letter);
        self.text.push_str(&number.to_string());
        self
    }

    /// Adds a number to the text; one that is too large for the database becomes its largest.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.text.push_str(&number.to_string());
        self
    }

    /// Adds a bound value.
    pub(crate) fn bind(&mut self, arg: Arg) -> &mut Self {
        self.hole(arg.kind());
        self.args.push(arg);
        self
    }

    /// Adds a placeholder for a value that follows later.
    pub(crate) fn hole(&mut self, kind: Kind) -> &mut Self {
        let at = self.text.len();
        self.holes.push(Hole { at, kind });
        self.text.push('?');
        self
    }

    /// Adds placeholders for values that follow later, separated by commas.
    pub(crate) fn holes(&mut self, kinds: impl IntoIterator<Item = Kind>) -> &mut Self {
        self.separated(kinds, |sql, kind| {
            sql.hole(kind);
        })
    }

    /// Adds the condition that the preceding expression is one of some strings.
    ///
    /// Lists have a few sizes only, so that few statements are cached; the last string is repeated
    /// to fill a list.
    pub(crate) fn within<T>(&mut self, items: &[T], text: impl Fn(&T) -> &str) -> &mut Self {
        self.one_of(items, |item| Arg::text(text(item)))
    }

    /// Does the same as [`Sql::within`], for any values.
    pub(crate) fn one_of<T>(&mut self, items: &[T], value: impl Fn(&T) -> Arg) -> &mut Self {
        let size = items.len().next_power_of_two();
        let last = items.last().into_iter().cycle();
        self.push(" IN (");
        self.separated(items.iter().chain(last).take(size), |sql, item| {
            sql.bind(value(item));
        });
        self.push(")")
    }

    /// Adds a list of names, each after `before`, separated by commas.
    pub(crate) fn names<'a>(
        &mut self,
        before: &'static str,
        names: impl IntoIterator<Item = &'a Name>,
    ) -> &mut Self {
        self.separated(names, |sql, name| {
            sql.push(before).name(name);
        })
    }

    /// Adds another statement's text and values.
    pub(crate) fn append(&mut self, other: Self) -> &mut Self {
        let length = self.text.len();
        self.holes.extend(other.holes.iter().map(|hole| Hole {
            at: hole.at + length,
            kind: hole.kind,
        }));
        self.text.push_str(&other.text);
        self.args.extend(other.args);
        self
    }

    /// Returns whether nothing has been added yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Returns the number of bound values.
    pub(crate) fn num_values(&self) -> usize {
        self.args.len()
    }

    /// Returns the text and the values.
    pub(crate) fn finish(self) -> (SafeText, Vec<Arg>) {
        let text = SafeText {
            text: self.text.into(),
            holes: self.holes.into(),
        };
        (text, self.args)
    }

    /// Returns the text of a statement whose values follow later.
    pub(crate) fn into_text(self) -> SafeText {
        debug_assert!(self.args.is_empty(), "values would be lost");
        self.finish().0
    }

    /// Runs the statement; returns the number of rows that it changed.
    pub(crate) async fn execute(self, conn: &mut Conn<'_>) -> Result<u64, sqlx::Error> {
        let (text, args) = self.finish();
        text.execute(conn, args).await
    }

    /// Runs the statement and returns all its rows.
    pub(crate) async fn fetch_all(self, conn: &mut Conn<'_>) -> Result<Vec<Row>, sqlx::Error> {
        let (text, args) = self.finish();
        text.fetch_all(conn, args).await
    }

    /// Runs the statement and passes on its rows as they arrive, until one is refused.
    pub(crate) async fn for_each<E: From<sqlx::Error>>(
        self,
        conn: &mut Conn<'_>,
        take: impl FnMut(&Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let (text, args) = self.finish();
        text.for_each(conn, args, take).await
    }

    /// Runs the statement and returns its first row.
    pub(crate) async fn fetch_optional(
        self,
        conn: &mut Conn<'_>,
    ) -> Result<Option<Row>, sqlx::Error> {
        let (text, args) = self.finish();
        text.fetch_optional(conn, args).await
    }
}
