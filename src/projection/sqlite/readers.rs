//! The connections that read: opened when first needed, the last used one first.
//!
//! This is our own small pool because sqlx's checks a connection before every
//! use and gives it back through a task: two thread changes per query.

use parking_lot::Mutex;
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The readers of one database file.
pub(crate) struct Readers {
    options: SqliteConnectOptions,
    idle: Mutex<Idle>,
    permits: Semaphore,
}

#[derive(Default)]
struct Idle {
    conns: Vec<SqliteConnection>,
    /// Grows when connections that are open already are no longer wanted.
    generation: u64,
}

/// A connection that goes back when it is dropped.
pub(crate) struct Reader<'a> {
    conn: Option<SqliteConnection>,
    generation: u64,
    readers: &'a Readers,
    _permit: SemaphorePermit<'a>,
}

impl Readers {
    /// Prepares for at most `max_connections`; opens none yet.
    pub(crate) fn new(options: SqliteConnectOptions, max_connections: usize) -> Self {
        Self {
            options,
            idle: Mutex::default(),
            permits: Semaphore::new(max_connections),
        }
    }

    /// Waits for a connection.
    pub(crate) async fn acquire(&self) -> Result<Reader<'_>, sqlx::Error> {
        let permit = self.permits.acquire().await;
        let permit = permit.map_err(|_closed| sqlx::Error::PoolClosed)?;
        let (idle, generation) = {
            let mut idle = self.idle.lock();
            (idle.conns.pop(), idle.generation)
        };
        let conn = match idle {
            Some(conn) => conn,
            None => self.options.connect().await?,
        };
        Ok(Reader {
            conn: Some(conn),
            generation,
            readers: self,
            _permit: permit,
        })
    }

    /// Replaces the connections that are open now, which may know the database as it was.
    pub(crate) async fn renew(&self) {
        let conns = {
            let mut idle = self.idle.lock();
            idle.generation += 1;
            std::mem::take(&mut idle.conns)
        };
        close_all(conns).await;
    }

    /// Refuses new readers and closes the idle ones.
    pub(crate) async fn close(&self) {
        self.permits.close();
        self.renew().await;
    }
}

async fn close_all(conns: Vec<SqliteConnection>) {
    for conn in conns {
        if let Err(error) = conn.close().await {
            tracing::warn!(%error, "reader not closed cleanly");
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let mut idle = self.readers.idle.lock();
        if idle.generation == self.generation {
            idle.conns.push(conn);
        }
    }
}

impl Reader<'_> {
    /// Returns the connection.
    pub(crate) fn conn(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        self.conn.as_mut().ok_or(sqlx::Error::PoolClosed)
    }
}
