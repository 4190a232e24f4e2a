//! The indexes of a store's file, seen from another process or with the server at rest.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions as _, Connection as _};

use super::{StoreOptions, open_beside, reader_options, sums};
use crate::projection::conn::Conn;
use crate::projection::index::{IndexEntry, carry_over, load, wish};

/// Lists the indexes that queries or people asked for.
///
/// # Errors
/// The file does not open or cannot be read.
pub async fn list_indexes(path: &Path) -> Result<Vec<IndexEntry>, sqlx::Error> {
    let options = reader_options(path, &StoreOptions::default());
    let mut conn = options.connect().await?;
    let entries = load(&mut Conn::Sqlite(&mut conn)).await;
    conn.close().await?;
    entries
}

/// Says what is wanted of an index: its wish, whether it is pinned, and why. The server follows
/// within seconds, or at its next start. Returns the entry as it is now.
///
/// # Errors
/// The file does not open or cannot be written.
pub async fn set_index(path: &Path, wanted: IndexEntry) -> Result<IndexEntry, sqlx::Error> {
    let mut conn = open_beside(path).await?;
    let entry = wish(&mut Conn::Sqlite(&mut conn), wanted).await;
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
    let mut conn: SqliteConnection = open_beside(new).await?;
    let done = carry_over(&mut Conn::Sqlite(&mut conn), entries).await;
    close(conn, new).await?;
    done
}

async fn close(mut conn: SqliteConnection, path: &Path) -> Result<(), sqlx::Error> {
    sums::merge(&mut conn, path).await?;
    conn.close().await
}
