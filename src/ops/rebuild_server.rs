//! `skytrail rebuild` with the records in PostgreSQL.
//!
//! A store is filled in a schema next to the one in use.

use indicatif::ProgressBar;
use skytrail_actors::capture::CaptureSource as _;
use skytrail_actors::log::journal::{JournalOptions, Segments};
use skytrail_actors::store::RecordStore as _;

use super::rebuild::{describe, has_erased, progress_bar, report};
use super::{complain, open_log, say};
use crate::causes::with_causes;
use crate::config::{Config, Database};
use crate::projection::index::{IndexLimits, StorePlace, carry_over_indexes};
use crate::projection::{
    HeldStore, OpenError, ServerOptions, SqlStore, beside, check_old, copy_captured, count_waiting,
    digest_server, drop_leftovers, drop_old, drop_store, origin_server, switch_schemas,
};
use crate::proof::open_signed;
use crate::record_store::erased::ErasedMeanwhile;
use crate::record_store::leaving;
use crate::record_store::origin::{ForeignStore, check_origin, find_foreign};

/// How many events are applied at once.
const BATCH_EVENTS: usize = 4096;

/// Opens the store of `app`, and creates it if it does not exist. It is closed to others' writes
/// until a server uses it.
pub(super) async fn open(app: &str, database: &Database) -> Result<SqlStore, String> {
    let options = ServerOptions {
        app: app.to_owned(),
        max_readers: 2,
        max_wait: database.wait,
        // The switch to the new store waits for the disk, and so for every earlier write.
        synchronous_commit: false,
        statement_timeout: database.statement_timeout,
        index_limits: IndexLimits::default(),
    };
    let opened = SqlStore::open_server(database.url.reveal(), &options).await;
    let store = opened.map_err(|error| with_causes(&error))?;
    let closed = store.close_to_others().await;
    closed.map_err(|error| error.to_string())?;
    Ok(store)
}

/// Applies the events after a store's position, up to another position. The last commit is applied
/// whole.
pub(super) async fn fill(
    store: &SqlStore,
    segments: &Segments,
    (from, until): (u64, u64),
    bar: &ProgressBar,
) -> Result<(), String> {
    let mut position = from;
    let begun = ErasedMeanwhile::begin(store, segments, from).await;
    let mut erased = begun.map_err(|error| error.to_string())?;
    while position < until {
        let commits = segments.read(position + 1, BATCH_EVENTS);
        let mut commits = commits.map_err(|error| error.to_string())?;
        commits.retain(|commit| commit.last_position() <= until);
        let Some(last) = commits.last() else {
            return Err(format!("the log has no position {}", position + 1));
        };
        position = last.last_position();
        let noted = erased.note(store, &commits).await;
        noted.map_err(|error| error.to_string())?;
        let applied = store.apply(&commits).await;
        applied.map_err(|error| error.to_string())?;
        bar.set_position(position);
    }
    let forgotten = if from == 0 {
        // The log had nothing more of what was erased, unless its server is still erasing it.
        erased.hide_in(store).await
    } else {
        let told = |reason: &str| bar.suspend(|| complain(reason));
        erased.forget_in(store, told).await
    };
    forgotten.map_err(|error| error.to_string())
}

/// Fills a store in a schema of its own up to a position, and closes it.
async fn fill_beside(
    app: &str,
    database: &Database,
    (segments, until): (&Segments, u64),
) -> Result<(), String> {
    let store = open(app, database).await?;
    let bar = progress_bar(until)?;
    let filled = async {
        let from = check_origin(&store, app, (segments, until)).await?;
        fill(&store, segments, (from, until), &bar).await
    };
    let filled = filled.await;
    bar.finish_and_clear();
    let closed = store.close().await.map_err(|error| error.to_string());
    filled.and(closed)
}

/// Holds the store that is being filled: the next start, erasure or rebuild drops a store that is
/// not held.
async fn hold(url: &str, app: &str) -> Result<HeldStore, String> {
    let held = HeldStore::hold(url, app).await;
    held.map_err(|error| {
        let why = with_causes(&error);
        format!("app_{app} cannot be filled, maybe because another command is filling it: {why}")
    })
}

