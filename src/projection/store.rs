//! The store's port, on a database.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use skytrail_actors::record::apply as fold;
use skytrail_actors::store::{
    Asker, Away, HeadSource, NoHeads, QueryAnswer, RecordStore, RelatedPage, Snapshot, StoreError,
};
use skytrail_schema::event::{AssetState, Commit, EventKind, Service, Stream, UserState};
use skytrail_schema::id::{AssetName, RecordId, RecordKey, UserId};
use skytrail_schema::predicate::Relation;
use skytrail_schema::query::Query;
use skytrail_schema::record::Head;
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;
use sqlx::Connection as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, RwLock, RwLockReadGuard};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::apply::WriterState;
use super::captured;
use super::conn::{Conn, Watch};
use super::dialect::Extensions;
use super::history;
use super::index::{IndexLimits, Stats};
use super::layout::{Catalog, TypeLayout};
use super::people;
use super::postgres::{self, Link, Lost, ServerOptions, StoreOrigin, silent};
use super::query::{self, QueryError};
use super::read;
use super::sqlite::{self, OpenError, StoreOptions};

/// A record store in a database.
pub struct SqlStore {
    pub(super) home: Home,
    /// `None` when the store is closed.
    pub(super) writer: Mutex<Option<Writer>>,
    pub(super) catalog: ArcSwap<Catalog>,
    /// Held by whoever reads with the catalog in hand; taken alone while columns get other names
    /// or go, so that nobody reads a table as it was by a catalog as it is.
    columns: RwLock<()>,
    pub(super) stats: Stats,
    pub(super) index_limits: IndexLimits,
    /// Told when those who look after indexes and pages shall end.
    pub(super) ending: CancellationToken,
}

/// Where a store is.
pub(super) enum Home {
    /// In a file.
    File(Box<sqlite::File>),
    /// In a server.
    Server(Box<postgres::Server>),
}

/// The one connection that writes, and what belongs to it.
pub(super) struct Writer {
    conn: WriterConn,
    pub(super) state: WriterState,
}

enum WriterConn {
    File(SqliteConnection),
    Server(Result<Link, Lost>, Extensions),
}

impl Writer {
    /// Returns the connection, unless it was lost.
    pub(super) fn conn(&mut self) -> Result<(Conn<'_>, &mut WriterState), sqlx::Error> {
        let conn = match &mut self.conn {
            WriterConn::File(conn) => Conn::Sqlite(conn),
            WriterConn::Server(link, extensions) => {
                let link = link.as_mut().map_err(|_lost| sqlx::Error::PoolClosed)?;
                Conn::server(&mut link.conn, *extensions)
            }
        };
        Ok((conn, &mut self.state))
    }
}

/// A connection that reads, and the catalog that fits what it sees.
pub(super) struct Reading<'a> {
    conn: ReaderConn<'a>,
    pub(super) catalog: Arc<Catalog>,
    _columns: RwLockReadGuard<'a, ()>,
}

enum ReaderConn<'a> {
    File(sqlite::Reader<'a>),
    Server(PoolConnection<Postgres>, Extensions, Watch),
}

impl Drop for ReaderConn<'_> {
    fn drop(&mut self) {
        if let Self::Server(conn, _, watch) = self
            && watch.is_owed()
        {
            conn.close_on_drop();
        }
    }
}

