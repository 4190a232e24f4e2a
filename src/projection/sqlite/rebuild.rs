//! Makes the store anew from the log, next to the one in use.
//!
//! 1. A new file is filled in large batches. The indexes are created last, when all rows exist.
//! 2. The file is closed and flushed. Until here the store in use has not been touched. A rebuild
//!    that is interrupted leaves only a file that the next one replaces.
//! 3. [`switch`] renames the old file, and the new one into its place. If the machine stops in
//!    between, there is no store, and the next start fills one from the log: nothing is lost.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skytrail_actors::log::{folder_of, sync_folder};
use skytrail_schema::event::Commit;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::{OpenError, StoreOptions, open_writer, remove, sums};
use crate::projection::apply::{Indexing, WriterState};
use crate::projection::conn::Conn;
use crate::projection::ddl;
use crate::projection::dialect::Dialect;

/// How many events are read from the log at once; they become one transaction.
const BATCH_EVENTS: usize = 4096;

/// The page cache while the store is filled, in KiB: indexes are sorted, but keys arrive in any
/// order.
const CACHE_KIB: u32 = 65_536;

/// Why no store was made.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The new file cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new file cannot be written.
    #[error("the new record store cannot be written")]
    Database(#[from] sqlx::Error),
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Log(String),
    /// Files cannot be renamed or deleted.
    #[error("cannot replace {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
}

/// The log as a rebuild reads it: from a position, at most this many events.
pub type ReadLog<'a> = dyn FnMut(u64, usize) -> Result<Vec<Arc<Commit>>, String> + Send + 'a;

/// Makes a store at `path` from the events up to position `until`. An existing file is replaced.
/// `is_private` is as in [`StoreOptions`].
///
/// `progress` is called with the position after every batch.
///
/// # Errors
/// See [`RebuildError`]; the file is then unusable.
pub async fn rebuild(
    (path, is_private): (&Path, bool),
    until: u64,
    read: &mut ReadLog<'_>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), RebuildError> {
    remove(path)?;
    let options = StoreOptions {
        writer_cache_kib: CACHE_KIB,
        is_private,
        ..StoreOptions::default()
    };
    let (mut conn, held) = open_writer(path, &options).await?;
    // An unfinished file is thrown away, so until then it can be in any state. SQLite merges
    // whenever it likes, and the checksums are written at the end.
    sqlx::raw_sql("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 8000;")
        .execute(&mut conn)
        .await?;
    let indexes = lift_indexes(&mut conn).await?;
    let mut state = WriterState::new(Dialect::Sqlite);
    state.indexing = Indexing::Later;
    while state.checkpoint < until {
        let commits = read(state.checkpoint + 1, BATCH_EVENTS).map_err(RebuildError::Log)?;
        let batch = commits
            .iter()
            .filter(|commit| commit.last_position() <= until);
        let batch: Vec<_> = batch.cloned().collect();
        if batch.is_empty() {
            let position = state.checkpoint + 1;
            return Err(RebuildError::Log(format!("it has no position {position}")));
        }
        state.apply(&mut Conn::file(&mut conn), &batch).await?;
        progress(state.checkpoint);
    }
    for index in indexes {
        sqlx::raw_sql(AssertSqlSafe(index))
            .execute(&mut conn)
            .await?;
    }
    for layout in state.catalog.sorted().into_values() {
        for text in ddl::indexes(layout) {
            text.execute(&mut Conn::file(&mut conn), Vec::new()).await?;
        }
    }
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE);")
        .execute(&mut conn)
        .await?;
    conn.close().await?;
    sums::seal(path, &held).await?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| failed(path, source))
}

/// Drops the indexes that nothing needs while the store is filled. Returns the statements, taken
/// from the migrations, that create them again.
async fn lift_indexes(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let made = "SELECT sql FROM sqlite_schema WHERE name IN ('_history_stream', '_relation_back')";
    let made = sqlx::query_scalar(made).fetch_all(&mut *conn).await?;
    sqlx::raw_sql("DROP INDEX _history_stream; DROP INDEX _relation_back;")
        .execute(conn)
        .await?;
    Ok(made)
}

/// The extension of a store that was replaced by another.
pub const PREVIOUS: &str = "previous";

/// Replaces the store at `current` by the one at `new`. The old one is kept next to it, with the
/// extension [`PREVIOUS`]. Neither may be open anywhere.
///
/// # Errors
/// A file cannot be renamed.
pub fn switch(new: &Path, current: &Path) -> Result<(), RebuildError> {
    let previous = current.with_extension(PREVIOUS);
    remove(&previous)?;
    for (from, to) in [(current, previous.as_path()), (new, current)] {
        for ending in sums::PARTS {
            rename(&sums::part(from, ending), &sums::part(to, ending))?;
        }
    }
    let folder = folder_of(current);
    sync_folder(folder).map_err(|source| failed(folder, source))
}

/// Renames a file, if it exists.
fn rename(from: &Path, to: &Path) -> Result<(), RebuildError> {
    match std::fs::rename(from, to) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(failed(from, source)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, source: std::io::Error) -> RebuildError {
    RebuildError::File {
        path: path.to_owned(),
        source,
    }
}
