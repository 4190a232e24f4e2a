//! The port for moving the outbox into the log.

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_actors::capture::{
    BatchLimits, CaptureSource, CapturedTransaction, Parked, ParkedRow, ParkedSelector, Span,
    UniqueSets, Waiting,
};
use skytrail_actors::store::StoreError;
use skytrail_schema::event::SqlSource;
use skytrail_schema::id::RecordId;

use super::{closing, constraints, discard, is_in_use, parked, reading, scan, tables_of, triggers};
use crate::projection::store::{SqlStore, StoreLocation};

/// Runs something on a connection that reads, with the catalog that fits.
macro_rules! over {
    ($store:ident, |$conn:ident, $catalog:ident| $run:expr) => {{
        let mut reader = $store.reader().await?;
        let $catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| $store.failed(error))?;
        let $conn = &mut conn;
        let done = $run.await;
        done.map_err(|error| $store.failed(error))
    }};
}

#[async_trait]
impl CaptureSource for SqlStore {
    async fn is_in_use(&self) -> Result<bool, StoreError> {
        over!(self, |conn, _catalog| is_in_use(conn))
    }

    async fn announced(&self) {
        match &self.home {
            StoreLocation::Server(server) => server.announced().await,
            StoreLocation::File(_) => std::future::pending().await,
        }
    }

    async fn scan(&self, in_log: &[(u64, u64)]) -> Result<Vec<Span>, StoreError> {
        over!(self, |conn, catalog| scan(
            conn,
            &tables_of(&catalog),
            in_log
        ))
    }

    async fn load(&self, limits: BatchLimits) -> Result<Vec<CapturedTransaction>, StoreError> {
        over!(self, |conn, _catalog| reading::load(conn, limits))
    }

    async fn park(&self, source: &SqlSource, rows: &[Parked]) -> Result<(), StoreError> {
        over!(self, |conn, catalog| parked::park(
            conn, &catalog, source, rows
        ))
    }

    async fn discard(
        &self,
        source: &SqlSource,
        decided: (&[RecordId], u64),
    ) -> Result<bool, StoreError> {
        over!(self, |conn, _catalog| discard(conn, source, decided))
    }

    async fn restore_triggers(&self) -> Result<Vec<String>, StoreError> {
        over!(self, |conn, catalog| triggers::restore(
            conn,
            &tables_of(&catalog)
        ))
    }

    async fn unique_sets(&self) -> Result<UniqueSets, StoreError> {
        over!(self, |conn, catalog| async {
            let mut lifted = self.lifted.lock().await;
            constraints::restore(conn, &mut lifted).await?;
            constraints::unique_sets(conn, &tables_of(&catalog)).await
        })
    }

    async fn open_to_others(&self) -> Result<(), StoreError> {
        match &self.home {
            StoreLocation::Server(_) => over!(self, |conn, _catalog| closing::open(conn)),
            StoreLocation::File(_) => Ok(()),
        }
    }

    async fn close_to_others(&self) -> Result<(), StoreError> {
        over!(self, |conn, _catalog| closing::close(conn))
    }

    async fn waiting(&self) -> Result<Waiting, StoreError> {
        over!(self, |conn, _catalog| parked::waiting(conn))
    }

    async fn list_parked(
        &self,
        selector: &ParkedSelector,
        limit: usize,
    ) -> Result<Vec<ParkedRow>, StoreError> {
        over!(self, |conn, catalog| parked::list(
            conn,
            &tables_of(&catalog),
            selector,
            limit
        ))
    }

    async fn retry_parked(&self, selector: &ParkedSelector) -> Result<Vec<u64>, StoreError> {
        over!(self, |conn, _catalog| parked::retry(conn, selector))
    }

    async fn discard_parked(&self, selector: &ParkedSelector) -> Result<Vec<u64>, StoreError> {
        over!(self, |conn, _catalog| parked::discard(conn, selector))
    }
}
