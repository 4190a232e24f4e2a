//! The store in a server: PostgreSQL 15 or newer.
//!
//! - `way`: which host is used, and whether a connection is of use. `readers`: those that read.
//! - `values`: how values are sent and come back. `escape`: texts that it does not take.
//! - `errors`: what a failure means.
//! - `rebuild`: stores beside the one in use.
//! - `scrub`: what is to be gone is gone.
//! - `plan`, `indexes`: how queries are answered, and the indexes that they need.
//!
//! Here: the schema that everything is in. It has v1's layout, which plugins read:
//! a table per record type, with v1's columns first. What v1 has not got comes behind them, or has a
//! name that begins with `_` and is not one of v1's.
//!
//! A store belongs to one log, whose first commit it remembers. One of another log, or of v1 itself,
//! is not touched.

mod errors;
mod escape;
mod indexes;
mod plan;
mod readers;
mod rebuild;
mod scrub;
mod values;
mod way;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::store::StoreError;
use skytrail_schema::event::Commit;
use skytrail_schema::time::Timestamp;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use tokio::sync::Mutex;

use self::errors::io_error;
pub(crate) use self::errors::is_passing;
pub(super) use self::errors::{failed, is_about_data};
pub(super) use self::indexes::{drop_narrow, strays, too_narrow};
pub(super) use self::plan::access;
use self::readers::Readers;
pub use self::rebuild::{beside, digest_server, drop_store, switch_schemas};
pub(super) use self::scrub::scrub;
pub(super) use self::values::{arguments, int, point, real, text};
pub(super) use self::way::{Backend, Link, silent};
use self::way::{Condition, Hosts};
use super::OpenError;
use super::conn::Conn;
use super::dialect::Extensions;
use super::index::IndexLimits;
use super::names::{Name, fnv};
use super::sql::{Arg, Sql};
use super::{ddl, read};

/// How a store uses its server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The app's name: the schema is `app_` and that.
    pub app: String,
    /// Connections that read; one more writes.
    pub max_readers: u32,
    /// How long to wait for a connection.
    pub patience: Duration,
    /// Whether what is applied waits for the database's disk. If not, a crash of the database takes the
    /// last moment back. That is noticed like a failover to a standby that was behind, and applied again.
    pub synchronous_commit: bool,
    /// How long a statement may take; writing ones may take as long as they need.
    pub statement_timeout: Duration,
    /// How many indexes the store makes of its own accord.
    pub index_limits: IndexLimits,
}

/// How long commands beside a server wait for a connection.
const BESIDE_PATIENCE: Duration = Duration::from_secs(30);

/// The format that this program makes and knows.
const FORMAT: i64 = 4;

/// What leads to each format from the one before.
const SCRIPTS: [&str; 4] = [
    include_str!("migrations/0001_fixed.sql"),
    include_str!("migrations/0002_captured.sql"),
    include_str!("migrations/0003_parked.sql"),
    include_str!("migrations/0004_marks.sql"),
];

/// A store's server.
pub(super) struct Server {
    hosts: Hosts,
    readers: Readers,
    patience: Duration,
    extensions: Extensions,
    /// Hears of what others write.
    listener: Mutex<Option<PgListener>>,
    channel: String,
    condition: Arc<Condition>,
    is_lazy: bool,
    /// Which server it was that served last: the place of its host, and when it was started.
    served_by: parking_lot::Mutex<(usize, String)>,
    /// Held by who looks where the server is.
    looking: Mutex<()>,
    building: indexes::Building,
}

