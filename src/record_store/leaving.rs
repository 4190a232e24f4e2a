//! Leaves a record store that other programs may have written to by SQL for another one.
//!
//! 1. The old store is closed to them, and their remaining changes are written to the log.
//! 2. The new store is brought up to the log, as at any start. What is parked in the old one is
//!    moved to it.
//!
//! After an interruption this starts again with the next start: the old store's outbox says what is
//! missing.

use crate::causes::with_causes;
use crate::config::{Config, Database};
use crate::projection::{count_parked, move_captured};
use crate::record_store::offline::Offline;

/// Brings what the store of `old` has and the log has not into the log and the store of `new`.
/// Needs an actor system.
///
/// # Errors
/// Returns a sentence: the old store cannot be read, or something could not be brought over.
pub(crate) async fn leave(old: &Config, new: &Config) -> Result<(), String> {
    let Some(database) = &old.database else {
        return Ok(());
    };
    ingest_remaining(old).await?;
    let app = old.app.name.as_str();
    let old_store = (database.url.reveal(), app);
    let carried = match &new.database {
        Some(database) => move_captured(old_store, (database.url.reveal(), app)).await,
        None => count_parked(old_store).await.map(warn_of_parked),
    };
    carried.map_err(|error| with_causes(&error))
}

/// Closes the store to other programs and writes their remaining changes to the log.
pub(crate) async fn ingest_remaining(config: &Config) -> Result<(), String> {
    let offline = Offline::open_with(config).await?;
    let taken = offline.ingest_remaining().await;
    taken.and(offline.close().await)
}

/// Refuses a move into a file while something is parked, since a file cannot hold that.
pub(crate) async fn check_parked(app: &str, old: &Database) -> Result<(), String> {
    let counted = count_parked((old.url.reveal(), app)).await;
    match counted.map_err(|error| with_causes(&error))? {
        0 => Ok(()),
        num_rows => Err(format!(
            "{num_rows} rows changed by SQL are parked, and a file cannot hold them: see skytrail \
             captured list, and retry or discard them first"
        )),
    }
}

fn warn_of_parked(num_rows: u64) {
    if num_rows > 0 {
        tracing::warn!(
            num_rows,
            "rows changed by SQL stay parked in the old database"
        );
    }
}
