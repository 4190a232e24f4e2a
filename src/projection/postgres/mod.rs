//! The store in PostgreSQL, version 15 or newer.
//!
//! - `hosts`: which host is used. `condition`: whether a connection can be used. `claim`: one server
//!   at a time uses a store. `readers`: the connections that read.
//! - `values`: how values are sent and received. `escape`: strings that it does not accept.
//! - `errors`: what failures mean. `trouble`: why reads fail at present.
//! - `digest`: what a store holds.
//! - `rebuild`: stores next to the one in use. `theirs`: what other programs have in the schema.
//! - `scrub`: removes what was erased from the files.
//! - `schema`: the tables, and how they are created.
//! - `plan`, `indexes`: how queries are answered, and the indexes that they need.
//!
//! This module has the server itself, and the connections to it.

mod claim;
mod condition;
mod digest;
mod errors;
mod escape;
mod hosts;
mod indexes;
mod plan;
mod readers;
mod rebuild;
mod schema;
mod scrub;
mod theirs;
mod trouble;
mod values;

use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::store::StoreError;
use skytrail_schema::event::Commit;
use sqlx::postgres::{PgConnection, PgListener, PgPoolOptions};
use tokio::sync::Mutex;

use self::claim::Claim;
use self::condition::Condition;
pub use self::digest::{digest_server, origin_server};
pub(crate) use self::errors::is_transient;
use self::errors::{failed, io_error};
pub(super) use self::errors::{
    in_the_way, is_about_data, is_about_rows, is_about_the_server, is_held, is_needed,
    is_read_only, is_silent, is_stale, is_unsupported, not_applied,
};
pub(super) use self::escape::unescape_json;
pub use self::hosts::place_of;
pub(super) use self::hosts::{Backend, Link, silent};
use self::hosts::{Hosts, Purpose};
pub(super) use self::indexes::{drop_narrow, strays, too_narrow};
pub(super) use self::plan::access;
pub(super) use self::readers::NOTICE;
use self::readers::Readers;
pub use self::rebuild::{
    HeldStore, beside, bring_back, check_old, drop_leftovers, drop_old, drop_store, list_theirs,
    switch_schemas,
};
pub use self::schema::StoreOrigin;
pub(super) use self::schema::{open_beside, origin_of};
use self::schema::{options_of, prepare, schema_of};
pub(super) use self::scrub::{
    TableUser, drop_unfinished, has_readers_since, next_transaction, readers_since, scrub,
    table_users,
};
use self::trouble::ReadTrouble;
pub(super) use self::values::{arguments, catalog, int, point, real, text};
use super::OpenError;
use super::conn::Conn;
use super::dialect::Extensions;
use super::index::IndexLimits;
use super::sql::Sql;

/// How a store uses its server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The app's name: the schema is `app_` followed by it.
    pub app: String,
    /// The number of connections that read; one more writes.
    pub max_readers: u32,
    /// How long to wait for a connection.
    pub max_wait: Duration,
    /// Whether applying waits for the database's disk. If not, a crash of the database can lose
    /// what was applied last. The server notices that, like a failover to a standby that lagged,
    /// and applies it again.
    pub synchronous_commit: bool,
    /// How long a statement that reads may take; those that write have no limit.
    pub statement_timeout: Duration,
    /// The limits for indexes that the store creates by itself.
    pub index_limits: IndexLimits,
}

/// The connections in addition to those that read: one writes, one listens, and one checks whether
/// the server is alive or builds an index.
const OTHER_CONNECTIONS: i64 = 3;

/// Warns when the database allows fewer connections than the server may use. The server takes what
/// it can get, and other programs are refused.
async fn warn_of_few_connections(
    conn: &mut PgConnection,
    max_readers: u32,
) -> Result<(), OpenError> {
    let mut conn = Conn::server(conn, Extensions::default());
    let sql = Sql::new(
        "SELECT current_setting('max_connections')::bigint - \
         current_setting('superuser_reserved_connections')::bigint",
    );
    let row = sql.fetch_optional(&mut conn).await?;
    let there = row.ok_or(sqlx::Error::RowNotFound)?.int(0)?;
    let wanted = i64::from(max_readers) + OTHER_CONNECTIONS;
    if there < wanted {
        tracing::warn!(
            there,
            wanted,
            "max_connections of the database leaves no connection for others; lower \
             DATABASE_CONNECTIONS"
        );
    }
    Ok(())
}

