//! A connection to the store's database, and its rows: all that the rest of the store knows of a
//! driver.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Point;
use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, Transaction};

use super::dialect::{Dialect, Extensions};
use super::postgres;
use super::sql::{Arg, Sql};

/// How long a statement that needs a table exclusively waits for it at first.
pub(crate) const SHORT_WAIT: Duration = Duration::from_secs(1);

/// How long a statement waits for a table that it needs exclusively in the middle of applying events:
/// longer than PostgreSQL's `deadlock_timeout`, after which an automatic vacuum gives way.
pub(crate) const TABLE_WAIT: Duration = Duration::from_secs(2);

/// How a transaction that applies events writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteOptions {
    /// It need not be on a server's disk when it ends, since it can be written again.
    pub(crate) is_lazy: bool,
    /// How long each statement waits for a lock that another session of a server holds. Without a
    /// limit, it waits as long as it takes.
    pub(crate) lock_wait: Option<Duration>,
}

/// A connection in use.
pub(crate) enum Conn<'a> {
    /// A connection to a file, and whether it owes an answer.
    Sqlite(&'a mut SqliteConnection, Option<&'a Watch>),
    /// A connection to a server, and how long the server may be silent.
    Postgres(&'a mut PgConnection, Extensions, Option<&'a Watch>),
}

impl<'a> Conn<'a> {
    /// Wraps a connection to a file, for a caller that runs its work to the end.
    pub(crate) fn file(conn: &'a mut SqliteConnection) -> Self {
        Self::Sqlite(conn, None)
    }

    /// Wraps a connection to a server, which may take as long as it needs.
    pub(crate) fn server(conn: &'a mut PgConnection, extensions: Extensions) -> Self {
        Self::Postgres(conn, extensions, None)
    }
}

impl Conn<'_> {
    /// Sets which extensions are used.
    pub(crate) fn knowing(self, extensions: Extensions) -> Self {
        match self {
            Self::Postgres(conn, _, watch) => Self::Postgres(conn, extensions, watch),
            file @ Self::Sqlite(..) => file,
        }
    }

    /// Returns the database's dialect.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(..) => Dialect::Sqlite,
            Self::Postgres(_, extensions, _) => Dialect::Postgres(*extensions),
        }
    }

    /// Starts to read from one snapshot. Within a transaction it sets a savepoint instead, so that
    /// the work can be undone on its own.
    pub(crate) async fn begin(&mut self) -> Result<Tx<'_>, sqlx::Error> {
        match self {
            Self::Sqlite(conn, watch) => {
                let begun = within(*watch, conn.begin()).await;
                begun.map(|tx| Tx::Sqlite(tx, *watch))
            }
            Self::Postgres(conn, extensions, watch) => {
                let begun = if conn.is_in_transaction() {
                    within(*watch, conn.begin()).await
                } else {
                    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                    within(*watch, conn.begin_with(begin)).await
                };
                begun.map(|tx| Tx::Postgres(tx, *extensions, *watch))
            }
        }
    }

    /// Starts to write.
    pub(crate) async fn begin_writing(&mut self) -> Result<Tx<'_>, sqlx::Error> {
        self.begin_applying(WriteOptions::default()).await
    }

    /// Limits how long this transaction waits for a lock. Another session can hold a table for
    /// hours, and everything that asks for the table meanwhile queues behind this transaction. In a
    /// file nobody does.
    pub(crate) async fn wait_at_most(&mut self, wait: Duration) -> Result<(), sqlx::Error> {
        if self.dialect().is_sqlite() {
            return Ok(());
        }
        let mut sql = Sql::new("SELECT set_config('lock_timeout',");
        sql.bind(Arg::Text(format!("{}ms", wait.as_millis())))
            .push(",true)");
        sql.fetch_optional(self).await.map(drop)
    }

    /// Starts to write events.
    pub(crate) async fn begin_applying(
        &mut self,
        options: WriteOptions,
    ) -> Result<Tx<'_>, sqlx::Error> {
        match self {
            Self::Sqlite(conn, watch) => {
                let begun = within(*watch, conn.begin_with("BEGIN IMMEDIATE")).await;
                begun.map(|tx| Tx::Sqlite(tx, *watch))
            }
            Self::Postgres(conn, extensions, watch) => {
                let mut begin = "BEGIN".to_owned();
                if options.is_lazy {
                    begin.push_str("; SET LOCAL synchronous_commit = off");
                }
                if let Some(wait) = options.lock_wait {
                    let _ = write!(begin, "; SET LOCAL lock_timeout = {}", wait.as_millis());
                }
                let begun = within(*watch, conn.begin_with(AssertSqlSafe(begin))).await;
                begun.map(|tx| Tx::Postgres(tx, *extensions, *watch))
            }
        }
    }
}

