//! The indexes of a store's file, seen from another process or with the server at rest.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions as _, Connection as _};

use super::keeper;
use super::table::{self, IndexEntry};
use crate::projection::sqlite::{self, StoreOptions};
use crate::projection::sums;

/// Lists the indexes that queries or people asked for.
///
/// # Errors
/// The file does not open or cannot be read.
pub async fn list_indexes(path: &Path) -> Result<Vec<IndexEntry>, sqlx::Error> {
    let options = sqlite::reader_options(path, &StoreOptions::default());
    let mut conn = options.connect().await?;
    let entries = table::load(&mut conn).await;
    conn.close().await?;
    entries
}

/// Says what is wanted of an index: its wish, whether it is pinned, and why. The server follows
/// within seconds, or at its next start. Returns the entry as it is now.
///
/// # Errors
/// The file does not open or cannot be written.
pub async fn set_index(path: &Path, wanted: IndexEntry) -> Result<IndexEntry, sqlx::Error> {
    let mut conn = sqlite::open_beside(path).await?;
    let entry = keeper::wish(&mut conn, wanted).await;
    close(conn, path).await?;
    entry
}

/// Takes over what is known of the indexes of the store at `old` into the one at `new`, which makes
/// them when it is looked after next.
///
/// # Errors
/// A file does not open, or cannot be read or written.
pub async fn carry_over_indexes(old: &Path, new: &Path) -> Result<(), sqlx::Error> {
    let entries = list_indexes(old).await?;
    let mut conn: SqliteConnection = sqlite::open_beside(new).await?;
    let done = keeper::carry_over(&mut conn, entries).await;
    close(conn, new).await?;
    done
}

async fn close(mut conn: SqliteConnection, path: &Path) -> Result<(), sqlx::Error> {
    sums::merge(&mut conn, path).await?;
    conn.close().await
}