impl Reading<'_> {
    pub(super) fn conn(&mut self) -> Result<Conn<'_>, sqlx::Error> {
        match &mut self.conn {
            ReaderConn::File(reader) => reader.conn().map(Conn::Sqlite),
            ReaderConn::Server(conn, extensions, watch) => {
                Ok(Conn::Postgres(conn, *extensions, Some(watch)))
            }
        }
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
        let (file, mut conn) = sqlite::File::open(path, options).await?;
        let stored = read::catalog(&mut Conn::Sqlite(&mut conn)).await?;
        let conn = WriterConn::File(conn);
        Ok(Self::new(
            Home::File(Box::new(file)),
            conn,
            stored,
            options.index_limits,
        ))
    }

    /// Opens the store in the server that `url` leads to, making it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_server(url: &str, options: &ServerOptions) -> Result<Self, OpenError> {
        let (server, mut link) = postgres::Server::open(url, options).await?;
        let extensions = server.extensions();
        let stored = read::catalog(&mut Conn::server(&mut link.conn, extensions)).await?;
        server.reach(stored.1);
        let conn = WriterConn::Server(Ok(link), extensions);
        Ok(Self::new(
            Home::Server(Box::new(server)),
            conn,
            stored,
            options.index_limits,
        ))
    }

    fn new(
        home: Home,
        conn: WriterConn,
        (catalog, checkpoint): (Catalog, u64),
        index_limits: IndexLimits,
    ) -> Self {
        let catalog = Arc::new(catalog);
        let state = WriterState::new(Arc::clone(&catalog), checkpoint);
        Self {
            home,
            writer: Mutex::new(Some(Writer { conn, state })),
            catalog: ArcSwap::new(catalog),
            columns: RwLock::new(()),
            stats: Stats::default(),
            index_limits,
            ending: CancellationToken::new(),
        }
    }

    /// Waits for a connection that reads.
    pub(super) async fn reader(&self) -> Result<Reading<'_>, StoreError> {
        let (columns, conn) = match &self.home {
            Home::File(file) => {
                file.condition.check()?;
                let columns = self.columns.read().await;
                let conn = file.readers.acquire().await;
                let conn = conn.map_err(|error| self.failed(error))?;
                (columns, ReaderConn::File(conn))
            }
            Home::Server(server) => {
                server.check()?;
                let columns = timeout(server.patience(), self.columns.read()).await;
                let columns = columns.map_err(|_late| {
                    StoreError::unavailable(Away::Slow, "a table's columns are being changed")
                })?;
                let conn = server.reader().await?;
                let watch = Watch::new(server.statement_limit());
                let conn = ReaderConn::Server(conn, server.extensions(), watch);
                (columns, conn)
            }
        };
        Ok(Reading {
            conn,
            catalog: self.catalog.load_full(),
            _columns: columns,
        })
    }

    /// Tells the port what failed.
    pub(super) fn failed(&self, error: sqlx::Error) -> StoreError {
        match &self.home {
            Home::File(file) => file.condition.failed(error),
            Home::Server(_) => postgres::failed(&error),
        }
    }

    /// Takes note of what a query met.
    fn note(&self, error: QueryError) -> StoreError {
        match error {
            QueryError::Refused(error) => StoreError::Refused(error),
            QueryError::Sql(error) => self.failed(error),
        }
    }

    /// Connects anew if the connection that writes was lost; the store may be elsewhere than where it
    /// seemed to be left.
    async fn reconnect(&self, writer: &mut Writer) -> Result<(), sqlx::Error> {
        let (Home::Server(server), WriterConn::Server(link, extensions)) =
            (&self.home, &mut writer.conn)
        else {
            return Ok(());
        };
        let Err(lost) = link else { return Ok(()) };
        let mut fresh = server.connect(Some(lost)).await?;
        let conn = &mut Conn::server(&mut fresh.conn, *extensions);
        let stored = timeout(server.statement_limit(), read::catalog(conn)).await;
        let stored = stored.unwrap_or_else(|_late| Err(silent(server.statement_limit())))?;
        let (catalog, checkpoint) = stored;
        tracing::info!(position = checkpoint, "connected to the database again");
        let catalog = Arc::new(catalog);
        writer.state = WriterState::new(Arc::clone(&catalog), checkpoint);
        self.catalog.store(catalog);
        *link = Ok(fresh);
        Ok(())
    }

    /// Gives up a connection that failed.
    async fn renew(&self, writer: &mut Writer, error: &sqlx::Error) {
        match (&self.home, &mut writer.conn) {
            (Home::File(file), WriterConn::File(conn)) => file.renew(conn).await,
            (_, WriterConn::Server(link, _)) => {
                if let Ok(Link { backend, .. }) = link {
                    *link = Err(Lost {
                        backend: backend.clone(),
                        is_silent: !matches!(error, sqlx::Error::Database(_)),
                    });
                }
            }
            _ => {}
        }
    }

    /// Applies commits over the connection that writes, as long as somebody is at its other end.
    async fn apply_over(
        &self,
        writer: &mut Writer,
        commits: &[Arc<Commit>],
    ) -> Result<(), sqlx::Error> {
        let backend = match &writer.conn {
            WriterConn::Server(Ok(link), _) => Some(link.backend.clone()),
            _ => None,
        };
        let (mut conn, state) = writer.conn()?;
        let work = async {
            if let Home::Server(server) = &self.home {
                server.make_way(&mut conn, commits).await;
            }
            state.apply(&mut conn, commits).await
        };
        match (&self.home, &backend) {
            (Home::Server(server), Some(backend)) => {
                tokio::select! {
                    biased;
                    applied = work => applied,
                    error = server.gone(backend) => Err(error),
                }
            }
            _ => work.await,
        }
    }

    /// Returns what the store knows of the log that it was filled from.
    ///
    /// # Errors
    /// The database failed.
    pub async fn origin(&self) -> Result<StoreOrigin, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        if conn.dialect().is_sqlite() {
            return Ok(StoreOrigin::default());
        }
        let origin = postgres::origin_of(&mut conn).await;
        origin.map_err(|error| self.failed(error))
    }

    /// Stops looking after indexes and pages.
    pub fn stop_keeping(&self) {
        self.ending.cancel();
    }

    /// Returns the database's plan of a query for everyone; of what it looks for in the past, as of a
    /// position.
    #[cfg(test)]
    pub(crate) async fn explain(
        &self,
        query: &Query,
        position: Option<u64>,
    ) -> Result<super::index::Access, StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        query::explain(&mut conn, &catalog, query, position)
            .await
            .map_err(|error| self.note(error))
    }
}

