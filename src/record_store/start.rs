//! The record store at a start: it is opened, made anew if necessary, and brought up to the log.

use std::path::{Path, PathBuf};
use std::time::Duration;

use skytrail_actors::log::OpenedLog;
use skytrail_actors::store::{RecordStore as _, Snapshot, StoreError, UnavailableReason};
use tokio::time::{Instant, sleep};

use crate::app::StartError;
use crate::causes::with_causes;
use crate::config::{Config, Database};
use crate::projection::index::{IndexLimits, StorePlace, carry_over_indexes};
use crate::projection::{
    OpenError, PARTS, ServerOptions, SqlStore, StoreOptions, bring_back, damage_marker,
    drop_leftovers, find_hindrance, is_transient, part, remove,
};
use crate::record_store::erased::{ErasedMeanwhile, may_have_erased};
use crate::record_store::numbers;
use crate::record_store::origin::find_foreign;

/// How long a start waits for a database that cannot be used, and the pause between two attempts.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// How many events are applied at once while the store catches up.
pub(super) const CATCH_UP_EVENTS: usize = 4096;

/// Opens the record store and brings it up to the log. When this finds damage, the damage is
/// recorded and the second attempt begins with a new store.
///
/// Returns its content as well, and the position after which an erasure that it lacks has ended.
pub(crate) async fn ready_store(
    config: &Config,
    log: &OpenedLog,
) -> Result<(SqlStore, Snapshot, u64), StartError> {
    if let Some(database) = &config.database {
        let store = open_server(&config.app.name, database, log).await?;
        let caught_up = catch_up(&store, log).await;
        if caught_up.is_err() {
            // The next attempt must not find this connection in the database.
            let _ = store.close().await;
        }
        let (snapshot, behind_since) = caught_up?;
        return Ok((store, snapshot, behind_since));
    }
    tracing::info!(
        file = %config.store_path().display(),
        "other programs may read the record store; what they write there is not noticed"
    );
    let store = open_store(config, log).await?;
    match catch_up(&store, log).await {
        Ok((snapshot, behind_since)) => return Ok((store, snapshot, behind_since)),
        Err(error) if !damage_marker(&config.store_path()).exists() => {
            return Err(explained(error, &config.store_path()));
        }
        Err(_) => {}
    }
    // A damaged store may fail to close; its file is renamed either way.
    let _ = store.close().await;
    let store = open_store(config, log).await?;
    let (snapshot, behind_since) = catch_up(&store, log).await?;
    Ok((store, snapshot, behind_since))
}

/// Adds what is wrong with the store's files, which SQLite's own errors do not name.
fn explained(error: StartError, path: &Path) -> StartError {
    match (error, find_hindrance(path)) {
        (StartError::Store(why), Some(hindrance)) => {
            StartError::Store(format!("{why}: {hindrance}"))
        }
        (error, _) => error,
    }
}

/// Opens the record store in PostgreSQL. A store of another log is left alone and the start is
/// refused, since that store may be in use.
async fn open_server(
    app: &str,
    database: &Database,
    log: &OpenedLog,
) -> Result<SqlStore, StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Store(error.to_string());
    let options = ServerOptions {
        app: app.to_owned(),
        max_readers: database.connections,
        max_wait: database.wait,
        synchronous_commit: database.synchronous_commit,
        statement_timeout: database.statement_timeout,
        index_limits: IndexLimits::default(),
    };
    let store = connect(database, &options).await?;
    let head = log.report().head;
    let checked = async {
        let snapshot = retry_while_unavailable(async || store.load_snapshot().await).await?;
        let checkpoint = snapshot.checkpoint;
        let origin = retry_while_unavailable(async || store.origin().await).await?;
        let foreign = find_foreign((checkpoint, &origin), (&log.segments(), head));
        match foreign.map_err(|error| failed(&error))? {
            None => Ok(()),
            Some(foreign) => Err(StartError::Store(foreign.advise(app))),
        }
    };
    let checked = checked.await;
    if checked.is_err() {
        let _ = store.close().await;
    }
    checked?;
    // They may contain what is erased meanwhile.
    if let Err(error) = drop_leftovers(database.url.reveal(), app).await {
        let error = with_causes(&error);
        tracing::warn!(
            error,
            "what commands left next to the record store cannot be dropped"
        );
    }
    // Earlier versions left there what other programs had created.
    match bring_back(database.url.reveal(), app).await {
        Ok(told) => {
            for what in told {
                tracing::warn!("{what}");
            }
        }
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!(
                error,
                "what other programs have next to the record store cannot be brought back"
            );
        }
    }
    Ok(store)
}

/// Opens the store, and waits a while for a database that cannot be used yet. It may still be
/// starting, or may not have noticed that the previous server is gone.
async fn connect(database: &Database, options: &ServerOptions) -> Result<SqlStore, StartError> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut is_logged = false;
    loop {
        match SqlStore::open_server(database.url.reveal(), options).await {
            Ok(store) => return Ok(store),
            Err(OpenError::Database(error))
                if Instant::now() < deadline && is_transient(&error) =>
            {
                if !is_logged {
                    tracing::warn!(%error, "the database cannot be used yet");
                    is_logged = true;
                }
            }
            Err(error) => {
                let text = format!("{} (see DATABASE_URL)", with_causes(&error));
                return Err(match error {
                    OpenError::Database(error) if is_transient(&error) => {
                        StartError::StoreAway(text)
                    }
                    _ => StartError::Store(text),
                });
            }
        }
        sleep(PAUSE).await;
    }
}