impl Server {
    /// Connects, and makes the schema if there is none; returns the connection that writes, too.
    pub(super) async fn open(url: &str, wanted: &ServerOptions) -> Result<(Self, Link), OpenError> {
        let schema = schema_of(&wanted.app);
        let hosts = Hosts::new(options_of(url, &schema)?, wanted.patience);
        let condition = Arc::new(Condition::new());
        let mut link = hosts.connect(&condition).await?;
        let extensions = prepare(&mut link.conn, &schema).await?;
        let limits = (
            wanted.max_readers,
            wanted.patience,
            wanted.statement_timeout,
        );
        let readers = Readers::new(hosts.in_use()?, Arc::clone(&condition), limits);
        let server = Self {
            hosts,
            readers,
            patience: wanted.patience,
            extensions,
            listener: Mutex::new(None),
            channel: format!("skytrail.{}", schema.as_str()),
            condition,
            is_lazy: !wanted.synchronous_commit,
            served_by: parking_lot::Mutex::new((link.host, link.backend.server_start.clone())),
            looking: Mutex::new(()),
            building: indexes::Building::default(),
        };
        Ok((server, link))
    }

    /// Returns which extensions the store uses.
    pub(super) fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// Whether what is applied does not wait for the database's disk.
    pub(super) fn is_lazy(&self) -> bool {
        self.is_lazy
    }

    /// Returns the longest that a statement which reads may take, with the way there and back.
    pub(super) fn statement_limit(&self) -> Duration {
        self.readers.statement_limit()
    }

    /// Returns how long to wait for what is quick.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Makes sure that the commits follow what is applied. A database that a failover put back has lost
    /// some that others were told are there: from then on nothing is read from it.
    pub(super) fn check_gap(
        &self,
        checkpoint: u64,
        commits: &[Arc<Commit>],
    ) -> Result<(), StoreError> {
        let first = commits.first().and_then(|commit| commit.events.first());
        if first.is_some_and(|event| event.position > checkpoint + 1) {
            self.condition.fall_behind(checkpoint);
        }
        self.check()
    }

    /// Takes note that everything up to a position is in the database.
    pub(super) fn reach(&self, position: u64) {
        self.condition.reach(position);
    }

    /// Refuses when the database is known to have lost something.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.condition.check()
    }

    /// Waits until the database is known to have lost something.
    pub(super) async fn behind(&self) {
        self.condition.behind().await;
    }

    /// Waits until a connection that writes is known to be of no use any more.
    pub(super) async fn gone(&self, backend: &Backend) -> sqlx::Error {
        self.hosts.gone(backend).await;
        io_error("the connection is dead")
    }

    /// Opens a connection that writes, in the place of one that was lost. Those that read are not used
    /// again if another server serves now, or if nobody knows what became of the lost one.
    pub(super) async fn connect(&self, lost: Option<&Lost>) -> Result<Link, sqlx::Error> {
        let mut link = self.hosts.connect(&self.condition).await?;
        if let Some(lost) = lost {
            let ended =
                tokio::time::timeout(self.patience, way::end(&mut link.conn, &lost.backend));
            ended
                .await
                .unwrap_or_else(|_late| Err(silent(self.patience)))?;
        }
        let server = (link.host, link.backend.server_start.clone());
        let is_another = *self.served_by.lock() != server;
        if is_another || lost.is_some_and(|lost| lost.is_silent) {
            *self.served_by.lock() = server;
            self.readers.renew(self.hosts.in_use()?);
        }
        Ok(link)
    }

    /// Waits until somebody else writes something; returns when that cannot be told any more.
    pub(super) async fn announced(&self) {
        let mut listener = self.listener.lock().await;
        if listener.is_none() {
            *listener = self.listen().await.ok();
        }
        let told = match &mut *listener {
            Some(listener) => listener.recv().await.map(drop),
            None => return std::future::pending().await,
        };
        if told.is_err() {
            *listener = None;
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.patience)
            .connect_lazy_with(self.hosts.in_use()?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(&self.channel).await?;
        Ok(listener)
    }

    /// Closes the connections that read.
    pub(super) async fn close(&self) {
        // It says goodbye with a task of its own, which only now finds a runtime.
        let listener = tokio::time::timeout(self.patience, self.listener.lock()).await;
        drop(listener.map(|mut listener| listener.take()));
        self.readers.close().await;
    }
}

