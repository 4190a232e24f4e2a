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
    idle: Mutex<Vec<SqliteConnection>>,
    permits: Semaphore,
}

/// A connection that goes back when it is dropped.
pub(crate) struct Reader<'a> {
    conn: Option<SqliteConnection>,
    readers: &'a Readers,
    _permit: SemaphorePermit<'a>,
}

impl Readers {
    /// Prepares for at most `max_connections`; opens none yet.
    pub(crate) fn new(options: SqliteConnectOptions, max_connections: usize) -> Self {
        Self {
            options,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(max_connections),
        }
    }

    /// Waits for a connection.
    pub(crate) async fn acquire(&self) -> Result<Reader<'_>, sqlx::Error> {
        let permit = self.permits.acquire().await;
        let permit = permit.map_err(|_closed| sqlx::Error::PoolClosed)?;
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => self.options.connect().await?,
        };
        Ok(Reader {
            conn: Some(conn),
            readers: self,
            _permit: permit,
        })
    }

    /// Refuses new readers and closes the idle ones.
    pub(crate) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for conn in idle {
            if let Err(error) = conn.close().await {
                tracing::warn!(%error, "reader not closed cleanly");
            }
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self
            .conn
            .take()
            .filter(|_| !self.readers.permits.is_closed())
        {
            self.readers.idle.lock().push(conn);
        }
    }
}

impl Reader<'_> {
    /// Returns the connection.
    pub(crate) fn conn(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        self.conn.as_mut().ok_or(sqlx::Error::PoolClosed)
    }
}
