//! Forgetting what events held, down to the last byte of the file.
//!
//! Rows are gone by the time: what is there no more was deleted by an event. But SQLite leaves what a
//! row held in free pages, in the gaps of pages that were split, and in the write-ahead file. So the
//! file is written anew from its rows (`VACUUM`) and the write-ahead file cut. It takes as long as the
//! file is large, and space for two copies of it; erasures that come together are done together.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skytrail_actors::erasure::{Holder, HolderError};
use skytrail_schema::positions::Positions;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use super::{open_beside, sums};
use crate::projection::conn::Conn;
use crate::projection::history::ERASED;
use crate::projection::layout::Catalog;
use crate::projection::sql::{Arg, Sql};
use crate::projection::store::{SqlStore, open_writer_of};

/// How often the write-ahead file is tried to be cut while somebody reads it, and the pauses between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

#[async_trait]
impl Holder for SqlStore {
    fn name(&self) -> &'static str {
        "record store"
    }

    async fn forget(&self, positions: &Positions) -> Result<(), HolderError> {
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer)?;
        let catalog = Arc::clone(&writer.state.catalog);
        let mut conn = Conn::Sqlite(&mut writer.conn);
        mark(&mut conn, &catalog, positions).await.map_err(failed)?;
        // Nothing is applied meanwhile; reading goes on. A connection of its own keeps what it sorts
        // in a file, not in memory.
        let mut conn = open_beside(&self.path).await.map_err(failed)?;
        let scrubbed = scrub(&mut conn, &self.path).await;
        let closed = conn.close().await;
        scrubbed.and(closed).map_err(failed)
    }
}

/// Says in the history that the events' payloads are gone, as a store that is made from the log has
/// it, and forgets what could not be applied of them, and what records were because of them.
async fn mark(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    positions: &Positions,
) -> Result<(), sqlx::Error> {
    let pasts = catalog.sorted().into_values();
    let pasts: Vec<_> = pasts.filter_map(|layout| layout.past()).collect();
    let mut tx = conn.begin_writing().await?;
    for (first, last) in positions.runs() {
        let mut sql = Sql::new("UPDATE _history SET kind = kind | ");
        sql.bind(Arg::Int(ERASED));
        sql.push(" WHERE position BETWEEN ");
        sql.bind(Arg::unsigned(*first)).push(" AND ");
        sql.bind(Arg::unsigned(*last));
        sql.execute(&mut tx.conn()).await?;
        let mut sql = Sql::new("DELETE FROM _faults WHERE position BETWEEN ");
        sql.bind(Arg::unsigned(*first)).push(" AND ");
        sql.bind(Arg::unsigned(*last));
        sql.execute(&mut tx.conn()).await?;
        for past in &pasts {
            let mut sql = Sql::new("DELETE FROM ");
            sql.name(&past.name);
            sql.push(" WHERE _position BETWEEN ")
                .bind(Arg::unsigned(*first));
            sql.push(" AND ").bind(Arg::unsigned(*last));
            sql.execute(&mut tx.conn()).await?;
        }
    }
    tx.commit().await
}

/// Writes the file anew and cuts the write-ahead file.
async fn scrub(conn: &mut SqliteConnection, path: &std::path::Path) -> Result<(), sqlx::Error> {
    sqlx::query("VACUUM").execute(&mut *conn).await?;
    for _ in 0..TRIES {
        sums::merge(conn, path).await?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
        let is_busy: i64 = row.fetch_one(&mut *conn).await?.try_get(0)?;
        if is_busy == 0 {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let message = "somebody reads what is to be cut".to_owned();
    Err(sqlx::Error::Protocol(message))
}

/// SQLite's code for a full disk.
const FULL: &str = "13";

#[expect(clippy::needless_pass_by_value, reason = "the form of map_err")]
pub(crate) fn failed(error: sqlx::Error) -> HolderError {
    let code = error.as_database_error().and_then(|error| error.code());
    if code.as_deref() == Some(FULL) {
        return HolderError::DiskFull;
    }
    HolderError::Failed(error.to_string())
}