/// A connection that was lost.
pub(super) struct Lost {
    /// Who served it.
    pub(super) backend: Backend,
    /// The server did not say why.
    pub(super) is_silent: bool,
}

/// Names the schema of an app's store.
fn schema_of(app: &str) -> Name {
    Name::new(&format!("app_{app}"))
}

/// Returns what all connections to a schema share, for each host of the address.
fn options_of(url: &str, schema: &Name) -> Result<Vec<PgConnectOptions>, OpenError> {
    let hosts = way::parse(url).map_err(OpenError::Database)?.into_iter();
    let options = hosts.map(|options| {
        let options = options
            .application_name("skytrail")
            .disable_statement_logging()
            .statement_cache_capacity(128);
        options.options([
            ("search_path", &*format!("{},public", schema.quoted())),
            ("timezone", "UTC"),
            // Others' writes are captured; see `captured`.
            ("skytrail.own", "yes"),
            // What is erased, parked or taken in must not come back; transactions that only apply what
            // the log has may say otherwise.
            ("synchronous_commit", "on"),
            // A machine of ours that is gone must not go on holding locks.
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "60s"),
        ])
    });
    Ok(options.collect())
}

/// Connects to an app's schema, beside the server that may be using it.
async fn connect_beside(url: &str, schema: &Name) -> Result<PgConnection, OpenError> {
    let connected = way::connect_to_first(options_of(url, schema)?, BESIDE_PATIENCE);
    Ok(connected.await?)
}

/// Opens a store beside the server that may be using it.
pub(super) async fn open_beside(
    url: &str,
    app: &str,
) -> Result<(PgConnection, Extensions), OpenError> {
    let schema = schema_of(app);
    let mut conn = connect_beside(url, &schema).await?;
    let mut sql = Sql::new("SELECT to_regclass(");
    sql.bind(Arg::Text(format!("{}._checkpoint", schema.quoted())))
        .push(") IS NOT NULL");
    let known_conn = &mut Conn::server(&mut conn, Extensions::default());
    let row = sql.fetch_optional(known_conn).await?;
    if !row.map_or(Ok(false), |row| row.flag(0))? {
        let what = format!("it has no record store in the schema {}", schema.as_str());
        return Err(OpenError::Foreign(what));
    }
    let (_, extensions) = known(known_conn).await?;
    Ok((conn, extensions))
}

/// Brings the schema to the present format; returns which extensions its tables use.
async fn prepare(conn: &mut PgConnection, schema: &Name) -> Result<Extensions, OpenError> {
    let mut conn = Conn::server(conn, Extensions::default());
    let mut tx = conn.begin_writing().await?;
    let mut lock = Sql::new("SELECT pg_advisory_xact_lock(");
    let key = i64::from_ne_bytes(fnv(schema.as_str()).to_ne_bytes());
    lock.bind(Arg::Int(key)).push(")");
    lock.execute(&mut tx.conn()).await?;
    let mut sql = Sql::new("SELECT to_regclass(");
    sql.bind(Arg::Text(format!("{}._checkpoint", schema.quoted())))
        .push(") IS NOT NULL, current_setting('server_encoding')='UTF8', EXISTS (SELECT 1 FROM pg_class WHERE relnamespace=to_regnamespace(")
        .bind(Arg::text(schema.quoted()))
        .push("))");
    let row = sql.fetch_optional(&mut tx.conn()).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    if !row.flag(1)? {
        return Err(OpenError::Foreign("its encoding is not UTF8".into()));
    }
    let extensions = match (row.flag(0)?, row.flag(2)?) {
        (true, _) => {
            let (found, extensions) = known(&mut tx.conn()).await?;
            upgrade(&mut tx.conn().knowing(extensions), found).await?;
            extensions
        }
        (false, true) => {
            let what = format!(
                "the schema {} holds tables that are not ours",
                schema.as_str()
            );
            return Err(OpenError::Foreign(what));
        }
        (false, false) => create(&mut tx.conn(), schema).await?,
    };
    tx.commit().await?;
    Ok(extensions)
}