/// How long a server may be silent, and whether an answer is owed.
///
/// A caller that gives up waiting or is dropped leaves a connection on which the answer has yet to
/// arrive. Such a connection must not be used again.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// `None` for a file, which is never silent.
    limit: Option<Duration>,
    is_awaiting_answer: AtomicBool,
}

impl Watch {
    /// Waits at most this long for each answer.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            is_awaiting_answer: AtomicBool::new(false),
        }
    }

    /// Records that nobody reads the rest of an answer.
    pub(super) fn leave(&self) {
        self.is_awaiting_answer.store(true, Ordering::Relaxed);
    }

    /// Returns whether an answer has yet to arrive.
    pub(crate) fn is_awaiting_answer(&self) -> bool {
        self.is_awaiting_answer.load(Ordering::Relaxed)
    }
}

/// Waits for an answer, no longer than the watch allows.
pub(super) async fn within<T>(
    watch: Option<&Watch>,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let Some(watch) = watch else {
        return answer.await;
    };
    watch.is_awaiting_answer.store(true, Ordering::Relaxed);
    let answered = match watch.limit {
        None => answer.await,
        Some(limit) => match tokio::time::timeout(limit, answer).await {
            Ok(answered) => answered,
            Err(_late) => return Err(postgres::silent(limit)),
        },
    };
    watch.is_awaiting_answer.store(false, Ordering::Relaxed);
    answered
}

/// A transaction, which is undone when it is dropped.
pub(crate) enum Tx<'a> {
    /// In a file.
    Sqlite(Transaction<'a, Sqlite>, Option<&'a Watch>),
    /// In a server.
    Postgres(Transaction<'a, Postgres>, Extensions, Option<&'a Watch>),
}

impl Tx<'_> {
    /// Returns the connection.
    pub(crate) fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(tx, watch) => Conn::Sqlite(tx, *watch),
            Self::Postgres(tx, extensions, watch) => Conn::Postgres(tx, *extensions, *watch),
        }
    }

    /// Commits the transaction.
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx, watch) => within(watch, tx.commit()).await,
            Self::Postgres(tx, _, watch) => within(watch, tx.commit()).await,
        }
    }

    /// Undoes the transaction, or ends a reading one.
    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx, watch) => within(watch, tx.rollback()).await,
            Self::Postgres(tx, _, watch) => within(watch, tx.rollback()).await,
        }
    }
}

/// A row of an answer. Columns are read by index.
pub(crate) enum Row {
    /// From a file.
    Sqlite(SqliteRow),
    /// From a server.
    Postgres(PgRow),
}