/// Retries work in the record store for a while when its database cannot do it at present.
pub(crate) async fn retry_while_unavailable<T>(
    work: impl AsyncFn() -> Result<T, StoreError>,
) -> Result<T, StartError> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut is_logged = false;
    loop {
        match work().await {
            Ok(done) => return Ok(done),
            // Only another start ends this.
            Err(
                error @ StoreError::Unavailable {
                    why: UnavailableReason::Behind,
                    ..
                },
            ) => {
                return Err(StartError::store(&error));
            }
            Err(StoreError::Unavailable { cause, .. }) if Instant::now() < deadline => {
                if !is_logged {
                    tracing::warn!(cause, "the database cannot be used yet");
                    is_logged = true;
                }
            }
            Err(error) => return Err(StartError::store(&error)),
        }
        sleep(PAUSE).await;
    }
}

/// Opens the record store; a damaged one is set aside and made anew.
///
/// A store that is ahead of the log is left alone and the start is refused: the store only receives
/// what is durable in the log, so the log has lost something.
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
                Ok(checkpoint) if checkpoint <= head => {
                    if !damage_marker(&path).exists() {
                        return Ok(store);
                    }
                    "it was found damaged".to_owned()
                }
                Ok(checkpoint) => {
                    let _ = store.close().await;
                    return Err(StartError::Store(format!(
                        "{} is at {checkpoint}, and the log below DATA_DIR ends at {head}: restore \
                         a backup into another folder, or, to continue with this log, run \
                         `skytrail rebuild`, which rebuilds the store from it and keeps the old \
                         one as records.previous",
                        path.display()
                    )));
                }
                Err(error) => error.to_string(),
            }
        }
        Err(error) if error.is_damage() => with_causes(&error),
        Err(error) => return Err(StartError::Store(with_causes(&error))),
    };
    tracing::warn!(
        why,
        "the record store is set aside and rebuilt from the log"
    );
    let aside = set_aside(&path).map_err(|source| StartError::Io {
        what: format!("{} cannot be set aside", path.display()),
        source,
    })?;
    let opened = SqlStore::open_file(&path, &options).await;
    let carried = carry_over_indexes(StorePlace::File(&aside), StorePlace::File(&path)).await;
    if let Err(error) = carried {
        tracing::warn!(%error, "the settings for indexes can no longer be read");
    }
    let opened = opened.map_err(|error| StartError::Store(with_causes(&error)))?;
    if let Err(reason) = drop_if_erased(&aside, log).await {
        tracing::error!(
            file = %aside.display(),
            reason,
            "the store that was set aside may have what was erased since; delete it"
        );
    }
    Ok(opened)
}

/// Deletes a store that was set aside if it may have what was erased since.
async fn drop_if_erased(aside: &Path, log: &OpenedLog) -> Result<(), String> {
    let checked = may_have_erased(StorePlace::File(aside), &log.segments()).await;
    if checked.map_err(|error| error.to_string())? {
        remove(aside).map_err(|error| with_causes(&error))?;
        tracing::warn!(
            file = %aside.display(),
            "the store that was set aside is deleted: it may have what was erased since"
        );
    }
    Ok(())
}

/// How the extension of a store that was set aside begins; a number follows.
pub(super) const SET_ASIDE: &str = "damaged-";

/// Renames a store and its companions.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let named = |number: u32| path.with_extension(format!("{SET_ASIDE}{number}"));
    let aside = (1..).map(named).find(|aside| !aside.exists());
    let aside = aside.unwrap_or_else(|| named(0));
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

/// Applies what the log has and the store lacks, so that what is kept in memory starts complete.
///
/// What was erased meanwhile is hidden; the eraser removes it for good, because others can delay that.
/// Returns the position after which it has to.
async fn catch_up(store: &SqlStore, log: &OpenedLog) -> Result<(Snapshot, u64), StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Store(error.to_string());
    let snapshot = retry_while_unavailable(async || store.load_snapshot().await).await?;
    let head = log.report().head;
    let found_at = snapshot.checkpoint;
    let segments = log.segments();
    let snapshot = match numbers::add_missing(store, &segments, found_at).await? {
        true => retry_while_unavailable(async || store.load_snapshot().await).await?,
        false => snapshot,
    };
    let mut erased = ErasedMeanwhile::begin(store, &segments, found_at).await?;
    if found_at == head && erased.since() == found_at {
        return Ok((snapshot, found_at));
    }
    let mut position = found_at;
    if position < head {
        tracing::info!(position, head, "the record store catches up with the log");
    }
    while position < head {
        let read = segments.read(position + 1, CATCH_UP_EVENTS);
        let commits = read.map_err(|error| failed(&error))?;
        let Some(last) = commits.last() else { break };
        position = last.last_position();
        erased.note(store, &commits).await?;
        retry_while_unavailable(async || store.apply(&commits).await).await?;
    }
    erased
        .hide_in(store)
        .await
        .map_err(|error| failed(&error))?;
    let snapshot = retry_while_unavailable(async || store.load_snapshot().await).await?;
    Ok((snapshot, erased.since()))
}
