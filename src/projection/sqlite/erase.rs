//! Removes what events held, down to the last byte of the file.
//!
//! The rows have been deleted by events already. But SQLite leaves their contents in free pages, in
//! the gaps of pages that were split, and in the write-ahead file. So the file is rewritten from
//! its rows (`VACUUM`), and the write-ahead file truncated. The time grows with the size of the
//! file, and the work needs space for two copies of it. Erasures that arrive together are done
//! together.

use std::path::Path;
use std::time::Duration;

use skytrail_actors::erasure::HolderError;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use super::{open_beside, sums};

/// How often to try to truncate the write-ahead file while somebody reads it, and the pause in
/// between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// Rewrites the file and truncates the write-ahead file. It uses a connection of its own, which
/// keeps what it sorts in a file and not in memory.
pub(in crate::projection) async fn scrub(path: &Path) -> Result<(), sqlx::Error> {
    let mut conn = open_beside(path).await?;
    let scrubbed = write_anew(&mut conn, path).await;
    let closed = conn.close().await;
    scrubbed.and(closed)
}

async fn write_anew(conn: &mut SqliteConnection, path: &Path) -> Result<(), sqlx::Error> {
    sqlx::query("VACUUM").execute(&mut *conn).await?;
    for _ in 0..TRIES {
        sums::merge(conn, path).await?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
        let is_busy: i64 = row.fetch_one(&mut *conn).await?.try_get(0)?;
        if is_busy == 0 {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let message = "a reader still uses the write-ahead file".to_owned();
    Err(sqlx::Error::Protocol(message))
}

/// SQLite's code for a full disk.
const FULL: &str = "13";

#[expect(clippy::needless_pass_by_value, reason = "the form of map_err")]
pub(crate) fn failed(error: sqlx::Error) -> HolderError {
    let code = error.as_database_error().and_then(|error| error.code());
    if code.as_deref() == Some(FULL) {
        return HolderError::DiskFull;
    }
    HolderError::Failed(error.to_string())
}
