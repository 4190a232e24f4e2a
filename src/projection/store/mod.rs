//! A record store in a database: where it is, the one connection that writes, and those that read.
//! What it does for its callers is in `port`.

mod port;
mod turns;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use skytrail_actors::store::{StoreError, UnavailableReason};
use skytrail_schema::event::Commit;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::TypeDefinition;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, RwLock, RwLockReadGuard};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::turns::QueryFigures;
use self::turns::{Asked, Turn, Turns};
use super::apply::WriterState;
use super::captured::Retries;
use super::conn::{Conn, Watch};
use super::dialect::Extensions;
use super::erase::Forgetting;
use super::index::{IndexLimits, Stats};
use super::layout::{Catalog, TypeLayout};
use super::postgres::{self, Backend, Link, LostConnection, ServerOptions, StoreOrigin, silent};
use super::query::QueryError;
use super::read;
use super::sql::Sql;
use super::sqlite::{self, OpenError, StoreOptions};

/// How long a query of a file waits for other queries.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// A record store in a database.
pub struct SqlStore {
    pub(super) home: StoreLocation,
    /// `None` when the store is closed.
    pub(super) writer: Mutex<Option<Writer>>,
    pub(super) catalog: ArcSwap<Catalog>,
    /// Locked for reading by everyone that reads with a catalog. Locked for writing while columns
    /// are renamed or dropped, so that nobody reads an old table by a new catalog.
    columns: RwLock<()>,
    /// How many events, or parts of them, could not be applied.
    pub(super) num_faults: AtomicU64,
    pub(super) stats: Stats,
    pub(super) index_limits: IndexLimits,
    /// When indexes were first looked after in this process.
    pub(super) tended_since: OnceLock<Timestamp>,
    /// How far the present erasure is.
    pub(super) forgetting: Mutex<Forgetting>,
    /// When constraints of other programs that were lifted are tried again.
    pub(super) lifted: Mutex<Retries>,
    /// The maximum size of an answer's records in bytes.
    pub(super) max_page_bytes: usize,
    /// The turns of queries. They leave one connection to those who look something up by key, such
    /// as a user who logs in.
    turns: Turns,
    /// Cancelled when the upkeep of indexes and pages must end.
    pub(super) ending: CancellationToken,
}

/// Where a store is.
pub(super) enum StoreLocation {
    /// In a file.
    File(Box<sqlite::File>),
    /// In a server.
    Server(Box<postgres::Server>),
}

/// The one connection that writes, with its state.
pub(super) struct Writer {
    conn: WriterConn,
    pub(super) state: WriterState,
}

enum WriterConn {
    File(SqliteConnection),
    Server(Result<Link, LostConnection>, Extensions),
}

impl Writer {
    /// Returns the process that serves the connection, if it is a server's and not lost.
    pub(super) fn backend(&self) -> Option<Backend> {
        match &self.conn {
            WriterConn::Server(Ok(link), _) => Some(link.backend.clone()),
            _ => None,
        }
    }

    /// Returns the connection, unless it is lost.
    pub(super) fn conn(&mut self) -> Result<(Conn<'_>, &mut WriterState), sqlx::Error> {
        let conn = match &mut self.conn {
            WriterConn::File(conn) => Conn::file(conn),
            WriterConn::Server(link, extensions) => {
                let link = link.as_mut().map_err(|_lost| sqlx::Error::PoolClosed)?;
                Conn::server(&mut link.conn, *extensions)
            }
        };
        Ok((conn, &mut self.state))
    }

    /// Sends the end of a transaction that was undone: until then the server keeps its locks. Returns
    /// whether the connection can be used further.
    pub(super) async fn end_undone(&mut self) -> bool {
        let Ok((mut conn, _)) = self.conn() else {
            return false;
        };
        let ended = Sql::new("SELECT 1").fetch_optional(&mut conn).await;
        ended.is_ok()
    }
}

/// A connection that reads, and the catalog that fits what it sees.
pub(super) struct Reading<'a> {
    conn: ReaderConn<'a>,
    pub(super) catalog: Arc<Catalog>,
    _columns: RwLockReadGuard<'a, ()>,
}

enum ReaderConn<'a> {
    File(sqlite::Reader<'a>, Watch),
    Server(PoolConnection<Postgres>, Extensions, Watch),
}

impl Drop for ReaderConn<'_> {
    fn drop(&mut self) {
        match self {
            Self::File(reader, watch) if watch.is_awaiting_answer() => reader.break_off(),
            Self::Server(conn, _, watch) if watch.is_awaiting_answer() => conn.close_on_drop(),
            _ => {}
        }
    }
}