impl Row {
    /// Returns the number of columns.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Sqlite(row) => row.len(),
            Self::Postgres(row) => row.len(),
        }
    }

    /// Reads a string, or NULL.
    pub(crate) fn maybe_text(&self, index: usize) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => {
                let text: Option<&str> = row.try_get_unchecked(index)?;
                Ok(text.map(Cow::Borrowed))
            }
            Self::Postgres(row) => postgres::text(row, index),
        }
    }

    /// Reads a string.
    pub(crate) fn text(&self, index: usize) -> Result<Cow<'_, str>, sqlx::Error> {
        self.maybe_text(index)?.ok_or_else(missing)
    }

    /// Reads text of the database's catalog, such as a name, or NULL.
    pub(crate) fn maybe_catalog(&self, index: usize) -> Result<Option<&str>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get_unchecked(index),
            Self::Postgres(row) => postgres::catalog(row, index),
        }
    }

    /// Reads text of the database's catalog.
    pub(crate) fn catalog(&self, index: usize) -> Result<&str, sqlx::Error> {
        self.maybe_catalog(index)?.ok_or_else(missing)
    }

    /// Reads a JSON list of names of the database's catalog; NULL counts as empty.
    pub(crate) fn catalog_list(&self, index: usize) -> Result<Vec<String>, sqlx::Error> {
        let list = self.maybe_catalog(index)?.unwrap_or("[]");
        let list = serde_json::from_str(list);
        list.map_err(|error| sqlx::Error::Decode(error.into()))
    }

    /// Reads a whole number, or NULL.
    pub(crate) fn maybe_int(&self, index: usize) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get_unchecked(index),
            Self::Postgres(row) => postgres::int(row, index),
        }
    }

    /// Reads a whole number.
    pub(crate) fn int(&self, index: usize) -> Result<i64, sqlx::Error> {
        self.maybe_int(index)?.ok_or_else(missing)
    }

    /// Reads a number, or NULL.
    pub(crate) fn maybe_real(&self, index: usize) -> Result<Option<f64>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get_unchecked(index),
            Self::Postgres(row) => postgres::real(row, index),
        }
    }

    /// Reads a boolean, or NULL.
    pub(crate) fn maybe_flag(&self, index: usize) -> Result<Option<bool>, sqlx::Error> {
        Ok(self.maybe_int(index)?.map(|number| number != 0))
    }

    /// Reads a boolean.
    pub(crate) fn flag(&self, index: usize) -> Result<bool, sqlx::Error> {
        self.maybe_flag(index)?.ok_or_else(missing)
    }

    /// Reads a time, or NULL.
    pub(crate) fn maybe_time(&self, index: usize) -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(self.maybe_int(index)?.map(Timestamp::from_micros))
    }

    /// Reads a time.
    pub(crate) fn time(&self, index: usize) -> Result<Timestamp, sqlx::Error> {
        self.maybe_time(index)?.ok_or_else(missing)
    }

    /// Reads a point, or NULL.
    pub(crate) fn maybe_point(&self, index: usize) -> Result<Option<Point>, sqlx::Error> {
        match self {
            Self::Sqlite(_) => {
                let place: Option<(f64, f64)> = self.maybe_json(index)?;
                Ok(place.map(|(lng, lat)| Point { lng, lat }))
            }
            Self::Postgres(row) => postgres::point(row, index),
        }
    }

    /// Reads a number that is not negative.
    pub(crate) fn unsigned<T: TryFrom<i64>>(&self, index: usize) -> Result<T, sqlx::Error> {
        let number = T::try_from(self.int(index)?);
        number.map_err(|_| sqlx::Error::Decode("number out of range".into()))
    }

    /// Reads JSON into a type no part of which can hold arbitrary JSON; that takes
    /// [`skytrail_schema::json`].
    pub(crate) fn json<T: DeserializeOwned>(&self, index: usize) -> Result<T, sqlx::Error> {
        let value = serde_json::from_str(&self.text(index)?);
        value.map_err(|error| sqlx::Error::Decode(error.into()))
    }

    /// Reads JSON, or NULL.
    pub(crate) fn maybe_json<T: DeserializeOwned>(
        &self,
        index: usize,
    ) -> Result<Option<T>, sqlx::Error> {
        let value = self.maybe_text(index)?;
        let value = value.map(|text| serde_json::from_str(&text));
        value
            .transpose()
            .map_err(|error| sqlx::Error::Decode(error.into()))
    }
}

fn missing() -> sqlx::Error {
    sqlx::Error::Decode("NULL instead of a value".into())
}
