//! Leaving a record store for another, when others may have written in it by SQL.
//!
//! 1. It is closed to them, and what they have left is taken into the log.
//! 2. The new store is brought up to the log, as at any start; what is parked in the old one comes along.
//!
//! Whatever is broken off is begun again with the next start: the old store's outbox says what is missing.

use crate::config::{Config, Database};
use crate::projection::with_causes;
use crate::projection::{carry_over_captured, count_parked};
use crate::record_store::offline::Offline;

/// Takes what is in the store of `old` and not in the log along into that of `new`. Needs an actor system.
///
/// # Errors
/// A sentence: the old store cannot be read, or something could not be taken in.
pub(crate) async fn leave(old: &Config, new: &Config) -> Result<(), String> {
    let Some(database) = &old.database else {
        return Ok(());
    };
    take_in_the_last(old).await?;
    let app = old.app.name.as_str();
    let left = (database.url.reveal(), app);
    let carried = match &new.database {
        Some(database) => carry_over_captured(left, (database.url.reveal(), app)).await,
        None => count_parked(left).await.map(warn_of_parked),
    };
    carried.map_err(|error| with_causes(&error))
}

/// Closes the store to others and takes what they have left into the log.
pub(crate) async fn take_in_the_last(config: &Config) -> Result<(), String> {
    let offline = Offline::open_with(config).await?;
    let taken = offline.take_in_the_last().await;
    taken.and(offline.close().await)
}

/// Refuses a move into a file, where nothing can be parked, while something is.
pub(crate) async fn check_parked(app: &str, old: &Database) -> Result<(), String> {
    let counted = count_parked((old.url.reveal(), app)).await;
    match counted.map_err(|error| with_causes(&error))? {
        0 => Ok(()),
        num_rows => Err(format!(
            "{num_rows} rows that SQL has changed are parked, and a file has no place for them: see \
             skytrail captured list, and retry or discard them first"
        )),
    }
}

fn warn_of_parked(num_rows: u64) {
    if num_rows > 0 {
        tracing::warn!(
            num_rows,
            "rows that SQL has changed stay parked in the database that was left"
        );
    }
}
