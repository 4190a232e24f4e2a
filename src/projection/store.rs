//! The store's port, on SQLite.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use skytrail_actors::record::apply as fold;
use skytrail_actors::store::{
    Asker, HeadSource, NoHeads, QueryAnswer, RecordStore, RelatedPage, Snapshot, StoreError,
};
use skytrail_schema::event::{AssetState, Commit, EventKind, Service, Stream, UserState};
use skytrail_schema::id::{AssetName, RecordId, RecordKey, UserId};
use skytrail_schema::predicate::Relation;
use skytrail_schema::query::Query;
use skytrail_schema::record::Head;
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;

use super::apply::WriterState;
use super::conn::Conn;
use super::history;
use super::index::Stats;
use super::layout::{Catalog, TypeLayout};
use super::people;
use super::query;
use super::read;
use super::sqlite::readers::{Reader, Readers};
use super::sqlite::{
    Condition, MERGE_PAGES, OpenError, StoreOptions, failed, open_writer, reader_options, sums,
};

/// A record store in one SQLite file.
pub struct SqlStore {
    pub(super) writer: Mutex<Option<Writer>>,
    pub(super) readers: Readers,
    catalog: ArcSwap<Catalog>,
    /// Held by whoever reads with the catalog in hand; taken alone while columns get other names
    /// or go, so that nobody reads a table as it was by a catalog as it is.
    columns: RwLock<()>,
    pub(super) stats: Stats,
    pub(super) options: StoreOptions,
    pub(super) condition: Condition,
    pub(super) path: PathBuf,
    /// Told when those who look after indexes and pages shall end.
    pub(super) ending: CancellationToken,
}

/// The one connection that writes, and what belongs to it.
pub(super) struct Writer {
    pub(super) conn: SqliteConnection,
    pub(super) state: WriterState,
}

/// A connection that reads, and the catalog that fits what it sees.
pub(super) struct Reading<'a> {
    reader: Reader<'a>,
    pub(super) catalog: Arc<Catalog>,
    _columns: RwLockReadGuard<'a, ()>,
}

impl Reading<'_> {
    pub(super) fn conn(&mut self) -> Result<Conn<'_>, sqlx::Error> {
        self.reader.conn().map(Conn::Sqlite)
    }

    fn layout(&self, definition: &TypeDefinition) -> Option<Arc<TypeLayout>> {
        self.catalog.get(&definition.name).cloned()
    }
}

impl SqlStore {
    /// Opens the file at `path`, making it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_file(path: &Path, options: &StoreOptions) -> Result<Self, OpenError> {
        let mut conn = open_writer(path, options).await?;
        let (catalog, checkpoint) = read::catalog(&mut Conn::Sqlite(&mut conn)).await?;
        let catalog = Arc::new(catalog);
        Ok(Self {
            writer: Mutex::new(Some(Writer {
                conn,
                state: WriterState::new(Arc::clone(&catalog), checkpoint),
            })),
            readers: Readers::new(reader_options(path, options), options.num_readers),
            catalog: ArcSwap::new(catalog),
            columns: RwLock::new(()),
            stats: Stats::default(),
            options: *options,
            condition: Condition::new(path),
            path: path.to_owned(),
            ending: CancellationToken::new(),
        })
    }

    /// Waits for a connection that reads.
    pub(super) async fn reader(&self) -> Result<Reading<'_>, StoreError> {
        self.condition.check()?;
        let columns = self.columns.read().await;
        let reader = self.readers.acquire().await;
        Ok(Reading {
            reader: reader.map_err(|error| self.failed(error))?,
            catalog: self.catalog.load_full(),
            _columns: columns,
        })
    }

    pub(super) fn failed(&self, error: sqlx::Error) -> StoreError {
        self.condition.failed(error)
    }

    /// Stops looking after indexes and pages.
    pub fn stop_keeping(&self) {
        self.ending.cancel();
    }

    /// Returns the database's plan of a query for everyone, one step per line.
    #[cfg(test)]
    pub(crate) async fn explain(&self, query: &Query) -> Result<String, StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        query::explain(&mut conn, &catalog, query).await
    }
}

/// Returns the writer, unless the store is closed.
pub(super) fn open_writer_of(writer: &mut Option<Writer>) -> Result<&mut Writer, StoreError> {
    writer
        .as_mut()
        .ok_or(sqlx::Error::PoolClosed)
        .map_err(failed)
}

