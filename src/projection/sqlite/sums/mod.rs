//! Checksums of the store's pages, in a file of their own. They reveal a flipped bit, and a page
//! that was lost, zeroed or put in another's place, whichever table or index it belongs to.
//!
//! SQLite has checksums in its write-ahead file, but none in the database file. That file changes
//! only when the write-ahead file is merged into it, so this is where the checksums are computed:
//!
//! 1. [`merge`] walks the write-ahead file and flushes it. Then it writes the checksums of the
//!    pages in it, and flushes them. Then it makes SQLite merge. Whenever that is interrupted, a
//!    page has its checksum or is still in the write-ahead file, which takes precedence. [`Merger`]
//!    has walked and flushed most of the file beforehand.
//! 2. Nobody else merges: SQLite's own checkpoints are off, and every writer calls [`merge`] before
//!    it closes. If SQLite did merge at a last close, pages would differ from their checksums, and
//!    the store would be made anew for nothing: slow, but not wrong.
//! 3. [`find_damage`] compares the whole file, at every start and once a period.

mod file;
mod wal;

use std::io;
use std::path::{Path, PathBuf};

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use tokio::task::JoinHandle;

use self::file::SumFile;
use self::wal::Walk;
use super::held::HeldFile;

/// The page size of every store.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The files that belong to a store's file, as suffixes; the file itself is last.
pub(crate) const PARTS: [&str; 4] = ["-sums", "-wal", "-shm", ""];

/// SQLite keeps locks at this offset and never stores the page there.
const LOCK_PAGE: u32 = (1 << 30) / PAGE_BYTES as u32 + 1;

/// What is wrong with a store's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Pages differ from their checksums: some of them, not necessarily all.
    Pages(Vec<u32>),
    /// The file or a companion is wrong as a whole.
    Whole(&'static str),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pages(pages) => {
                let first = pages.first().copied().unwrap_or_default();
                let more = pages.len().saturating_sub(1);
                let offset = u64::from(first.saturating_sub(1)) * PAGE_BYTES as u64;
                write!(
                    out,
                    "page {first} at offset {offset} differs from its checksum"
                )?;
                if more > 0 {
                    write!(out, ", and at least {more} more")?;
                }
                Ok(())
            }
            Self::Whole(what) => out.write_str(what),
        }
    }
}

/// Returns the path of a part of the store at `path`.
pub(crate) fn part(path: &Path, ending: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(ending);
    PathBuf::from(text)
}

/// Merges the write-ahead file into the database file, checksums first. Nothing else may write on
/// the connection meanwhile.
pub(crate) async fn merge(conn: &mut SqliteConnection, path: &Path) -> Result<(), sqlx::Error> {
    merge_from(Walk::default(), conn, path).await.map(drop)
}

/// Merges; returns the walk along the write-ahead file, which may have been started before.
async fn merge_from(
    mut walk: Walk,
    conn: &mut SqliteConnection,
    path: &Path,
) -> Result<Walk, sqlx::Error> {
    loop {
        // Held until SQLite has merged, since another process may want to merge as well.
        let sums;
        (walk, sums) = blocking(path, |path| {
            let mut sums = SumFile::open_to_write(path)?;
            take_in(&mut walk, path)?;
            if walk.found().num_frames > 0 {
                sums.put(walk.found())?;
            }
            Ok((walk, sums))
        })
        .await?;
        let row = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
            .fetch_one(&mut *conn)
            .await?;
        let num_frames: i64 = row.try_get(1)?;
        drop(sums);
        if num_frames <= i64::from(walk.found().num_frames) {
            return Ok(walk);
        }
    }
}

/// Walks the write-ahead file to its end, and makes it durable up to there.
fn take_in(walk: &mut Walk, path: &Path) -> io::Result<()> {
    walk.go_on(path)?;
    walk.flush(path)
}

/// Merges whenever the write-ahead file has become long.
///
/// The slowest part, walking and flushing that file, is done piece by piece next to the writer. So
/// the writer is not held up by it, and the journal's flushes do not wait for a long one.
pub(crate) struct Merger {
    path: PathBuf,
    max_frames: u32,
    walk: Ahead,
}

/// What is known of the write-ahead file.
enum Ahead {
    Resting(Walk),
    Walking(JoinHandle<io::Result<Walk>>),
}

impl Merger {
    /// Prepares to merge the store at `path` after `max_frames`.
    pub(crate) fn new(path: &Path, max_frames: u32) -> Self {
        Self {
            path: path.to_owned(),
            max_frames,
            walk: Ahead::Resting(Walk::default()),
        }
    }

