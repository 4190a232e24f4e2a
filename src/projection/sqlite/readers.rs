//! The connections that read: opened when first needed, the last used one first.
//!
//! This is our own small pool, since sqlx's checks a connection before every use and returns it
//! through a task: two thread switches per query.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// An open connection.
struct Open {
    conn: SqliteConnection,
    /// When set, aborts what the connection is doing.
    is_given_up: Arc<AtomicBool>,
}

/// The number of steps of the database's virtual machine between two checks whether somebody still
/// waits: some hundredths of a millisecond, but much longer if a step searches a long string.
const STEPS_BETWEEN_LOOKS: i32 = 1_000;

impl Open {
    async fn open(options: &SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let mut conn = options.connect().await?;
        let is_given_up = Arc::<AtomicBool>::default();
        let looked_at = Arc::clone(&is_given_up);
        let goes_on = move || !looked_at.load(Ordering::Relaxed);
        let mut handle = conn.lock_handle().await?;
        handle.set_progress_handler(STEPS_BETWEEN_LOOKS, goes_on);
        drop(handle);
        Ok(Self { conn, is_given_up })
    }
}

#[derive(Default)]
struct Idle {
    conns: Vec<Open>,
    /// Incremented when connections that are open already are no longer wanted.
    generation: u64,
}

/// A connection that returns to the pool when it is dropped.
pub(crate) struct Reader<'a> {
    conn: Option<Open>,
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
            None => Open::open(&self.options).await?,
        };
        Ok(Reader {
            conn: Some(conn),
            generation,
            readers: self,
            _permit: permit,
        })
    }

    /// Replaces the open connections, which may have an outdated view of the database.
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

async fn close_all(conns: Vec<Open>) {
    for Open { conn, .. } in conns {
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
        let open = self.conn.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        Ok(&mut open.conn)
    }

    /// Gives up the connection when nobody waits for its answer any more: the database stops
    /// working on it.
    pub(crate) fn break_off(&mut self) {
        if let Some(open) = self.conn.take() {
            open.is_given_up.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    /// Long enough for anything that ends at all.
    const TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_ends() {
        let readers = Readers::new(SqliteConnectOptions::new().in_memory(true), 1);
        let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) \
                       SELECT max(x) FROM n";
        let mut reader = readers.acquire().await.unwrap();
        let conn = reader.conn().unwrap();
        let query = timeout(Duration::ZERO, sqlx::query(endless).fetch_one(conn)).await;
        assert!(query.is_err(), "it has no end");
        let given_up = Arc::downgrade(&reader.conn.as_ref().unwrap().is_given_up);
        reader.break_off();
        drop(reader);
        let mut next = timeout(TIMEOUT, readers.acquire()).await.unwrap().unwrap();
        let one = sqlx::query("SELECT 1").fetch_one(next.conn().unwrap());
        assert!(timeout(TIMEOUT, one).await.unwrap().is_ok());
        let is_gone = async {
            while given_up.strong_count() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, is_gone).await.unwrap();
    }
}
