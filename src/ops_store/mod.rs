//! The ops store, `ops.sqlite` in the data folder: consumer positions, dead letters, pending pushes
//! and refused logins. It is a database of its own, which a rebuild of the record store does not
//! touch.
//!
//! Every change is one transaction, which is on disk when the call returns (write-ahead log,
//! `synchronous = FULL`). Each row has a checksum. A damaged file is set aside and a new one is
//! started; consumers that lost their positions are paused until somebody says where they resume.

mod copy;
mod erase;
mod pushes;
mod refusals;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use skytrail_actors::delivery::PositionStore;
use skytrail_actors::delivery::consumers::{
    ConsumerChange, ConsumerStore, DeadLetterId, ListedDeadLetter, StoredConsumers,
};
use skytrail_actors::ops_store::OpsStoreError;
use skytrail_actors::push::{Outbox, Waiting};
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::auth::refusals::{Kind, RefusalFilter, Refused};
use crate::projection::find_hindrance;
use crate::projection::sqlite::is_damage;

pub use copy::{CopyError, copy_file, cut};

/// The file name of the ops store in the data folder.
pub const OPS_STORE_FILE: &str = "ops.sqlite";
/// How the extension of an ops store that was set aside begins; a number follows.
pub(crate) const SET_ASIDE: &str = "damaged-";

/// Runs something on the connection.
macro_rules! with {
    ($ops_store:expr, $connection:ident => $work:expr) => {{
        let mut guard = $ops_store.connection.lock().await;
        match guard.as_mut() {
            Some($connection) => $work.await.map_err(failed),
            None => Err(OpsStoreError("it is closed".to_owned())),
        }
    }};
}

/// How long after a loss an unknown consumer counts as one that may have lost its position.
const LOSS_MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why the ops store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The damaged file cannot be set aside.
    #[error("{path}: {source}")]
    Aside {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error("{path} does not open: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: sqlx::Error,
    },
    /// The database cannot be opened, and the file system shows why.
    #[error("{path} does not open: {hindrance}: {source}")]
    Hindered {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        hindrance: String,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// The file was written by a newer program.
    #[error(
        "{path} has format={found}, this program knows up to {known}: start a newer one, or move \
         the file aside, so that plugins and consumers start at the log's end"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
}

/// See the module.
pub struct OpsStore {
    /// `None` once it is closed.
    connection: Mutex<Option<SqliteConnection>>,
    now: Timestamp,
    /// Users erased since the start.
    erased: parking_lot::Mutex<BTreeSet<UserId>>,
}

impl OpsStore {
    /// Opens the ops store at a path, or creates it.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage is not an error.
    pub async fn open(path: &Path, now: Timestamp) -> Result<Self, OpenError> {
        let failed = |source| match find_hindrance(path) {
            Some(hindrance) => OpenError::Hindered {
                path: path.to_owned(),
                hindrance,
                source,
            },
            None => OpenError::Database {
                path: path.to_owned(),
                source,
            },
        };
        let (connection, found) = match connect(path).await {
            Ok(connected) => connected,
            Err(error) if is_damage(&error) => {
                let aside = set_aside(path).map_err(|source| OpenError::Aside {
                    path: path.to_owned(),
                    source,
                })?;
                tracing::error!(
                    %error,
                    aside = %aside.display(),
                    "ops.sqlite is damaged and set aside; consumers wait to be told where to \
                     continue"
                );
                let (mut connection, found) = connect(path).await.map_err(failed)?;
                rows::note_loss(&mut connection, now)
                    .await
                    .map_err(failed)?;
                (connection, found)
            }
            Err(error) => return Err(failed(error)),
        };
        if found > rows::FORMAT {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: rows::FORMAT,
            });
        }
        Ok(Self {
            connection: Mutex::new(Some(connection)),
            now,
            erased: parking_lot::Mutex::default(),
        })
    }

    /// Adds to the counts of refused logins.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn add_refusals(&self, counted: &BTreeMap<Kind, u32>) -> Result<(), OpsStoreError> {
        with!(self, connection => async {
            let erased = self.erased.lock().clone();
            let is_erased = |kind: &Kind| kind.user.as_ref().is_some_and(|it| erased.contains(it));
            let kept = counted.iter().filter(|(kind, _)| !is_erased(kind));
            refusals::add(connection, kept).await
        })
    }

    /// Lists refused logins.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn list_refusals(
        &self,
        filter: &RefusalFilter,
    ) -> Result<Vec<Refused>, OpsStoreError> {
        with!(self, connection => refusals::list(connection, filter))
    }

    /// Deletes old refusals, and the oldest ones when there are too many.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn trim_refusals(&self, oldest: Timestamp, most: u32) -> Result<(), OpsStoreError> {
        with!(self, connection => refusals::trim(connection, oldest, most))
    }

    /// Closes the file; nothing can be stored afterwards.
    pub async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "ops.sqlite did not close cleanly");
        }
    }
}

