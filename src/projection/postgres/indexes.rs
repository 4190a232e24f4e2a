//! How the upkeep of indexes works with PostgreSQL.
//!
//! 1. Indexes are created `CONCURRENTLY`, on a connection of their own, so that reads and writes
//!    continue. If that is cancelled, an invalid index remains. The next look drops invalid indexes
//!    and those that `_index` does not know.
//! 2. While an index is created, its table's columns cannot change, and a statement that waits to
//!    change them blocks all others on the table. So the change has priority: the creation is
//!    cancelled.
//! 3. Values of a sorted index are at most some 2,700 bytes long. An index that prevents a longer
//!    value from being stored is dropped for good: the index is the store's own, and the record is
//!    not.

use std::sync::Arc;

use parking_lot::Mutex;
use skytrail_schema::event::{Commit, Stream};
use skytrail_schema::id::TypeName;
use skytrail_schema::time::Timestamp;
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgDatabaseError};

use super::Server;
use crate::projection::conn::Conn;
use crate::projection::ddl;
use crate::projection::index::{Advice, IndexEntry, follow, forbid};
use crate::projection::layout::Catalog;
use crate::projection::sql::{Arg, Sql};

/// Why an index was given up.
const TOO_LONG: &str = "some values are too long for it";

/// PostgreSQL's codes for a cancelled statement, and for an exceeded limit.
const CANCELED: &str = "57014";
const LIMIT: &str = "54000";

/// The index under construction: the type that it is for, and the server process that creates it.
pub(super) type Building = Mutex<Option<(TypeName, i64)>>;

impl Server {
    /// Carries out one advice.
    pub(in crate::projection) async fn follow(
        &self,
        catalog: &Catalog,
        advice: Advice,
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let mut conn = self.connect_to_tend().await?;
        let done = self.follow_over(&mut conn, (catalog, advice), now).await;
        *self.building.lock() = None;
        let closed = conn.close().await;
        done.and(closed)
    }

    async fn follow_over(
        &self,
        conn: &mut PgConnection,
        (catalog, advice): (&Catalog, Advice),
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let mut conn = Conn::server(conn, self.extensions());
        let (Advice::Build(entry) | Advice::BuildPast(entry)) = &advice else {
            return follow(&mut conn, catalog, advice, now).await;
        };
        let (entry, record_type) = (entry.clone(), entry.record_type.clone());
        let row = Sql::new("SELECT pg_backend_pid()");
        let row = row.fetch_optional(&mut conn).await?;
        let process = row.map_or(Ok(0), |row| row.int(0))?;
        *self.building.lock() = Some((record_type.clone(), process));
        match follow(&mut conn, catalog, advice, now).await {
            Err(error) if has_code(&error, CANCELED) => {
                tracing::info!(%record_type, "an index is postponed: its type is being changed");
                Ok(())
            }
            Err(error) if has_code(&error, LIMIT) => give_up(&mut conn, entry).await,
            other => other,
        }
    }

    /// Opens a connection without a time limit on statements; a statement does not outlive this
    /// process for long.
    async fn connect_to_tend(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self
            .hosts
            .in_use()?
            .options([("client_connection_check_interval", "5s")]);
        let connected = tokio::time::timeout(self.max_wait, options.connect()).await;
        connected.map_err(|_late| sqlx::Error::PoolTimedOut)?
    }

    /// Drops indexes.
    pub(in crate::projection) async fn drop_indexes(
        &self,
        names: &[String],
    ) -> Result<(), sqlx::Error> {
        let mut conn = self.connect_to_tend().await?;
        for name in names {
            tracing::info!(index = name, "an unfinished index is dropped");
            let mut conn = Conn::server(&mut conn, self.extensions());
            let text = ddl::drop_query_index(name, conn.dialect());
            text.execute(&mut conn, Vec::new()).await?;
        }
        conn.close().await
    }

    /// Cancels the creation of an index on a type that the commits change.
    pub(in crate::projection) async fn make_way(
        &self,
        conn: &mut Conn<'_>,
        commits: &[Arc<Commit>],
    ) {
        let Some((record_type, process)) = self.building.lock().clone() else {
            return;
        };
        let mut events = commits.iter().flat_map(|commit| &commit.events);
        if events.any(|event| event.stream == Stream::Type(record_type.clone())) {
            let mut sql = Sql::new("SELECT pg_cancel_backend(");
            sql.bind(Arg::Int(process)).push("::integer)");
            if let Err(error) = sql.fetch_optional(conn).await {
                tracing::warn!(%error, "building an index could not be interrupted");
            }
        }
    }
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    let error = error.as_database_error();
    error.and_then(|error| error.code()).as_deref() == Some(code)
}

/// Records that an index cannot be created, so that it is not tried again and again.
async fn give_up(conn: &mut Conn<'_>, entry: IndexEntry) -> Result<(), sqlx::Error> {
    tracing::warn!(record_type = %entry.record_type, why = TOO_LONG, "an index cannot be built");
    crate::projection::index::save_forbidden(conn, entry, TOO_LONG).await
}

/// Returns the names of indexes for queries that were left half created, or that `_index` does not
/// know.
pub(in crate::projection) async fn strays(conn: &mut Conn<'_>) -> Result<Vec<String>, sqlx::Error> {
    let sql = Sql::new(
        "SELECT c.relname::text FROM pg_class AS c JOIN pg_index AS i ON i.indexrelid=c.oid \
         LEFT JOIN _index AS e ON substr(e.name, 8)=substr(c.relname::text, \
         CASE WHEN c.relname LIKE '\\_asof\\_%' THEN 7 ELSE 8 END) \
         WHERE c.relnamespace=(SELECT oid FROM pg_namespace WHERE nspname=current_schema) \
         AND (c.relname LIKE '\\_query\\_%' OR c.relname LIKE '\\_asof\\_%') AND (e.name IS NULL OR NOT i.indisvalid)",
    );
    let rows = sql.fetch_all(conn).await?;
    let names = rows.iter().map(|row| Ok(row.catalog(0)?.to_owned()));
    names.collect()
}

/// Returns the index that refused a value as too long, if the store can do without it.
pub(in crate::projection) fn too_narrow(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    let index = error.constraint().filter(|_| error.code() == LIMIT)?;
    let ours = [ddl::QUERY_INDEX, ddl::PAST_INDEX, "_unique_"];
    let is_ours = ours.iter().any(|prefix| index.starts_with(prefix));
    is_ours.then(|| index.to_owned())
}

/// Drops an index that refused a value as too long, with its counterpart over the past.
pub(in crate::projection) async fn drop_narrow(
    conn: &mut Conn<'_>,
    index: &str,
) -> Result<(), sqlx::Error> {
    tracing::warn!(index, why = TOO_LONG, "an index is dropped");
    let of_present = ddl::present_index_name(index);
    let index = of_present.as_deref().unwrap_or(index);
    let of_past = ddl::past_index_name(index);
    let mut tx = conn.begin_writing().await?;
    for name in of_past.as_deref().into_iter().chain([index]) {
        ddl::drop_index(name)
            .execute(&mut tx.conn(), Vec::new())
            .await?;
    }
    forbid(&mut tx.conn(), index, TOO_LONG).await?;
    tx.commit().await
}