/// The server that a store is in.
pub(super) struct Server {
    hosts: Hosts,
    readers: Readers,
    max_wait: Duration,
    extensions: Extensions,
    /// Receives notices of what other programs write.
    listener: Mutex<Option<PgListener>>,
    /// The notification channel, named after the schema.
    channel: String,
    condition: Arc<Condition>,
    is_lazy: bool,
    /// The server that was used last: its host's index, and when it was started.
    served_by: parking_lot::Mutex<(usize, String)>,
    /// Held while a task looks where the server is.
    looking: Mutex<()>,
    building: indexes::Building,
    trouble: ReadTrouble,
}

impl Server {
    /// Connects, and creates the schema if it does not exist; returns the connection that writes,
    /// too.
    pub(super) async fn open(
        url: &str,
        options: &ServerOptions,
    ) -> Result<(Self, Link), OpenError> {
        let schema = schema_of(&options.app);
        let hosts = Hosts::new(options_of(url, &schema)?, options.max_wait);
        let condition = Arc::new(Condition::new(Some(Claim::new(&schema))));
        let mut link = hosts.connect(&condition, Purpose::Writing).await?;
        claim(&condition, &mut link, options.max_wait).await?;
        let extensions = prepare(&hosts, &mut link, &schema).await?;
        warn_of_few_connections(&mut link.conn, options.max_readers).await?;
        let limits = (
            options.max_readers,
            options.max_wait,
            options.statement_timeout,
        );
        let readers = Readers::new(hosts.in_use()?, Arc::clone(&condition), limits);
        let server = Self {
            hosts,
            readers,
            max_wait: options.max_wait,
            extensions,
            listener: Mutex::new(None),
            channel: schema.as_str().to_owned(),
            condition,
            is_lazy: !options.synchronous_commit,
            served_by: parking_lot::Mutex::new((link.host, link.backend.server_start.clone())),
            looking: Mutex::new(()),
            building: indexes::Building::default(),
            trouble: ReadTrouble::default(),
        };
        Ok((server, link))
    }

    /// Returns the extensions that the store uses.
    pub(super) fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// Converts an error for the port.
    pub(super) fn failed(&self, error: &sqlx::Error) -> StoreError {
        let failed = failed(error);
        self.trouble.failed(&failed);
        failed
    }

    /// Returns why reads fail at present.
    pub(super) fn read_trouble(&self) -> Option<String> {
        self.trouble.reason()
    }

    /// Returns whether applying does not wait for the database's disk.
    pub(super) fn is_lazy(&self) -> bool {
        self.is_lazy
    }

    /// Returns the longest that a statement which reads may take, round trip included.
    pub(super) fn statement_limit(&self) -> Duration {
        self.readers.statement_limit()
    }

    /// Returns how long to wait for quick operations.
    pub(super) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Checks that the commits follow what is applied. If a failover set the database back, it has
    /// lost commits that readers were told of; from then on nothing is read from it.
    pub(super) fn check_gap(
        &self,
        checkpoint: u64,
        commits: &[Arc<Commit>],
    ) -> Result<(), StoreError> {
        self.condition.attempt(checkpoint, commits);
        let first = commits.first().and_then(|commit| commit.events.first());
        if first.is_some_and(|event| event.position > checkpoint + 1) {
            self.condition.fall_behind(checkpoint);
        }
        self.check()
    }

    /// Records what the store is when it is opened.
    pub(super) fn know(&self, checkpoint: u64, origin: StoreOrigin) {
        self.condition.know(checkpoint, origin);
    }