/// Opens the file, checks all of it and creates missing tables; returns its format, too.
async fn connect(path: &Path) -> Result<(SqliteConnection, i64), sqlx::Error> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        // No other process opens it. So the index of the write-ahead log is kept in memory and not
        // in a file of its own, for which a full disk would have no space at the start.
        .locking_mode(SqliteLockingMode::Exclusive)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // The content of a push is overwritten when it is deleted.
        .pragma("secure_delete", "ON")
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging()
        .connect()
        .await?;
    rows::check(&mut connection).await?;
    let found = rows::format(&mut connection).await?;
    // The file of a newer program is left unchanged.
    if found <= rows::FORMAT {
        rows::prepare(&mut connection, found).await?;
    }
    Ok((connection, found))
}

/// Renames the file and its companions; nothing is deleted.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let named = |number: u32| path.with_extension(format!("{SET_ASIDE}{number}.sqlite"));
    let aside = (1..).map(named).find(|aside| !aside.exists());
    let aside = aside.unwrap_or_else(|| named(0));
    for ending in ["", "-wal", "-shm"] {
        let part = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        match std::fs::rename(part(path), part(&aside)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

#[async_trait]
impl ConsumerStore for OpsStore {
    async fn load(&self) -> Result<StoredConsumers, OpsStoreError> {
        let since = self.now.micros() - i64::try_from(LOSS_MEMORY.as_micros()).unwrap_or(i64::MAX);
        with!(self, connection => rows::load(connection, since))
    }

    async fn save(&self, consumer: &str, change: &ConsumerChange) -> Result<(), OpsStoreError> {
        with!(self, connection => rows::save(connection, consumer, change))
    }

    async fn forget(&self, consumer: &str) -> Result<(), OpsStoreError> {
        with!(self, connection => rows::forget(connection, consumer))
    }

    async fn list_dead_letters(
        &self,
        consumer: &str,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Vec<ListedDeadLetter>, OpsStoreError> {
        with!(self, connection => rows::list_dead_letters(connection, consumer, after, limit))
    }

    async fn count_dead_letters(&self, consumer: &str) -> Result<u64, OpsStoreError> {
        with!(self, connection => rows::count_dead_letters(connection, consumer))
    }
}

#[async_trait]
impl PositionStore for OpsStore {
    async fn load_position(&self, consumer: &str) -> Result<Option<u64>, OpsStoreError> {
        with!(self, connection => rows::load_position(connection, consumer))
    }

    async fn save_position(&self, consumer: &str, position: u64) -> Result<(), OpsStoreError> {
        with!(self, connection => rows::save_position(connection, consumer, position))
    }
}

#[async_trait]
impl Outbox for OpsStore {
    async fn keep_pushes(&self, pushes: &[Waiting]) -> Result<(), OpsStoreError> {
        with!(self, connection => pushes::add(connection, pushes))
    }

    async fn forget_pushes(&self, ids: &[Uuid]) -> Result<(), OpsStoreError> {
        let ids = Vec::from_iter(ids.iter().map(Uuid::to_string));
        with!(self, connection => pushes::remove(connection, &ids))
    }

    async fn load_pushes(&self) -> Result<Vec<Waiting>, OpsStoreError> {
        with!(self, connection => pushes::list(connection))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form of map_err")]
fn failed(error: sqlx::Error) -> OpsStoreError {
    OpsStoreError(error.to_string())
}

#[cfg(test)]
mod tests;