/// Returns the writer, unless the store is closed.
pub(super) fn open_writer_of(writer: &mut Option<Writer>) -> Result<&mut Writer, sqlx::Error> {
    writer.as_mut().ok_or(sqlx::Error::PoolClosed)
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
        let found = read::list_by_fields(&mut conn, table, fields, (None, 1)).await;
        let found = found.map_err(|error| self.failed(error))?;
        Ok(found.into_iter().next())
    }

    async fn list_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
        besides: &RecordKey,
    ) -> Result<Vec<RecordKey>, StoreError> {
        const MANY: u64 = 16;
        let mut reader = self.reader().await?;
        let layout = reader.layout(definition);
        let Some(table) = layout.as_ref().and_then(|layout| layout.table.as_ref()) else {
            return Ok(Vec::new());
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let found = read::list_by_fields(&mut conn, table, fields, (Some(besides), MANY)).await;
        found.map_err(|error| self.failed(error))
    }

    async fn find_captured(
        &self,
        definition: &TypeDefinition,
        keys: &[RecordKey],
    ) -> Result<HashSet<RecordKey>, StoreError> {
        if let Home::File(_) = self.home {
            return Ok(HashSet::new());
        }
        let mut reader = self.reader().await?;
        let layout = reader.layout(definition);
        let Some(table) = layout.as_ref().and_then(|layout| layout.table.as_ref()) else {
            return Ok(HashSet::new());
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let found = captured::find(&mut conn, &table.name, keys).await;
        found.map_err(|error| self.failed(error))
    }

    async fn list_captured(
        &self,
        definition: &TypeDefinition,
    ) -> Result<Vec<RecordKey>, StoreError> {
        if let Home::File(_) = self.home {
            return Ok(Vec::new());
        }
        let mut reader = self.reader().await?;
        let layout = reader.layout(definition);
        let Some(table) = layout.as_ref().and_then(|layout| layout.table.as_ref()) else {
            return Ok(Vec::new());
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let listed = captured::list(&mut conn, &table.name).await;
        listed.map_err(|error| self.failed(error))
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
        answer.map_err(|error| self.note(error))
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
        let answer = answer.map_err(|error| self.note(error))?;
        tx.rollback().await.map_err(|error| self.failed(error))?;
        Ok((position, answer))
    }

    async fn query_as_of(
        &self,
        query: &Query,
        asker: &Asker<'_>,
        heads: &dyn HeadSource,
        moment: (u64, &TypeDefinition),
    ) -> Result<Option<QueryAnswer>, StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let asked = (query, asker);
        let answer =
            query::query_as_of(&mut conn, (&catalog, &self.stats, heads), asked, moment).await;
        answer.map_err(|error| self.note(error))
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
        let writer = open_writer_of(&mut writer).map_err(|error| self.failed(error))?;
        let connected = self.reconnect(writer).await;
        connected.map_err(|error| self.failed(error))?;
        if let Home::Server(server) = &self.home {
            server.check_gap(writer.state.checkpoint, commits)?;
        }
        let mut events = commits.iter().flat_map(|commit| &commit.events);
        let alone = match events.any(|event| fold::reshapes(&event.body)) {
            true => Some(self.columns.write().await),
            false => None,
        };
        if let Err(error) = self.apply_over(writer, commits).await {
            self.renew(writer, &error).await;
            return Err(self.failed(error));
        }
        if let Home::Server(server) = &self.home {
            server.reach(writer.state.checkpoint);
        }
        if !Arc::ptr_eq(&writer.state.catalog, &self.catalog.load()) {
            self.catalog.store(Arc::clone(&writer.state.catalog));
        }
        if alone.is_some() {
            self.stats.clear();
        }
        drop(alone);
        if let (Home::File(file), WriterConn::File(conn)) = (&self.home, &mut writer.conn) {
            file.tidy(conn).await;
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.stop_keeping();
        match &self.home {
            Home::File(file) => file.readers.close().await,
            Home::Server(server) => server.close().await,
        }
        let Some(writer) = self.writer.lock().await.take() else {
            return Ok(());
        };
        let closed = match (&self.home, writer.conn) {
            (Home::File(file), WriterConn::File(conn)) => file.close(conn).await,
            (Home::Server(server), WriterConn::Server(Ok(link), _)) => {
                let closed = timeout(server.patience(), link.conn.close()).await;
                closed.unwrap_or_else(|_late| Err(silent(server.patience())))
            }
            _ => Ok(()),
        };
        closed.map_err(|error| self.failed(error))
    }
}
