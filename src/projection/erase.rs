//! Erases what events held, wherever the store has it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use skytrail_actors::erasure::{Holder, HolderError};
use skytrail_actors::store::StoreError;
use skytrail_schema::event::ErasureScope;
use skytrail_schema::positions::Positions;

use super::captured;
use super::conn::Conn;
use super::history::ERASED;
use super::layout::Catalog;
use super::sql::{Arg, Sql};
use super::sqlite::erase::failed;
use super::store::{SqlStore, StoreLocation, Writer, open_writer_of};
use super::{postgres, read, sqlite};

#[async_trait]
impl Holder for SqlStore {
    fn name(&self) -> &'static str {
        "record store"
    }

    async fn forget_beside(&self, scopes: &[ErasureScope]) -> Result<(), HolderError> {
        if let StoreLocation::File(_) = &self.home {
            return Ok(());
        }
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(failed)?;
        self.reconnect(writer).await.map_err(failed)?;
        let backend = writer.backend();
        let forgotten = async {
            let (mut conn, state) = writer.conn()?;
            captured::forget(&mut conn, &state.catalog, scopes).await
        };
        let forgotten = self.served_by(backend.as_ref(), forgotten).await;
        self.done(writer, forgotten).await
    }

    async fn keeps_beside(&self, scope: &ErasureScope) -> Result<bool, StoreError> {
        if let StoreLocation::File(_) = &self.home {
            return Ok(false);
        }
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let found = captured::is_parked(&mut conn, &catalog, scope).await;
        found.map_err(|error| self.failed(error))
    }

    async fn forget(&self, positions: &Positions) -> Result<(), HolderError> {
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(failed)?;
        self.reconnect(writer).await.map_err(failed)?;
        let backend = writer.backend();
        let forgotten = async {
            let (mut conn, state) = writer.conn()?;
            let catalog = Arc::clone(&state.catalog);
            mark(&mut conn, &catalog, positions).await?;
            let num_faults = read::count_faults(&mut conn).await?;
            self.num_faults.store(num_faults, Ordering::Relaxed);
            // Nothing is applied meanwhile; reads continue.
            match &self.home {
                StoreLocation::File(file) => sqlite::scrub(&file.path).await,
                StoreLocation::Server(_) => postgres::scrub(&mut conn).await,
            }
        };
        let forgotten = self.served_by(backend.as_ref(), forgotten).await;
        self.done(writer, forgotten).await
    }
}

impl SqlStore {
    /// Drops the connection if the work failed, so that the next attempt gets a new one.
    async fn done(
        &self,
        writer: &mut Writer,
        forgotten: Result<(), sqlx::Error>,
    ) -> Result<(), HolderError> {
        if let Err(error) = &forgotten {
            self.renew(writer, error).await;
        }
        forgotten.map_err(failed)
    }
}

/// Marks the events as erased in the history, like in a store that is made from the log.
///
/// Deletes their faults, and the past versions of records that they wrote.
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