    /// Does what is due. Nothing else may write on the connection meanwhile.
    pub(crate) async fn go_on(&mut self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let row = sqlx::query("PRAGMA wal_checkpoint(NOOP)")
            .fetch_one(&mut *conn)
            .await?;
        let (num_frames, num_merged): (u32, u32) = (row.try_get(1)?, row.try_get(2)?);
        let waiting = num_frames.saturating_sub(num_merged);
        let is_urgent = waiting >= self.max_frames * 2;
        let walk = match std::mem::take(&mut self.walk) {
            Ahead::Resting(walk) => walk,
            Ahead::Walking(task) if is_urgent || task.is_finished() => task
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)))?,
            walking => {
                self.walk = walking;
                return Ok(());
            }
        };
        let known = walk.found().num_frames;
        // There are fewer than are known: the file has started over.
        let unknown = num_frames.checked_sub(known).unwrap_or(num_frames);
        let is_due = waiting >= self.max_frames;
        // A fast writer is never less than a piece ahead.
        let piece = self.max_frames / if is_due { 4 } else { 16 };
        self.walk = if unknown >= piece && !is_urgent {
            self.walk_on(walk)
        } else if is_due {
            Ahead::Resting(merge_from(walk, conn, &self.path).await?)
        } else {
            Ahead::Resting(walk)
        };
        Ok(())
    }

    fn walk_on(&self, mut walk: Walk) -> Ahead {
        let path = self.path.clone();
        Ahead::Walking(tokio::task::spawn_blocking(move || {
            take_in(&mut walk, &path)?;
            Ok(walk)
        }))
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Self::Resting(Walk::default())
    }
}

/// Computes the checksums of the store at `path`, which has just been created, as it is.
pub(crate) async fn seal(path: &Path, store: &HeldFile) -> Result<(), sqlx::Error> {
    let store = store.clone();
    blocking(path, move |path| SumFile::create(path)?.sum_all(&store)).await
}

/// Compares the store at `path` with its checksums: `only` some of its pages, or all. Others can
/// use it meanwhile, but during a merge pages may seem to differ that do not.
pub(crate) async fn find_damage(
    path: &Path,
    store: &HeldFile,
    only: Option<Vec<u32>>,
) -> Result<Option<Damage>, sqlx::Error> {
    let store = store.clone();
    blocking(path, move |path| compare(path, &store, only.as_deref())).await
}

/// Checks some pages, cheaply, while the store is in use. Returns those that seem to differ, for
/// [`find_damage`] to compare while nobody merges; `None` after the last page.
pub(crate) async fn look_over(
    path: &Path,
    store: &HeldFile,
    first: u32,
    count: u32,
) -> Result<Option<Vec<u32>>, sqlx::Error> {
    let store = store.clone();
    blocking(path, move |path| {
        let mut store = file::Pages::of(&store)?;
        let sums = file::read_some(path, first, count)?;
        let end = store.num_pages().unwrap_or_default().saturating_add(1);
        if first >= end {
            return Ok(None);
        }
        let mut seeming = Vec::new();
        for page in first..end.min(first.saturating_add(count)) {
            let expected = sums.get((page - first) as usize).copied();
            if page != LOCK_PAGE && Some(store.sum(page)?) != expected {
                seeming.push(page);
            }
        }
        Ok(Some(seeming))
    })
    .await
}

fn compare(path: &Path, store: &HeldFile, only: Option<&[u32]>) -> io::Result<Option<Damage>> {
    let whole = |what| Ok(Some(Damage::Whole(what)));
    let Some(sums) = file::read(path)? else {
        return whole("its checksums are missing or damaged");
    };
    let mut walk = Walk::default();
    walk.go_on(path)?;
    let wal = walk.found();
    if wal.salts == sums.salts && wal.num_frames < sums.num_frames {
        return whole("its write-ahead file has lost content");
    }
    let mut store = file::Pages::of(store)?;
    let Some(num_pages) = store.num_pages() else {
        return whole("its length is not a whole number of pages");
    };
    let num_pages = num_pages.max(sums.num_pages());
    let mut wrong = Vec::new();
    let mut look = |page: u32| -> io::Result<()> {
        // Pages that the write-ahead file leaves out are cut off when it is merged.
        let is_cut = wal.num_frames > 0 && page > wal.num_pages;
        if page == LOCK_PAGE || is_cut || wal.sums.contains_key(&page) {
            return Ok(());
        }
        if store.sum(page)? != sums.get(page) {
            wrong.push(page);
        }
        Ok(())
    };
    match only {
        Some(pages) => pages.iter().copied().try_for_each(&mut look)?,
        None => (1..=num_pages).try_for_each(&mut look)?,
    }
    wrong.truncate(MAX_NAMED);
    Ok((!wrong.is_empty()).then_some(Damage::Pages(wrong)))
}

/// The maximum number of wrong pages that are named.
const MAX_NAMED: usize = 1000;

/// Computes a page's checksum. It is 0 for a page of zeros, which may never have been written, and
/// for no other.
fn sum_of(page: &[u8]) -> u32 {
    if page.iter().all(|byte| *byte == 0) {
        return 0;
    }
    crc32fast::hash(page).max(1)
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, sqlx::Error> {
    let path = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(sqlx::Error::Io)
}

#[cfg(test)]
mod tests;
