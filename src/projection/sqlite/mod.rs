//! The store in a file of its own: SQLite.
//!
//! - `readers`: one connection writes, a few read.
//! - `sums`: the checksums of pages. `held`: reading pages independently of SQLite.
//! - `condition`: watches them, and handles damage.
//! - `erase`: removes data for good.
//! - `digest`, `rebuild`: what commands do with a file.
//!
//! This module opens, closes and migrates the file.

mod condition;
mod digest;
pub(crate) mod erase;
pub(crate) mod held;
mod readers;
pub mod rebuild;
pub(super) mod sums;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use skytrail_actors::spawn::be_nice;
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use tokio::sync::Mutex;

pub(super) use self::condition::Condition;
pub use self::condition::damage_marker;
pub use self::digest::{TableDigest, digest};
pub(super) use self::erase::scrub;
use self::held::HeldFile;
pub(super) use self::readers::{Reader, Readers};
use self::sums::Merger;
pub(crate) use self::sums::{PARTS, part};
pub(super) use self::values::arguments;
use super::hindrance::find_hindrance;
use super::index::IndexLimits;

/// How a store uses its file.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// The number of connections that read; two per core serve well. They are opened when needed.
    pub num_readers: usize,
    /// Page cache of the writer, in KiB; 16,384 by default.
    pub writer_cache_kib: u32,
    /// Page cache of each reader, in KiB; 4096 by default. The operating system caches pages as
    /// well.
    pub reader_cache_kib: u32,
    /// The limits for indexes that the store creates by itself.
    pub index_limits: IndexLimits,
    /// Whether only the owner can read a file that is created, wherever it is. This includes the
    /// files that SQLite keeps next to it. In the data folder, the folder protects them.
    pub is_private: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            num_readers: cores.max(2) * 2,
            writer_cache_kib: 16_384,
            reader_cache_kib: 4096,
            index_limits: IndexLimits::default(),
            is_private: false,
        }
    }
}

/// Why a store's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store's file or a companion cannot be opened, created or deleted.
    #[error("record store folder not usable, path={path}")]
    Folder {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// A newer program wrote the store. The log has everything that is in it.
    #[error(
        "record store has format={found}, this program knows up to {known}: start a newer one, or \
         rebuild the store from the log with skytrail rebuild"
    )]
    Newer {
        /// Its format.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
    /// The database holds something other than our store.
    #[error("the database cannot be used: {0}")]
    Foreign(String),
    /// No store has been created there yet, as after a restore.
    #[error(
        "there is no record store yet {0}: the server's first start creates it, or skytrail \
         rebuild"
    )]
    Missing(String),
    /// The file is damaged.
    #[error("record store damaged: {0}")]
    Damaged(String),
    /// The database cannot be opened, and the file system shows why.
    #[error("record store does not open: {hindrance}")]
    Hindered {
        /// What is wrong.
        hindrance: String,
        /// What SQLite says.
        #[source]
        source: sqlx::Error,
    },
    /// The database cannot be opened.
    #[error("record store does not open")]
    Database(#[from] sqlx::Error),
}

impl OpenError {
    /// Returns whether the file itself is damaged, so that making it anew from the log helps.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Database(error) => is_damage(error),
            _ => false,
        }
    }
}

/// Returns whether an error means that the file is damaged: malformed, not a database, or rows that
/// cannot be read.
pub(crate) fn is_damage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<i64>().ok());
            code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
        }
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

/// Returns whether an error is about what was to be written, and not about the disk, the memory or
/// the file.
pub(super) fn is_about_data(code: &str) -> bool {
    /// Busy, locked, out of memory, read-only, interrupted, I/O, corrupt, full, cannot open,
    /// protocol, not a database.
    const FAILURES: [i64; 11] = [5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26];
    code.parse::<i64>()
        .is_ok_and(|code| !FAILURES.contains(&(code & 0xff)))
}

