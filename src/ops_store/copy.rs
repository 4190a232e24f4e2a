//! Copies the ops store for backups, and cuts a copy back to an earlier end of the log.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use skytrail_actors::delivery::consumers::ConsumerChange;
use skytrail_actors::ops_store::OpsStoreError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::{OpsStore, failed, pushes, rows};

/// How often a file that changes while it is read is read again.
const MAX_TRIES: usize = 20;
/// The length of a write-ahead log's header. Its salt changes whenever the log starts over.
const WAL_HEAD_BYTES: usize = 32;

/// Why the ops store was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The database reported an error.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The ops store was written so often that no consistent state could be read.
    #[error("it changes too fast to be copied")]
    Restless,
}

impl OpsStore {
    /// Writes a copy of the current contents to a file that does not exist yet.
    ///
    /// # Errors
    /// The ops store is closed, or a file cannot be read or written.
    pub async fn copy_to(&self, path: &Path) -> Result<(), OpsStoreError> {
        let mut guard = self.connection.lock().await;
        match guard.as_mut() {
            Some(connection) => write_copy(connection, path).await.map_err(failed),
            None => Err(OpsStoreError("it is closed".to_owned())),
        }
    }
}

/// Copies an ops store that another process may have open exclusively to a file that does not exist
/// yet. Returns whether there is an ops store.
///
/// It reads the database and its write-ahead log as a power loss would leave them. SQLite recovers
/// from that state, unless the write-ahead log started over while the database was read.
///
/// # Errors
/// See [`CopyError`].
pub async fn copy_file(from: &Path, to: &Path) -> Result<bool, CopyError> {
    let raw = to.with_extension("raw");
    let done = match copy_raw(from, &raw) {
        Ok(true) => open_copy(&raw, to).await.map(|()| true),
        other => other,
    };
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(with_ending(&raw, ending));
    }
    done
}

fn copy_raw(from: &Path, to: &Path) -> Result<bool, CopyError> {
    let wal = with_ending(from, "-wal");
    for _ in 0..MAX_TRIES {
        let before = read_if_there(&wal)?;
        let Some(database) = read_if_there(from)? else {
            return Ok(false);
        };
        let log = read_if_there(&wal)?;
        let head = |log: &Option<Vec<u8>>| {
            let log = log.as_deref().unwrap_or_default();
            log.get(..WAL_HEAD_BYTES).map(<[u8]>::to_vec)
        };
        // Without a write-ahead log, the database file itself must not have changed.
        let is_still = head(&log).is_some() || read_if_there(from)?.as_ref() == Some(&database);
        if head(&before) == head(&log) && is_still {
            std::fs::write(to, database)?;
            std::fs::write(with_ending(to, "-wal"), log.unwrap_or_default())?;
            return Ok(true);
        }
    }
    Err(CopyError::Restless)
}

async fn open_copy(raw: &Path, to: &Path) -> Result<(), CopyError> {
    let options = SqliteConnectOptions::new().filename(raw);
    let mut connection = options.disable_statement_logging().connect().await?;
    let copied = match rows::check(&mut connection).await {
        Ok(()) => write_copy(&mut connection, to).await,
        Err(error) => Err(error),
    };
    connection.close().await?;
    Ok(copied?)
}

async fn write_copy(connection: &mut SqliteConnection, to: &Path) -> Result<(), sqlx::Error> {
    let copied = sqlx::query("VACUUM INTO ?").bind(to.to_string_lossy().into_owned());
    copied.execute(connection).await?;
    // Pending pushes would be outdated when a copy is restored, so they are not kept.
    let options = SqliteConnectOptions::new().filename(to);
    let mut copy = options.disable_statement_logging().connect().await?;
    for statement in pushes::REMOVALS.into_iter().chain(["VACUUM"]) {
        sqlx::query(statement).execute(&mut copy).await?;
    }
    copy.close().await
}

/// Cuts the contents of a file back to a log that ends at `head`: nothing that the log appends from
/// there on has been delivered to anyone.
///
/// # Errors
/// The file cannot be read or written.
pub async fn cut(path: &Path, head: u64) -> Result<(), sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = options.disable_statement_logging().connect().await?;
    let kept = rows::load(&mut connection, i64::MAX).await?;
    for (name, mut checkpoint) in kept.consumers {
        checkpoint.cursor.clamp(head);
        checkpoint.ordered = checkpoint.ordered.min(head);
        for since in checkpoint.since.values_mut() {
            *since = (*since).min(head);
        }
        let change = ConsumerChange {
            checkpoint,
            ..ConsumerChange::default()
        };
        rows::save(&mut connection, &name, &change).await?;
    }
    rows::cut(&mut connection, head).await?;
    connection.close().await
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
