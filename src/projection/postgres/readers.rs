//! Connections that read.
//!
//! A pool hands them out. When it has none in time, a new connection finds out where the server is
//! now, or why there is none. So readers find a server that took over even when nobody writes, and
//! can report what is wrong.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use skytrail_actors::store::StoreError;
use sqlx::Connection as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, Postgres};
use tokio::time::timeout;

use super::condition::Condition;
use super::hosts::silent;
use super::{Server, failed};
use crate::projection::conn::Conn;
use crate::projection::dialect::Extensions;
use crate::projection::sql::{Arg, Sql};

/// The maximum wait divided by this limits how long to check whether a connection is alive.
const SHARE: u32 = 2;

/// The pool, and what is needed to create a new one.
pub(super) struct Readers {
    pool: ArcSwap<PgPool>,
    condition: Arc<Condition>,
    max: u32,
    max_wait: Duration,
    statement_timeout: Duration,
}

impl Readers {
    /// Reads over at most `max` connections at once.
    pub(super) fn new(
        options: PgConnectOptions,
        condition: Arc<Condition>,
        (max, max_wait, statement_timeout): (u32, Duration, Duration),
    ) -> Self {
        let limits = (max, max_wait, statement_timeout);
        let pool = pool(options, &condition, limits);
        Self {
            pool: ArcSwap::from_pointee(pool),
            condition,
            max,
            max_wait,
            statement_timeout,
        }
    }

    /// Stops using the present connections.
    pub(super) fn renew(&self, options: PgConnectOptions) {
        let limits = (self.max, self.max_wait, self.statement_timeout);
        let fresh = pool(options, &self.condition, limits);
        let old = self.pool.swap(Arc::new(fresh));
        // This closes the old pool; connections in use end when they are returned.
        drop(old.close());
    }

    /// Returns the longest that a statement may take, round trip included.
    pub(super) fn statement_limit(&self) -> Duration {
        self.statement_timeout + self.max_wait
    }

    /// Closes the present connections.
    pub(super) async fn close(&self) {
        let _ = timeout(self.max_wait, self.pool.load_full().close()).await;
    }
}

/// Creates a pool; nothing is connected yet.
fn pool(
    options: PgConnectOptions,
    condition: &Arc<Condition>,
    (max, max_wait, statement_timeout): (u32, Duration, Duration),
) -> PgPool {
    let limit = statement_timeout.as_millis().to_string();
    let options = options.options([("statement_timeout", limit)]);
    let condition = Arc::clone(condition);
    let limit = max_wait / SHARE;
    PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(max_wait)
        .test_before_acquire(false)
        .before_acquire(move |conn, _| {
            Box::pin(async move {
                let alive = timeout(limit, conn.ping()).await;
                alive.unwrap_or_else(|_late| Err(silent(limit)))?;
                Ok(true)
            })
        })
        .after_connect(move |conn, _| {
            let condition = Arc::clone(&condition);
            Box::pin(async move {
                condition.admit(conn).await?;
                // A reader that no longer waits disconnects.
                notice_lost_client(&mut Conn::server(conn, Extensions::default())).await;
                Ok(())
            })
        })
        .connect_lazy_with(options)
}

/// How soon the database notices that the client of a running statement is gone.
pub(in crate::projection) const NOTICE: Duration = Duration::from_millis(100);

/// Makes the database end a statement soon after its client is gone. Not every operating system
/// lets it notice that.
pub(super) async fn notice_lost_client(conn: &mut Conn<'_>) {
    let mut notice = Sql::new("SELECT set_config('client_connection_check_interval',");
    notice
        .bind(Arg::Text(format!("{}ms", NOTICE.as_millis())))
        .push(",false)");
    if let Err(error) = notice.execute(conn).await {
        tracing::debug!(%error, "the database keeps working for lost clients");
    }
}

impl Server {
    /// Waits for a connection that reads.
    pub(in crate::projection) async fn reader(
        &self,
    ) -> Result<PoolConnection<Postgres>, StoreError> {
        let connected = self.connected_reader().await;
        self.trouble.connected(connected.as_ref().err());
        connected
    }

    async fn connected_reader(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.check()?;
        let pool = self.readers.pool.load_full();
        match pool.acquire().await {
            Ok(conn) => return Ok(conn),
            // All connections are in use, and none became free in time.
            Err(error) if pool.size() >= self.readers.max && pool.num_idle() == 0 => {
                return Err(failed(&error));
            }
            Err(error) => tracing::debug!(%error, "no connection for reading"),
        }
        self.check()?;
        let found = async {
            self.look_around(&pool).await?;
            self.readers.pool.load_full().acquire().await
        };
        let found = timeout(self.max_wait, found).await;
        let found = found.unwrap_or_else(|_late| Err(silent(self.max_wait)));
        found.map_err(|error| failed(&error))
    }

    /// Finds out where the server is, unless another task has done so since the pool `before` was
    /// used.
    async fn look_around(&self, before: &Arc<PgPool>) -> Result<(), sqlx::Error> {
        let _turn = self.looking.lock().await;
        if !Arc::ptr_eq(before, &self.readers.pool.load()) {
            return Ok(());
        }
        self.connect(None).await?.conn.close().await
    }
}
