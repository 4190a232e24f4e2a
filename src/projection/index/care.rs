//! The upkeep of the store's indexes in the background.

use std::sync::Arc;

use skytrail_actors::clock::Clock;
use skytrail_actors::spawn::spawn_named;
use skytrail_actors::store::StoreError;
use skytrail_schema::time::Timestamp;
use tokio::time::sleep;

use super::advice::Advice;
use super::{IndexEntry, IndexSurvey, PERIOD, follow, load};
use crate::projection::conn::Conn;
use crate::projection::postgres;
use crate::projection::sql::Sql;
use crate::projection::store::{SqlStore, StoreLocation, Writer, open_writer_of};

/// After this many looks at the indexes, about once an hour, the planner's statistics are renewed.
const LOOKS_PER_COUNT: u32 = 720;

impl SqlStore {
    /// Keeps up the indexes from now on, until [`SqlStore::stop_keeping`].
    pub fn keep_indexes(self: &Arc<Self>, clock: Arc<dyn Clock>) {
        let store = Arc::clone(self);
        spawn_named("index keeper", async move {
            let mut num_looks: u32 = 0;
            let pause = || store.ending.run_until_cancelled(sleep(PERIOD));
            while pause().await.is_some() {
                num_looks += 1;
                let mut done = store.tend_indexes(clock.now()).await;
                if num_looks.is_multiple_of(LOOKS_PER_COUNT) {
                    done = done.and(store.count_anew().await);
                }
                if let Err(error) = done {
                    tracing::warn!(%error, "the indexes could not be maintained");
                }
            }
        });
    }

    /// Renews the planner's statistics of tables that have grown much. PostgreSQL does so by
    /// itself.
    async fn count_anew(&self) -> Result<(), StoreError> {
        if let StoreLocation::Server(_) = &self.home {
            return Ok(());
        }
        {
            let mut writer = self.writer.lock().await;
            let done = count_anew(&mut writer).await;
            done.map_err(|error| self.failed(error))?;
        }
        self.renew_readers().await;
        Ok(())
    }

    /// Looks at the queries since the last look, and creates or drops indexes accordingly.
    ///
    /// # Errors
    /// The database failed; what was done before it failed remains.
    pub async fn tend_indexes(&self, now: Timestamp) -> Result<(), StoreError> {
        let look = {
            let mut reader = self.reader().await?;
            let catalog = Arc::clone(&reader.catalog);
            let mut conn = reader.conn().map_err(|error| self.failed(error))?;
            if let StoreLocation::Server(server) = &self.home {
                let cleared = clear(server, &mut conn).await;
                cleared.map_err(|error| self.failed(error))?;
            }
            IndexSurvey::take(&mut conn, &catalog, &self.stats, &self.index_limits)
                .await
                .map_err(|error| self.failed(error))?
        };
        let since = *self.tended_since.get_or_init(|| now);
        let advice = look.advise(&self.index_limits.of_process(since, now), now);
        if look.has_uses() {
            let mut writer = self.writer.lock().await;
            let saved = save_uses(&look, &mut writer, now).await;
            saved.map_err(|error| self.failed(error))?;
        }
        let has_advice = !advice.is_empty();
        for advice in advice {
            let done = match &self.home {
                // One at a time, so that the projector has its turn between two of them.
                StoreLocation::File(_) => do_one(&mut *self.writer.lock().await, advice, now).await,
                StoreLocation::Server(server) => {
                    server.follow(&self.catalog.load(), advice, now).await
                }
            };
            done.map_err(|error| self.failed(error))?;
        }
        if has_advice {
            self.renew_readers().await;
        }
        Ok(())
    }

    /// Renews connections, since open ones do not see the planner's new statistics.
    async fn renew_readers(&self) {
        if let StoreLocation::File(file) = &self.home {
            file.readers.renew().await;
        }
    }

    /// Lists the indexes that queries or people asked for.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list_indexes(&self) -> Result<Vec<IndexEntry>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        load(&mut conn).await.map_err(|error| self.failed(error))
    }
}

/// Drops indexes that a crash left half created.
async fn clear(server: &postgres::Server, conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    let strays = postgres::strays(conn).await?;
    if strays.is_empty() {
        return Ok(());
    }
    server.drop_indexes(&strays).await
}

async fn save_uses(
    look: &IndexSurvey,
    writer: &mut Option<Writer>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (mut conn, _) = open_writer_of(writer)?.conn()?;
    look.save_uses(&mut conn, now).await
}

async fn do_one(
    writer: &mut Option<Writer>,
    advice: Advice,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (mut conn, state) = open_writer_of(writer)?.conn()?;
    follow(&mut conn, &state.catalog, advice, now).await
}

async fn count_anew(writer: &mut Option<Writer>) -> Result<(), sqlx::Error> {
    let (mut conn, _) = open_writer_of(writer)?.conn()?;
    for pragma in ["PRAGMA analysis_limit = 400", "PRAGMA optimize(0x10002)"] {
        Sql::new(pragma).execute(&mut conn).await?;
    }
    Ok(())
}