impl Reading<'_> {
    pub(super) fn conn(&mut self) -> Result<Conn<'_>, sqlx::Error> {
        match &mut self.conn {
            ReaderConn::File(reader, watch) => Ok(Conn::Sqlite(reader.conn()?, Some(watch))),
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
    /// Opens the file at `path`, or creates it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_file(path: &Path, options: &StoreOptions) -> Result<Self, OpenError> {
        let (file, mut conn) = sqlite::File::open(path, options).await?;
        let state = WriterState::load(&mut Conn::file(&mut conn)).await?;
        let num_faults = read::count_faults(&mut Conn::file(&mut conn)).await?;
        let conn = WriterConn::File(conn);
        Ok(Self::new(
            StoreLocation::File(Box::new(file)),
            (conn, state),
            num_faults,
            (options.index_limits, options.num_readers),
        ))
    }

    /// Opens the store in the server that `url` leads to, or creates it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_server(url: &str, options: &ServerOptions) -> Result<Self, OpenError> {
        let (server, mut link) = postgres::Server::open(url, options).await?;
        let extensions = server.extensions();
        let conn = &mut Conn::server(&mut link.conn, extensions);
        let mut state = WriterState::load(conn).await?;
        let num_faults = read::count_faults(conn).await?;
        server.know(state.checkpoint, postgres::origin_of(conn).await?);
        state.is_lazy = server.is_lazy();
        let conn = WriterConn::Server(Ok(link), extensions);
        Ok(Self::new(
            StoreLocation::Server(Box::new(server)),
            (conn, state),
            num_faults,
            (options.index_limits, options.max_readers as usize),
        ))
    }

    fn new(
        home: StoreLocation,
        (conn, state): (WriterConn, WriterState),
        num_faults: u64,
        (index_limits, num_readers): (IndexLimits, usize),
    ) -> Self {
        let max_wait = match &home {
            StoreLocation::File(_) => MAX_WAIT,
            StoreLocation::Server(server) => server.max_wait(),
        };
        let catalog = Arc::clone(&state.catalog);
        Self {
            home,
            writer: Mutex::new(Some(Writer { conn, state })),
            catalog: ArcSwap::new(catalog),
            columns: RwLock::new(()),
            num_faults: AtomicU64::new(num_faults),
            stats: Stats::default(),
            index_limits,
            tended_since: OnceLock::new(),
            forgetting: Mutex::default(),
            lifted: Mutex::default(),
            max_page_bytes: usize::MAX,
            turns: Turns::new(num_readers.saturating_sub(1), max_wait),
            ending: CancellationToken::new(),
        }
    }

    /// Limits the records of an answer to this many bytes.
    #[must_use]
    pub fn answering_at_most(self, max_page_bytes: usize) -> Self {
        Self {
            max_page_bytes,
            ..self
        }
    }

    /// Returns why reads fail at present, if the database is a server.
    pub fn read_trouble(&self) -> Option<String> {
        match &self.home {
            StoreLocation::File(_) => None,
            StoreLocation::Server(server) => server.read_trouble(),
        }
    }

    /// Waits for the turn of a query, which was broken off before or not.
    async fn turn(&self, asked: &Asked, was_broken_off: bool) -> Result<Turn<'_>, StoreError> {
        let turn = self.turns.take(asked, was_broken_off).await;
        turn.ok_or_else(|| {
            let why = match &self.home {
                StoreLocation::File(_) => UnavailableReason::Busy,
                StoreLocation::Server(_) => UnavailableReason::Slow,
            };
            StoreError::unavailable(why, "other queries use all connections")
        })
    }

    /// Returns how queries wait for each other at present.
    pub fn query_figures(&self) -> QueryFigures {
        self.turns.figures()
    }

    /// Occupies a slot of queries.
    #[cfg(test)]
    pub(super) async fn occupy(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.turns.take_slot().await.unwrap()
    }

    /// Waits for a connection that reads.
    pub(super) async fn reader(&self) -> Result<Reading<'_>, StoreError> {
        let (columns, conn) = match &self.home {
            StoreLocation::File(file) => {
                file.condition.check()?;
                let columns = self.columns.read().await;
                let conn = file.readers.acquire().await;
                let conn = conn.map_err(|error| self.failed(error))?;
                (columns, ReaderConn::File(conn, Watch::default()))
            }
            StoreLocation::Server(server) => {
                server.check()?;
                let columns = timeout(server.max_wait(), self.columns.read()).await;
                let columns = columns.map_err(|_late| {
                    StoreError::unavailable(
                        UnavailableReason::Slow,
                        "a table's columns are being changed",
                    )
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

    /// Converts an error for the port.
    pub(super) fn failed(&self, error: sqlx::Error) -> StoreError {
        match &self.home {
            StoreLocation::File(file) => file.condition.failed(error),
            StoreLocation::Server(server) => server.failed(&error),
        }
    }

    /// Converts an error of a query for the port.
    fn note(&self, error: QueryError) -> StoreError {
        match error {
            QueryError::Refused(error) => StoreError::Refused(error),
            QueryError::Sql(error) => self.failed(error),
        }
    }

    /// Reconnects if the connection that writes is lost. The store's position may then differ from
    /// the one that was last known.
    pub(super) async fn reconnect(&self, writer: &mut Writer) -> Result<(), sqlx::Error> {
        let (StoreLocation::Server(server), WriterConn::Server(link, extensions)) =
            (&self.home, &mut writer.conn)
        else {
            return Ok(());
        };
        let Err(lost) = link else { return Ok(()) };
        let mut fresh = server.connect(Some(lost)).await?;
        let conn = &mut Conn::server(&mut fresh.conn, *extensions);
        let read = async {
            Ok((
                WriterState::load(conn).await?,
                read::count_faults(conn).await?,
            ))
        };
        let stored = timeout(server.statement_limit(), read).await;
        let stored = stored.unwrap_or_else(|_late| Err(silent(server.statement_limit())))?;
        let (state, num_faults) = stored;
        self.num_faults.store(num_faults, Ordering::Relaxed);
        tracing::info!(
            position = state.checkpoint,
            "connected to the database again"
        );
        self.catalog.store(Arc::clone(&state.catalog));
        // The wait for a table continues from where it was.
        let table_wait = writer.state.table_wait;
        writer.state = state;
        writer.state.table_wait = table_wait;
        writer.state.is_lazy = server.is_lazy();
        *link = Ok(fresh);
        Ok(())
    }

    /// Gives up a connection that failed.
    pub(super) async fn renew(&self, writer: &mut Writer, error: &sqlx::Error) {
        match (&self.home, &mut writer.conn) {
            (StoreLocation::File(file), WriterConn::File(conn)) => file.renew(conn).await,
            (StoreLocation::Server(server), WriterConn::Server(link, _)) => {
                if let Ok(current) = link {
                    if postgres::is_read_only(error) {
                        server.pass_over(current);
                    }
                    *link = Err(LostConnection {
                        backend: current.backend.clone(),
                        is_silent: postgres::is_silent(error),
                    });
                }
            }
            _ => {}
        }
    }

    /// Applies commits on the connection that writes.
    async fn apply_over(
        &self,
        writer: &mut Writer,
        commits: &[Arc<Commit>],
    ) -> Result<(), sqlx::Error> {
        let backend = writer.backend();
        let (mut conn, state) = writer.conn()?;
        let work = async {
            if let StoreLocation::Server(server) = &self.home {
                server.make_way(&mut conn, commits).await;
            }
            state.apply(&mut conn, commits).await
        };
        let work = Box::pin(self.served_by(backend.as_ref(), work));
        match (&self.home, &backend) {
            (StoreLocation::Server(server), Some(backend)) => {
                server.naming_holders(backend, work).await
            }
            _ => work.await,
        }
    }

    /// Works on the connection that writes, as long as the other end is alive.
    pub(super) async fn served_by<T>(
        &self,
        backend: Option<&Backend>,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match (&self.home, backend) {
            (StoreLocation::Server(server), Some(backend)) => {
                tokio::select! {
                    biased;
                    done = work => done,
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

    /// Ends the upkeep of indexes and pages.
    pub fn stop_keeping(&self) {
        self.ending.cancel();
    }

    /// Returns the database's plan of a query as anybody; with a position, of its search in the
    /// past as of that position.
    #[cfg(test)]
    pub(crate) async fn explain(
        &self,
        query: &skytrail_schema::query::Query,
        position: Option<u64>,
    ) -> Result<super::index::Access, StoreError> {
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        super::query::explain(&mut conn, &catalog, query, position)
            .await
            .map_err(|error| self.note(error))
    }
}

/// Returns the writer, unless the store is closed.
pub(super) fn open_writer_of(writer: &mut Option<Writer>) -> Result<&mut Writer, sqlx::Error> {
    writer.as_mut().ok_or(sqlx::Error::PoolClosed)
}
