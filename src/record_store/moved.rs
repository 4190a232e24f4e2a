//! Where `skytrail rebuild --to` has moved the record store.
//!
//! The settings say where the store is. A move while the server runs is noted in a file in the data
//! folder. The note takes precedence over the settings until both name the same store, so a restart
//! continues with the store that the server moved to, whatever the settings still say.
//!
//! 1. The command fills the new store while the server runs, and writes the note.
//! 2. The server sees the note, stops, and starts again in the same process with the new store. It
//!    applies what is missing, and marks the note as taken. If the store cannot be used, the note
//!    is deleted and the server returns to the old one.
//!
//! The store is a projection of the log and knows how far it is. Whichever one is chosen, nothing
//! is lost or applied twice.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skytrail_actors::log::{sync_folder, write_whole};

use crate::config::{Config, Database};

/// How often a server looks for a note.
const PERIOD: Duration = Duration::from_millis(500);

/// Where a store was moved to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The address of a PostgreSQL database; `None` means the file in the data folder.
    pub(crate) database_url: Option<String>,
    /// Whether a server uses it.
    #[serde(default)]
    pub(crate) is_taken: bool,
    /// Where it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left: Option<Left>,
}

/// Where a store was before it was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    /// The address of a PostgreSQL database; `None` means the file in the data folder.
    pub(crate) database_url: Option<String>,
}

impl Note {
    /// Creates the note of a move that no server knows of yet.
    pub(crate) fn new(database_url: Option<String>, left: Option<&Database>) -> Self {
        let left = left.map(|database| database.url.reveal().to_owned());
        Self {
            database_url,
            is_taken: false,
            left: Some(Left { database_url: left }),
        }
    }
}

fn path(config: &Config) -> PathBuf {
    config.data_dir.join("record-store.json")
}

/// Reads the note, if there is one.
pub(crate) fn read(config: &Config) -> io::Result<Option<Note>> {
    match fs::read(path(config)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the note, whole or not at all, and readable by the owner only.
pub(crate) fn write(config: &Config, note: &Note) -> io::Result<()> {
    write_whole(&path(config), &serde_json::to_vec(note)?)
}

/// Removes the note.
pub(crate) fn remove(config: &Config) -> io::Result<()> {
    match fs::remove_file(path(config)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(&config.data_dir),
    }
}

fn url_of(config: &Config) -> Option<&str> {
    let database = config.database.as_ref();
    database.map(|database| database.url.reveal())
}

/// Returns the settings with the store that it was moved to, if it was.
pub(crate) fn with_moved_store(config: &Config) -> io::Result<Config> {
    Ok(match read(config)? {
        Some(note) => with_store_at(config, note.database_url),
        None => config.clone(),
    })
}

/// Returns the settings with the store that a move leaves, while no server uses the new one yet.
pub(crate) fn with_store_that_is_left(config: &Config) -> io::Result<Option<Config>> {
    let note = read(config)?.filter(|note| !note.is_taken);
    let left = note.and_then(|note| note.left);
    Ok(left.map(|left| with_store_at(config, left.database_url)))
}

fn with_store_at(config: &Config, url: Option<String>) -> Config {
    let mut moved = config.clone();
    if url.as_deref() != url_of(config) {
        let options = config.database.clone();
        moved.database = url.map(|url| Database::at(url, options));
    }
    moved
}

/// Marks the store that was moved to as in use, after a start that succeeded. A note that is marked
/// already is deleted once the settings name the same store.
pub(crate) fn confirm(config: &Config) -> io::Result<()> {
    match read(config)? {
        None => Ok(()),
        Some(note) if note.database_url.as_deref() == url_of(config) && note.is_taken => {
            remove(config)
        }
        Some(note) => {
            if note.is_taken {
                tracing::warn!(
                    "the record store was moved, and DATABASE_URL does not name its new place: {} \
                     takes precedence",
                    path(config).display()
                );
            }
            write(
                config,
                &Note {
                    is_taken: true,
                    left: None,
                    ..note
                },
            )
        }
    }
}

/// Gives up a move to a store that cannot be used; returns whether there was one.
pub(crate) fn give_up(config: &Config) -> io::Result<bool> {
    let Some(note) = read(config)?.filter(|note| !note.is_taken) else {
        return Ok(false);
    };
    match note.left {
        Some(left) if left.database_url.as_deref() != url_of(config) => {
            let back = Note {
                database_url: left.database_url,
                is_taken: true,
                left: None,
            };
            write(config, &back)?;
        }
        _ => remove(config)?,
    }
    Ok(true)
}

/// Waits until the store has been moved.
pub(crate) async fn moved(config: &Config) {
    loop {
        tokio::time::sleep(PERIOD).await;
        match read(config) {
            Ok(Some(note)) if !note.is_taken => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the note of the record store's move is not readable")
            }
        }
    }
}
