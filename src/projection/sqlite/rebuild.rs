//! Making the store anew from the log, beside the one in use.
//!
//! 1. A new file is filled in large batches; the indexes come last, when all
//!    rows are there.
//! 2. It is closed and flushed. Until here the store in use was not touched, and a
//!    rebuild that is broken off leaves only a file that the next one replaces.
//! 3. [`switch`] renames the old file aside and the new one into its place. If
//!    the machine stops in between there is no store, and the next start fills
//!    one from the log: nothing is lost.

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

/// How many events are asked of the log at once; they become one transaction.
const BATCH_EVENTS: usize = 4096;

/// The page cache while filling, in KiB: indexes are sorted, but keys come in any order.
const CACHE_KIB: u32 = 65_536;

/// Why a store was not made.
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
    /// Files cannot be renamed or removed.
    #[error("cannot replace {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The log, as a rebuild reads it: from a position, so many events.
pub type ReadLog<'a> = dyn FnMut(u64, usize) -> Result<Vec<Arc<Commit>>, String> + Send + 'a;

/// Makes a store at `path` from the events up to position `until`. A file that is there is replaced.
/// `is_private` is as in [`StoreOptions`].
///
/// `progress` is told the position after every batch.
///
/// # Errors
/// See [`RebuildError`]; the file is not usable then.
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
    // A file that is not finished is thrown away, so it may be in any state until then; SQLite merges
    // as it likes, and the checksums come at the end.
    sqlx::raw_sql("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 8000;")
        .execute(&mut conn)
        .await?;
    let indexes = lift_indexes(&mut conn).await?;
    let mut state = WriterState::new(Dialect::Sqlite);
    state.indexing = Indexing::Later;
    while state.checkpoint < until {
        let commits = read(state.checkpoint + 1, BATCH_EVENTS).map_err(RebuildError::Log)?;
        let wanted = commits
            .iter()
            .filter(|commit| commit.last_position() <= until);
        let wanted: Vec<_> = wanted.cloned().collect();
        if wanted.is_empty() {
            let position = state.checkpoint + 1;
            return Err(RebuildError::Log(format!("it has no position {position}")));
        }
        state.apply(&mut Conn::file(&mut conn), &wanted).await?;
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

/// Drops the indexes that nothing needs while the store is filled; returns the statements, those of the
/// migrations, that make them again.
async fn lift_indexes(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let made = "SELECT sql FROM sqlite_schema WHERE name IN ('_history_stream', '_relation_back')";
    let made = sqlx::query_scalar(made).fetch_all(&mut *conn).await?;
    sqlx::raw_sql("DROP INDEX _history_stream; DROP INDEX _relation_back;")
        .execute(conn)
        .await?;
    Ok(made)
}

/// The ending of a store that another was put into the place of.
pub const PREVIOUS: &str = "previous";

/// Puts the store at `new` into the place of the one at `current`, which is kept beside it with
/// the ending [`PREVIOUS`]. Nobody may have either open.
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

/// Renames a file, if it is there.
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
