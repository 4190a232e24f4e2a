//! `skytrail rebuild --to`: moves the record store while the server keeps serving.
//!
//! 1. The new store is filled from the log, next to the running server, until it is a few events
//!    behind. It knows its position, so a move that was interrupted continues there.
//! 2. A note in the data folder says where the store is now ([`crate::record_store::moved`]). The
//!    server restarts with it, in the same process, and applies the last events. Before that, it
//!    imports what others have changed in the old store by SQL ([`crate::record_store::leaving`]).

use std::path::Path;
use std::time::Duration;

use skytrail_actors::log::LogOpenError;
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::store::RecordStore as _;
use tokio::time::{Instant, sleep};

use super::rebuild::{no_room, progress_bar};
use super::rebuild_server::{fill, open};
use super::{complain, open_log, say};
use crate::causes::with_causes;
use crate::config::{Config, Database};
use crate::projection::index::{StorePlace, carry_over_indexes};
use crate::projection::{SqlStore, StoreOptions, list_theirs, place_of, remove};
use crate::proof::{NotOpened, open_signed};
use crate::record_store::leaving;
use crate::record_store::leftovers::Filling;
use crate::record_store::moved::{self, Note};
use crate::record_store::origin::check_origin;

/// A lag that a starting server catches up with in no time, in events.
const FEW_EVENTS: u64 = 512;

/// The greatest number of attempts to get within that lag. If the log grows faster than a store can
/// be filled, the server does the rest at its start.
const MAX_ROUNDS: usize = 20;

/// How long to wait until the server uses the new store.
const MAX_WAIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

/// Moves the store to the database at an address, or with `file` into the data folder.
pub(super) async fn run(config: &Config, to: &str) -> Result<(), String> {
    let database = target(config, to)?;
    let url = database.as_ref().map(|it| it.url.reveal().to_owned());
    let current = config.database.as_ref().map(|it| it.url.reveal());
    if url.as_deref() == current {
        return Err("the record store is already there".into());
    }
    if let (Some(old), None) = (&config.database, &database) {
        leaving::check_parked(&config.app.name, old).await?;
    }
    // Kept open until the end: if no server runs, none may start meanwhile.
    let held = match open_signed(&config.data_dir, JournalOptions::default()) {
        Err(NotOpened::Log(LogOpenError::InUse(_))) => None,
        opened => Some(opened.map_err(|error| error.to_string())?),
    };
    // Held until the server uses the file as its own store.
    let filling = database.is_none().then(|| Filling::begin(&config.data_dir));
    let filling = filling.transpose();
    let _filling = filling.map_err(|error| no_room(&config.data_dir, &error))?;
    let store = match &database {
        Some(database) => {
            let opened = open(&config.app.name, database).await;
            let place = place_of(database.url.reveal());
            opened.map_err(|error| format!("{place}: {error}"))?
        }
        None => open_file(config).await?,
    };
    let filled = catch_up(config, &store).await;
    let closed = store.close().await.map_err(|error| error.to_string());
    let position = filled.and_then(|position| closed.map(|()| position))?;
    keep_indexes(config, database.as_ref()).await;
    let noted = moved::write(config, &Note::new(url.clone(), config.database.as_ref()));
    noted.map_err(|error| format!("the move cannot be recorded: {error}"))?;
    let who = match held {
        Some(_) => "the next start uses it",
        None => {
            await_server(config, &url).await?;
            "the server uses it now"
        }
    };
    let setting = match database {
        Some(_) => "set DATABASE_URL to the address",
        None => "remove DATABASE_URL",
    };
    say(&format!(
        "moved up to event {position}; {who}. Now {setting}: until then, record-store.json in {} \
         takes its place. The old store is kept; drop it when you no longer need it",
        config.data_dir.display()
    ));
    if let Some(old) = &config.database {
        tell_of_theirs(&config.app.name, old).await;
    }
    Ok(())
}

/// Names what other programs have created next to the old store: it stays there.
async fn tell_of_theirs(app: &str, old: &Database) {
    match list_theirs(old.url.reveal(), app).await {
        Ok(left) if left.is_empty() => {}
        Ok(left) => say(&format!(
            "what other programs created in the old database stays there: {}",
            left.join(", ")
        )),
        Err(error) => complain(&format!(
            "what other programs created in the old database stays there, and cannot be listed: {}",
            with_causes(&error)
        )),
    }
}

fn target(config: &Config, to: &str) -> Result<Option<Database>, String> {
    if to == "file" {
        return Ok(None);
    }
    let is_postgres = to.starts_with("postgres://") || to.starts_with("postgresql://");
    if !is_postgres {
        return Err("--to wants postgres://USER:PASSWORD@HOST/DATABASE, or file".into());
    }
    Ok(Some(Database::at(to.to_owned(), config.database.clone())))
}

/// Opens the file in the data folder; replaces it if it is damaged.
async fn open_file(config: &Config) -> Result<SqlStore, String> {
    let (path, options) = (config.store_path(), StoreOptions::default());
    let failed = |error: &(dyn std::error::Error + 'static)| with_causes(error);
    match SqlStore::open_file(&path, &options).await {
        Err(error) if error.is_damage() => {
            remove(&path).map_err(|error| failed(&error))?;
            let opened = SqlStore::open_file(&path, &options).await;
            opened.map_err(|error| failed(&error))
        }
        opened => opened.map_err(|error| failed(&error)),
    }
}

/// Applies the log until the store has nearly caught up with it; returns the store's checkpoint.
async fn catch_up(config: &Config, store: &SqlStore) -> Result<u64, String> {
    let segments = open_log(config)?;
    let mut head = segments.head();
    let mut position = check_origin(store, &config.app.name, (&segments, head)).await?;
    let bar = progress_bar(head)?;
    for _ in 0..MAX_ROUNDS {
        bar.set_length(head);
        fill(store, &open_log(config)?, (position, head), &bar).await?;
        position = head;
        head = open_log(config)?.head();
        if head - position <= FEW_EVENTS {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(position)
}

/// Copies which indexes queries needed and which ones were asked for.
async fn keep_indexes(config: &Config, to: Option<&Database>) {
    let path = config.store_path();
    let from = place(config, config.database.as_ref(), &path);
    let to = place(config, to, &path);
    if let Err(error) = carry_over_indexes(from, to).await {
        complain(&format!(
            "the old store's indexes are lost: {}",
            with_causes(&error)
        ));
    }
}

fn place<'a>(config: &'a Config, database: Option<&'a Database>, path: &'a Path) -> StorePlace<'a> {
    match database {
        Some(database) => StorePlace::Server {
            url: database.url.reveal(),
            app: &config.app.name,
        },
        None => StorePlace::File(path),
    }
}

/// Waits until the running server uses the new store, at `url` or in the file.
async fn await_server(config: &Config, url: &Option<String>) -> Result<(), String> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        match moved::read(config).map_err(|error| error.to_string())? {
            Some(note) if note.is_taken && note.database_url == *url => return Ok(()),
            Some(Note {
                is_taken: false, ..
            }) if Instant::now() < deadline => sleep(PAUSE).await,
            Some(Note {
                is_taken: false, ..
            }) => {
                return Err("the server does not use the new store yet: see its log".into());
            }
            // The server has gone back to the old store.
            None | Some(_) => {
                return Err("the server cannot use the new store: see its log".into());
            }
        }
    }
}