/// Rebuilds the store and puts it into the place of the old one.
///
/// What others have changed by SQL is imported first, and then nobody can write there until the
/// switch.
pub(super) async fn replace(config: &Config, database: &Database) -> Result<(), String> {
    // This fails while a server runs. Such a server still imports what others write there, so
    // nobody must be told to delete that.
    let free = open_signed(&config.data_dir, JournalOptions::default());
    drop(free.map_err(|error| error.to_string())?);
    let foreign = foreign_store(config, database).await;
    let is_foreign = foreign.is_some();
    let taken = match foreign {
        Some(foreign) => Err(format!(
            "{}: it is replaced",
            foreign.describe(&config.app.name)
        )),
        None => leaving::ingest_remaining(config).await,
    };
    if let Err(error) = taken {
        check_outbox(config, database, &error).await?;
    }
    let opened = open_signed(&config.data_dir, JournalOptions::default());
    // Kept open until the end, so that no server can start meanwhile.
    let opened = opened.map_err(|error| error.to_string())?;
    let head = opened.report().head;
    let (app, url) = (config.app.name.as_str(), database.url.reveal());
    let failed = |error: OpenError| with_causes(&error);
    drop_leftovers(url, app).await.map_err(failed)?;
    check_old(url, app).await.map_err(failed)?;
    let new = beside(app, "new");
    let held = hold(url, &new).await?;
    // A store that exists here is from another run, and maybe from a log that was restored since.
    drop_store(url, &new).await.map_err(failed)?;
    fill_beside(&new, database, (&opened.segments(), head)).await?;
    let place = |app| StorePlace::Server { url, app };
    if let Err(error) = carry_over_indexes(place(app), place(&new)).await {
        complain(&format!(
            "the old store's indexes are lost: {}",
            with_causes(&error)
        ));
    }
    if let Err(error) = copy_captured((url, app), (url, &new)).await {
        complain(&format!(
            "parked rows of the old store are not copied to the new one: {}",
            with_causes(&error)
        ));
    }
    // Another log says nothing about it.
    let is_kept = is_foreign || !has_erased(place(app), &opened.segments()).await?;
    let mut told = switch_schemas(url, &new, app).await.map_err(failed)?;
    if !is_kept {
        told.extend(drop_old(url, app).await.map_err(failed)?);
    }
    for told in told {
        complain(&told);
    }
    held.close().await.map_err(failed)?;
    let kept = is_kept.then(|| format!("the schema app_{app}~old"));
    say(&describe(head, true, kept));
    Ok(())
}

/// Returns how the old store belongs to another past than the existing log, if it does. Errors are
/// left to the code that opens the store.
async fn foreign_store(config: &Config, database: &Database) -> Option<ForeignStore> {
    let (app, url) = (config.app.name.as_str(), database.url.reveal());
    let (checkpoint, origin) = origin_server(url, app).await.ok()?;
    let segments = open_log(config).ok()?;
    find_foreign((checkpoint, &origin), (&segments, segments.head())).ok()?
}

/// Allows a rebuild without others' changes only if none are known to be lost: the store may be
/// rebuilt because it cannot be used.
async fn check_outbox(config: &Config, database: &Database, error: &str) -> Result<(), String> {
    let counted = count_waiting((database.url.reveal(), &config.app.name)).await;
    match counted {
        Ok(0) => complain(error),
        Ok(num_rows) => {
            return Err(format!(
                "{error}; {num_rows} changes are in the old store's table _outbox and would be \
                 lost. Delete them there to continue without them"
            ));
        }
        Err(_) => complain(&format!("{error}; continuing without the old store")),
    }
    Ok(())
}

/// Compares the store with one that is rebuilt for this purpose.
pub(super) async fn verify(config: &Config, database: &Database) -> Result<(), String> {
    let failed = |error: OpenError| with_causes(&error);
    let (app, url) = (config.app.name.as_str(), database.url.reveal());
    if let Some(foreign) = foreign_store(config, database).await {
        return Err(foreign.advise(app));
    }
    let (checkpoint, found) = digest_server(url, app).await.map_err(failed)?;
    // The log is opened after the store was read, so it reaches at least as far: a running server's
    // log grows.
    let segments = open_log(config)?;
    drop_leftovers(url, app).await.map_err(failed)?;
    let shadow = beside(app, "verify");
    let held = hold(url, &shadow).await?;
    drop_store(url, &shadow).await.map_err(failed)?;
    let made = async {
        fill_beside(&shadow, database, (&segments, checkpoint)).await?;
        digest_server(url, &shadow).await.map_err(failed)
    };
    let made = made.await;
    drop_store(url, &shadow).await.map_err(failed)?;
    held.close().await.map_err(failed)?;
    report(checkpoint, &found, &made?.1)
}