/// The scripts that bring a file from one format to the next.
const MIGRATIONS: [&str; 7] = [
    include_str!("migrations/0001_fixed.sql"),
    include_str!("migrations/0002_asset.sql"),
    include_str!("migrations/0003_devices.sql"),
    include_str!("migrations/0004_tasks.sql"),
    include_str!("migrations/0005_devices_of_users.sql"),
    include_str!("migrations/0006_lost.sql"),
    include_str!("migrations/0007_numbered.sql"),
];

/// The write-ahead file is merged into the database after this many pages of 4 KiB.
const MERGE_PAGES: u32 = 8000;

/// A store's file: its readers, and what is known of its condition.
pub(super) struct File {
    pub(super) readers: Readers,
    pub(super) condition: Condition,
    pub(super) path: PathBuf,
    merger: Mutex<Merger>,
    options: StoreOptions,
    held: HeldFile,
}

impl File {
    /// Opens the file, or creates it; returns the connection that writes, too.
    pub(super) async fn open(
        path: &Path,
        options: &StoreOptions,
    ) -> Result<(Self, SqliteConnection), OpenError> {
        let (conn, held) = open_writer(path, options).await?;
        let file = Self {
            readers: Readers::new(reader_options(path, options), options.num_readers),
            condition: Condition::new(path),
            path: path.to_owned(),
            merger: Mutex::new(Merger::new(path, MERGE_PAGES)),
            options: *options,
            held,
        };
        Ok((file, conn))
    }

    /// Merges the write-ahead file once it has grown large.
    pub(super) async fn tidy(&self, conn: &mut SqliteConnection) {
        if let Err(error) = self.merger.lock().await.go_on(conn).await {
            tracing::warn!(%error, "the record store's write-ahead file could not be merged");
        }
    }

    /// Merges the whole write-ahead file, and closes.
    pub(super) async fn close(&self, mut conn: SqliteConnection) -> Result<(), sqlx::Error> {
        sums::merge(&mut conn, &self.path).await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut conn)
            .await?;
        conn.close().await
    }

    /// Replaces the connection that writes after it failed. On a full disk the database undoes a
    /// transaction by itself, and the connection would still consider it open.
    pub(super) async fn renew(&self, conn: &mut SqliteConnection) {
        match connect_writer(&self.path, &self.options).await {
            // The new one is opened before the old one closes. Otherwise the database would take
            // that for the last close, and merge the write-ahead file.
            Ok(fresh) => {
                let failed = std::mem::replace(conn, fresh);
                if let Err(error) = failed.close().await {
                    tracing::debug!(%error, "the connection that failed did not close cleanly");
                }
            }
            Err(error) => tracing::warn!(%error, "no new connection to the record store"),
        }
    }
}

/// Returns the options that all connections share.
fn base(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging()
}

/// Returns the options of connections that read.
pub(crate) fn reader_options(path: &Path, options: &StoreOptions) -> SqliteConnectOptions {
    base(path)
        .read_only(true)
        .row_buffer_size(256)
        .statement_cache_capacity(96)
        .pragma("cache_size", format!("-{}", options.reader_cache_kib))
}

/// Opens the one connection that writes, if the file is not damaged; creates the file if it does
/// not exist. The returned `HeldFile` must be kept while any connection is open.
pub(crate) async fn open_writer(
    path: &Path,
    options: &StoreOptions,
) -> Result<(SqliteConnection, HeldFile), OpenError> {
    open_or_create(path, options)
        .await
        .map_err(|error| match error {
            OpenError::Database(source) if !is_damage(&source) => match find_hindrance(path) {
                Some(hindrance) => OpenError::Hindered { hindrance, source },
                None => OpenError::Database(source),
            },
            other => other,
        })
}