#[async_trait]
impl RecordStore for SqlStore {
    async fn load_snapshot(&self) -> Result<Snapshot, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::snapshot(&mut conn)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn load_heads(
        &self,
        definition: &TypeDefinition,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<Head>>, StoreError> {
        let mut reader = self.reader().await?;
        let Some(layout) = reader.layout(definition) else {
            return Ok(vec![None; keys.len()]);
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::heads(&mut conn, &layout, keys)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn find_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
    ) -> Result<Option<RecordKey>, StoreError> {
        let mut reader = self.reader().await?;
        let layout = reader.layout(definition);
        let Some(table) = layout.as_ref().and_then(|layout| layout.table.as_ref()) else {
            return Ok(None);
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::find_by_fields(&mut conn, table, fields)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn find_referrer(
        &self,
        target: &RecordId,
        besides: &[RecordId],
        definitions: &[Arc<TypeDefinition>],
    ) -> Result<Option<RecordId>, StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        for definition in definitions {
            let layout = catalog.get(&definition.name);
            let Some(table) = layout.and_then(|layout| layout.table.as_ref()) else {
                continue;
            };
            let besides = besides
                .iter()
                .filter(|id| id.record_type == definition.name)
                .map(|id| id.key.as_str());
            let found = read::find_referrer(&mut conn, table, target, &besides.collect::<Vec<_>>())
                .await
                .map_err(|error| self.failed(error))?;
            if let Some(key) = found {
                return Ok(Some(RecordId::new(definition.name.clone(), key)));
            }
        }
        Ok(None)
    }

    async fn list_keys(
        &self,
        definition: &TypeDefinition,
        after: Option<&RecordKey>,
        limit: u32,
    ) -> Result<Vec<RecordKey>, StoreError> {
        let mut reader = self.reader().await?;
        let layout = reader.layout(definition);
        let Some(table) = layout.as_ref().and_then(|layout| layout.table.as_ref()) else {
            return Ok(Vec::new());
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::keys(&mut conn, table, after, limit)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn count_records(&self, definition: &TypeDefinition) -> Result<u64, StoreError> {
        let mut reader = self.reader().await?;
        let layout = reader.layout(definition);
        let Some(table) = layout.as_ref().and_then(|layout| layout.table.as_ref()) else {
            return Ok(0);
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::count(&mut conn, table)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn query(
        &self,
        query: &Query,
        asker: &Asker<'_>,
        heads: &dyn HeadSource,
    ) -> Result<QueryAnswer, StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let answer = query::query(&mut conn, (&catalog, &self.stats), (query, asker), heads).await;
        answer.inspect_err(|error| self.condition.note(error))
    }

    async fn query_at(
        &self,
        query: &Query,
        asker: &Asker<'_>,
    ) -> Result<(u64, QueryAnswer), StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let mut tx = conn.begin().await.map_err(|error| self.failed(error))?;
        // The first read: from here on the transaction sees this moment.
        let position = read::checkpoint(&mut tx.conn()).await;
        let position = position.map_err(|error| self.failed(error))?;
        let asked = (query, asker);
        let answer = query::query(&mut tx.conn(), (&catalog, &self.stats), asked, &NoHeads).await;
        let answer = answer.inspect_err(|error| self.condition.note(error))?;
        tx.rollback().await.map_err(|error| self.failed(error))?;
        Ok((position, answer))
    }

    async fn query_as_of(
        &self,
        query: &Query,
        asker: &Asker<'_>,
        moment: (u64, &TypeDefinition),
    ) -> Result<Option<QueryAnswer>, StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let answer = query::query_as_of(&mut conn, &catalog, (query, asker), moment).await;
        answer.inspect_err(|error| self.condition.note(error))
    }

    async fn find_full_state(
        &self,
        stream: &Stream,
        until: u64,
    ) -> Result<Option<u64>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        history::find_full_state(&mut conn, stream, until)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn list_positions(
        &self,
        stream: &Stream,
        from: u64,
        until: u64,
    ) -> Result<Vec<u64>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        history::list_positions(&mut conn, stream, from, until)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn list_positions_before(
        &self,
        stream: &Stream,
        until: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        history::list_positions_before(&mut conn, stream, until, limit)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn list_positions_of_kind(
        &self,
        kind: EventKind,
        from: u64,
        until: u64,
    ) -> Result<Vec<u64>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        history::list_positions_of_kind(&mut conn, kind, from, until)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn scan(
        &self,
        definition: &TypeDefinition,
        after: i64,
        limit: usize,
    ) -> Result<(Vec<Head>, i64), StoreError> {
        let mut reader = self.reader().await?;
        let Some(layout) = reader.layout(definition) else {
            return Ok((Vec::new(), after));
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::scan(&mut conn, &layout, after, limit)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn load_users(
        &self,
        ids: &[UserId],
    ) -> Result<Vec<Option<(u32, UserState)>>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        people::users(&mut conn, ids)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn find_linked(
        &self,
        service: &Service,
        principal: &str,
    ) -> Result<Option<UserId>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        people::linked(&mut conn, service, principal)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn load_assets(
        &self,
        names: &[AssetName],
    ) -> Result<Vec<Option<(u32, AssetState)>>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::assets(&mut conn, names)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn load_relations(
        &self,
        relation: Relation,
        from: &UserId,
        others: &[UserId],
    ) -> Result<(u32, BTreeSet<UserId>), StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        people::relations(&mut conn, relation, from, others)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn list_related(&self, wanted: &RelatedPage) -> Result<(Vec<UserId>, u64), StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        people::related_page(&mut conn, wanted)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn apply(&self, commits: &[Arc<Commit>]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let writer = writer
            .as_mut()
            .ok_or(sqlx::Error::PoolClosed)
            .map_err(|error| self.failed(error))?;
        let Writer { conn, state } = writer;
        let mut events = commits.iter().flat_map(|commit| &commit.events);
        let alone = match events.any(|event| fold::reshapes(&event.body)) {
            true => Some(self.columns.write().await),
            false => None,
        };
        if let Err(error) = state.apply(&mut Conn::Sqlite(conn), commits).await {
            self.renew_writer(conn).await;
            return Err(self.failed(error));
        }
        if !Arc::ptr_eq(&state.catalog, &self.catalog.load()) {
            self.catalog.store(Arc::clone(&state.catalog));
        }
        if alone.is_some() {
            self.stats.clear();
        }
        drop(alone);
        if let Err(error) = sums::merge_beyond(conn, &self.path, MERGE_PAGES).await {
            tracing::warn!(%error, "the record store's write-ahead file could not be merged");
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.stop_keeping();
        self.readers.close().await;
        let Some(writer) = self.writer.lock().await.take() else {
            return Ok(());
        };
        let mut conn = writer.conn;
        sums::merge(&mut conn, &self.path)
            .await
            .map_err(|error| self.failed(error))?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut conn)
            .await
            .map_err(|error| self.failed(error))?;
        conn.close().await.map_err(|error| self.failed(error))
    }
}
