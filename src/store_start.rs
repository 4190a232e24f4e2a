//! The record store at a start: opened, made anew if it has to be, and brought up to the log.

use std::path::{Path, PathBuf};

use skytrail_actors::log::OpenedLog;
use skytrail_actors::store::{RecordStore as _, Snapshot};

use crate::app::StartError;
use crate::config::Config;
use crate::projection::carry_over_indexes;
use crate::projection::{PARTS, SqlStore, StoreOptions, damage_marker, part};

/// How many events are applied at once while the store catches up.
const CATCH_UP_EVENTS: usize = 4096;

/// Opens the record store and brings it up to the log. Damage that is found on the way is noted, and
/// the second try begins with a new store.
pub(crate) async fn ready_store(
    config: &Config,
    log: &OpenedLog,
) -> Result<(SqlStore, Snapshot), StartError> {
    let store = open_store(config, log).await?;
    match catch_up(&store, log).await {
        Ok(snapshot) => return Ok((store, snapshot)),
        Err(error) if !damage_marker(&config.store_path()).exists() => return Err(error),
        Err(_) => {}
    }
    // A damaged store may not close well; its file is renamed either way.
    let _ = store.close().await;
    let store = open_store(config, log).await?;
    let snapshot = catch_up(&store, log).await?;
    Ok((store, snapshot))
}

/// Opens the record store; one that is damaged or not of this log is set aside and made anew.
async fn open_store(config: &Config, log: &OpenedLog) -> Result<SqlStore, StartError> {
    let path = config.store_path();
    let options = StoreOptions::default();
    let head = log.report().head;
    let opened = SqlStore::open_file(&path, &options).await;
    let why = match opened {
        Ok(store) => {
            let checkpoint = store
                .load_snapshot()
                .await
                .map(|snapshot| snapshot.checkpoint);
            match checkpoint {
                Ok(_) if damage_marker(&path).exists() => "it was found damaged".to_owned(),
                Ok(checkpoint) if checkpoint <= head => return Ok(store),
                Ok(checkpoint) => format!("it is at {checkpoint}, the log ends at {head}"),
                Err(error) => error.to_string(),
            }
        }
        Err(error) if error.is_damage() => error.to_string(),
        Err(error) => return Err(StartError::Store(error.to_string())),
    };
    tracing::warn!(
        why,
        "the record store is set aside and made anew from the log"
    );
    let aside = set_aside(&path).map_err(|source| StartError::Io {
        what: format!("{} cannot be set aside", path.display()),
        source,
    })?;
    let opened = SqlStore::open_file(&path, &options).await;
    if let Err(error) = carry_over_indexes(&aside, &path).await {
        tracing::warn!(%error, "what was said about indexes is not readable any more");
    }
    opened.map_err(|error| StartError::Store(error.to_string()))
}

/// Renames a store and its companions; nothing is deleted.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let number = (1..).find(|number| !path.with_extension(format!("damaged-{number}")).exists());
    let aside = path.with_extension(format!("damaged-{}", number.unwrap_or_default()));
    for ending in PARTS {
        match std::fs::rename(part(path, ending), part(&aside, ending)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match std::fs::remove_file(damage_marker(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(aside),
    }
}

/// Applies what the log has and the store has not, so that what is kept in memory starts complete.
async fn catch_up(store: &SqlStore, log: &OpenedLog) -> Result<Snapshot, StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Store(error.to_string());
    let mut snapshot = store
        .load_snapshot()
        .await
        .map_err(|error| failed(&error))?;
    let head = log.report().head;
    if snapshot.checkpoint == head {
        return Ok(snapshot);
    }
    let mut position = snapshot.checkpoint;
    tracing::info!(position, head, "the record store catches up with the log");
    while position < head {
        let read = log.segments().read(position + 1, CATCH_UP_EVENTS);
        let commits = read.map_err(|error| failed(&error))?;
        let Some(last) = commits.last() else { break };
        position = last.last_position();
        store
            .apply(&commits)
            .await
            .map_err(|error| failed(&error))?;
    }
    snapshot = store
        .load_snapshot()
        .await
        .map_err(|error| failed(&error))?;
    Ok(snapshot)
}