async fn open_or_create(
    path: &Path,
    options: &StoreOptions,
) -> Result<(SqliteConnection, HeldFile), OpenError> {
    let is_new = !path.exists();
    let opened = if is_new {
        remove(path)?;
        HeldFile::create(path, options.is_private)
    } else {
        HeldFile::open(path)
    };
    let held = opened.map_err(|source| OpenError::Folder {
        path: path.to_owned(),
        source,
    })?;
    if !is_new {
        if let Some(damage) = sums::find_damage(path, &held, None).await? {
            return Err(OpenError::Damaged(damage.to_string()));
        }
        // When a connection that writes closes, it merges the write-ahead file without the
        // checksums. Merely looking at a newer version's file would then damage it.
        let mut conn = reader_options(path, options).connect().await?;
        format_of(&mut conn).await?;
        conn.close().await?;
    }
    let mut conn = connect_writer(path, options).await?;
    migrate(&mut conn).await?;
    if is_new {
        sums::seal(path, &held).await?;
    }
    sqlx::query("PRAGMA synchronous = NORMAL")
        .execute(&mut conn)
        .await?;
    Ok((conn, held))
}

/// Opens a connection that writes to an existing file. A power cut only undoes the newest batches,
/// and the log has them.
pub(crate) async fn connect_writer(
    path: &Path,
    options: &StoreOptions,
) -> Result<SqliteConnection, sqlx::Error> {
    let options = base(path)
        .synchronous(SqliteSynchronous::Normal)
        .statement_cache_capacity(128)
        .pragma("cache_size", format!("-{}", options.writer_cache_kib))
        // The pages' checksums are written first: see `sums`.
        .pragma("wal_autocheckpoint", "0")
        // Slightly more than is merged at once, so that the file keeps its length.
        .pragma("journal_size_limit", "50331648")
        // Statements that may be undone keep their changes in memory, not in a file.
        .pragma("temp_store", "MEMORY");
    connect_nicely(options).await
}

/// How nice the thread that writes is towards those that answer requests: it works for milliseconds
/// at a time, and no save waits for it.
const NICENESS: i32 = 5;

/// Connects from a thread of its own. The thread that sqlx starts for the connection inherits its
/// niceness.
async fn connect_nicely(options: SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let runtime = tokio::runtime::Handle::current();
    let (sender, connected) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("store-connect".to_owned());
    thread.spawn(move || {
        be_nice("record store's writer", NICENESS);
        let _ = sender.send(runtime.block_on(options.connect()));
    })?;
    connected.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Opens a file for writing, next to the server that may be using it; call [`sums::merge`] before
/// closing it.
pub(crate) async fn open_beside(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = base(path).pragma("wal_autocheckpoint", "0");
    options.connect().await
}

/// Deletes a store's file and its companions, if they exist.
pub(crate) fn remove(path: &Path) -> Result<(), OpenError> {
    for ending in PARTS {
        let path = part(path, ending);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::Folder { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Brings a file to the current format. A new file is not flushed in between: if a power cut leaves
/// it half created, it is found damaged and created again.
async fn migrate(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let done = format_of(conn).await?;
    if done == 0 {
        sqlx::raw_sql("PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL;")
            .execute(&mut *conn)
            .await?;
    }
    for (from, script) in MIGRATIONS.iter().enumerate().skip(done) {
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(*script).execute(&mut *tx).await?;
        tx.commit().await?;
        if done > 0 {
            say_migrated(from, from + 1);
        }
    }
    Ok(())
}

/// Reports that an existing store was brought to the next format.
pub(super) fn say_migrated<N: std::fmt::Display>(from: N, to: N) {
    tracing::info!(%from, %to, "the record store is upgraded to a newer format");
}

/// Returns the format of a file, 0 when it is empty.
async fn format_of(conn: &mut SqliteConnection) -> Result<usize, OpenError> {
    let row = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *conn)
        .await?;
    let found: i64 = row.try_get(0)?;
    let done = usize::try_from(found).ok();
    let done = done.filter(|done| *done <= MIGRATIONS.len());
    done.ok_or(OpenError::Newer {
        found,
        known: i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX),
    })
}