    /// Tries another host first from now on, since this one refuses writes.
    pub(super) fn pass_over(&self, link: &Link) {
        self.hosts.pass_over(link.host);
    }

    /// Records that the database has everything up to a position.
    pub(super) fn reach(&self, position: u64) {
        self.condition.reach(position);
    }

    /// Fails when the database is known to have lost something.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.condition.check()
    }

    /// Waits until the database is known to have lost something.
    pub(super) async fn behind(&self) {
        self.condition.behind().await;
    }

    /// Waits until a connection that writes is known to be dead.
    pub(super) async fn gone(&self, backend: &Backend) -> sqlx::Error {
        self.hosts.gone(backend).await;
        io_error("the connection is dead")
    }

    /// Runs work in which a server process may wait for a lock. If the wait is in vain, the error
    /// names who holds the lock.
    pub(super) async fn naming_holders<T>(
        &self,
        backend: &Backend,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let named = self.hosts.naming_holders(backend, self.max_wait, work);
        named.await
    }

    /// Opens a connection that writes, to replace a lost one. Readers are renewed if another server
    /// is now in use, or if nobody knows what became of the lost connection.
    pub(super) async fn connect(&self, lost: Option<&LostConnection>) -> Result<Link, sqlx::Error> {
        let purpose = match lost {
            Some(_) => Purpose::Writing,
            None => Purpose::Reading,
        };
        let mut link = self.hosts.connect(&self.condition, purpose).await?;
        if let Some(lost) = lost {
            let owned = async {
                let conn = &mut Conn::server(&mut link.conn, self.extensions);
                hosts::end(conn, &lost.backend).await?;
                claim(&self.condition, &mut link, Duration::ZERO).await?;
                // Another process may have had the schema until now.
                let conn = &mut Conn::server(&mut link.conn, self.extensions);
                self.condition.verify(conn).await
            };
            let owned = tokio::time::timeout(self.max_wait, owned).await;
            owned.unwrap_or_else(|_late| Err(silent(self.max_wait)))?;
        }
        let server = (link.host, link.backend.server_start.clone());
        let is_another = *self.served_by.lock() != server;
        if is_another || lost.is_some_and(|lost| lost.is_silent) {
            *self.served_by.lock() = server;
            self.readers.renew(self.hosts.in_use()?);
        }
        Ok(link)
    }

    /// Makes readers prepare their statements anew: a column that was restored with another type no
    /// longer fits a prepared statement.
    pub(super) fn forget_statements(&self) -> Result<(), sqlx::Error> {
        self.readers.renew(self.hosts.in_use()?);
        Ok(())
    }

    /// Waits until another program writes something; also returns when notices can no longer be
    /// received.
    pub(super) async fn announced(&self) {
        let mut listener = self.listener.lock().await;
        if listener.is_none() {
            *listener = self.listen().await.ok();
        }
        let notified = match &mut *listener {
            Some(listener) => listener.recv().await.map(drop),
            None => return std::future::pending().await,
        };
        if notified.is_err() {
            *listener = None;
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.max_wait)
            .connect_lazy_with(self.hosts.in_use()?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(&self.channel).await?;
        Ok(listener)
    }

    /// Closes the connections that read.
    pub(super) async fn close(&self) {
        // The listener closes in a task of its own, which finds a runtime only now.
        let listener = tokio::time::timeout(self.max_wait, self.listener.lock()).await;
        drop(listener.map(|mut listener| listener.take()));
        self.readers.close().await;
    }
}

/// Takes the right to use the schema for a connection that writes.
async fn claim(
    condition: &Condition,
    link: &mut Link,
    max_wait: Duration,
) -> Result<(), sqlx::Error> {
    let conn = &mut Conn::server(&mut link.conn, Extensions::default());
    match &condition.claim {
        Some(claim) => claim.take(conn, &link.backend, max_wait).await,
        None => Ok(()),
    }
}

/// A connection that was lost.
pub(super) struct LostConnection {
    /// The process that served it.
    pub(super) backend: Backend,
    /// Whether the server gave no reason.
    pub(super) is_silent: bool,
}