/// Reads what the schema was made with.
async fn known(conn: &mut Conn<'_>) -> Result<(i64, Extensions), OpenError> {
    let sql = Sql::new("SELECT format, has_citext, has_postgis FROM _checkpoint");
    let row = sql.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let found = row.int(0)?;
    if found > FORMAT {
        return Err(OpenError::Newer {
            found,
            known: FORMAT,
        });
    }
    let extensions = Extensions {
        has_citext: row.flag(1)?,
        has_postgis: row.flag(2)?,
    };
    Ok((found, extensions))
}

/// Brings a store of an earlier format up to the present one.
async fn upgrade(conn: &mut Conn<'_>, found: i64) -> Result<(), OpenError> {
    if found == FORMAT {
        return Ok(());
    }
    for (_, script) in (1..).zip(SCRIPTS).filter(|(format, _)| *format > found) {
        run_script(conn, script).await?;
    }
    if found < 2 {
        let (catalog, _) = read::catalog(conn).await?;
        for layout in catalog.sorted().into_values() {
            for text in layout.table.iter().flat_map(ddl::capture) {
                text.execute(conn, Vec::new()).await?;
            }
        }
    }
    let mut sql = Sql::new("UPDATE _checkpoint SET format=");
    sql.bind(Arg::Int(FORMAT));
    sql.execute(conn).await?;
    Ok(())
}

async fn run_script(conn: &mut Conn<'_>, script: &'static str) -> Result<(), sqlx::Error> {
    if let Conn::Postgres(conn, ..) = conn {
        sqlx::raw_sql(script).execute(&mut **conn).await?;
    }
    Ok(())
}

async fn create(conn: &mut Conn<'_>, schema: &Name) -> Result<Extensions, OpenError> {
    let mut sql = Sql::new("CREATE SCHEMA IF NOT EXISTS ");
    sql.name(schema);
    sql.execute(conn).await?;
    // Who may not make it, and has nobody who did, does without.
    let mut attempt = conn.begin().await?;
    let made = Sql::new("CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public")
        .execute(&mut attempt.conn())
        .await;
    match made {
        Ok(_) => attempt.commit().await?,
        Err(error) => {
            tracing::debug!(%error, "no citext");
            attempt.rollback().await?;
        }
    }
    let sql =
        Sql::new("SELECT to_regtype('citext') IS NOT NULL, to_regtype('geometry') IS NOT NULL");
    let row = sql.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let extensions = Extensions {
        has_citext: row.flag(0)?,
        has_postgis: row.flag(1)?,
    };
    for script in SCRIPTS {
        run_script(conn, script).await?;
    }
    let sql = Sql::put(
        "_checkpoint",
        [("id", Arg::Int(1))],
        [
            ("position", Arg::Int(0)),
            ("format", Arg::Int(FORMAT)),
            ("has_citext", Arg::Bool(extensions.has_citext)),
            ("has_postgis", Arg::Bool(extensions.has_postgis)),
        ],
    );
    sql.execute(conn).await?;
    Ok(extensions)
}

/// What a store says of the log that it was filled from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOrigin {
    /// The id of the first commit, if it has any.
    pub log: Option<String>,
    /// When the last event that it has was committed.
    pub last: Option<Timestamp>,
}

/// Returns where a store comes from.
pub(super) async fn origin_of(conn: &mut Conn<'_>) -> Result<StoreOrigin, sqlx::Error> {
    let sql = Sql::new(
        "SELECT c.log, h.time FROM _checkpoint AS c LEFT JOIN _history AS h ON h.position=c.position",
    );
    let Some(row) = sql.fetch_optional(conn).await? else {
        return Ok(StoreOrigin::default());
    };
    Ok(StoreOrigin {
        log: row.maybe_text(0)?.map(Cow::into_owned),
        last: row.maybe_time(1)?,
    })
}
