//! Looking after the store's indexes, beside everything else.

use std::sync::Arc;

use skytrail_actors::clock::Clock;
use skytrail_actors::spawn::spawn_named;
use skytrail_actors::store::StoreError;
use skytrail_schema::time::Timestamp;
use sqlx::sqlite::SqliteConnection;
use tokio::time::sleep;

use super::{IndexEntry, Look, PERIOD, follow, load};
use crate::projection::conn::Conn;
use crate::projection::store::{SqlStore, Writer, open_writer_of};

/// After so many looks at the indexes the planner counts anew: about once an hour.
const LOOKS_PER_COUNT: u32 = 720;

impl SqlStore {
    /// Looks after the indexes from now on, until [`SqlStore::stop_keeping`].
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
                    tracing::warn!(%error, "the indexes could not be looked after");
                }
            }
        });
    }

    /// Lets the planner count again where tables have grown much since it did.
    async fn count_anew(&self) -> Result<(), StoreError> {
        {
            let mut writer = self.writer.lock().await;
            let conn = writer_conn(&mut writer)?;
            sqlx::raw_sql("PRAGMA analysis_limit = 400; PRAGMA optimize(0x10002);")
                .execute(conn)
                .await
                .map_err(|error| self.failed(error))?;
        }
        self.readers.renew().await;
        Ok(())
    }

    /// Looks at what queries did since the last time, and makes or drops indexes accordingly.
    ///
    /// # Errors
    /// The database failed; what was done before stays.
    pub async fn tend_indexes(&self, now: Timestamp) -> Result<(), StoreError> {
        let look = {
            let mut reader = self.reader().await?;
            let catalog = Arc::clone(&reader.catalog);
            let mut conn = reader.conn().map_err(|error| self.failed(error))?;
            Look::take(&mut conn, &catalog, &self.stats, &self.options.index_limits)
                .await
                .map_err(|error| self.failed(error))?
        };
        let advice = look.advise(&self.options.index_limits, now);
        if look.has_uses() {
            let mut writer = self.writer.lock().await;
            let conn = writer_conn(&mut writer)?;
            look.save_uses(&mut Conn::Sqlite(conn), now)
                .await
                .map_err(|error| self.failed(error))?;
        }
        let has_advice = !advice.is_empty();
        for advice in advice {
            // One at a time: between two the projector has its turn.
            let mut writer = self.writer.lock().await;
            let Writer { conn, state } = open_writer_of(&mut writer)?;
            follow(&mut Conn::Sqlite(conn), &state.catalog, advice, now)
                .await
                .map_err(|error| self.failed(error))?;
        }
        if has_advice {
            // Open connections do not see the planner's new numbers.
            self.readers.renew().await;
        }
        Ok(())
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

fn writer_conn(writer: &mut Option<Writer>) -> Result<&mut SqliteConnection, StoreError> {
    open_writer_of(writer).map(|writer| &mut writer.conn)
}
