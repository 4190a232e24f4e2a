//! `skytrail rebuild` where the records are in PostgreSQL.
//!
//! A store is filled in a schema beside the one in use. One that was broken off goes on where it was.

use indicatif::ProgressBar;
use skytrail_actors::log::OpenedLog;
use skytrail_actors::log::journal::{JournalOptions, Segments};
use skytrail_actors::store::RecordStore as _;
use skytrail_schema::positions::Positions;

use super::rebuild::{progress_bar, report};
use super::{complain, open_log, say};
use crate::config::{Config, Database};
use crate::projection::index::{IndexLimits, StorePlace, carry_over_indexes};
use crate::projection::{
    OpenError, ServerOptions, SqlStore, beside, digest_server, drop_store, switch_schemas,
};
use crate::store_start::{check_owner, erased_by, forget, with_causes};

/// How many events are applied at once.
const BATCH_EVENTS: usize = 4096;

/// Opens the store of `app`, making it if there is none.
pub(super) async fn open(app: &str, database: &Database) -> Result<SqlStore, String> {
    let options = ServerOptions {
        app: app.to_owned(),
        max_readers: 2,
        patience: database.wait,
        statement_timeout: database.statement_timeout,
        index_limits: IndexLimits::default(),
    };
    let opened = SqlStore::open_server(database.url.reveal(), &options).await;
    opened.map_err(|error| with_causes(&error))
}

/// Applies what the log has and a store has not, up to a position. The last commit is applied whole.
pub(super) async fn fill(
    store: &SqlStore,
    segments: &Segments,
    (from, until): (u64, u64),
    bar: &ProgressBar,
) -> Result<(), String> {
    let mut position = from;
    let mut erased = Positions::default();
    while position < until {
        let commits = segments.read(position + 1, BATCH_EVENTS);
        let mut commits = commits.map_err(|error| error.to_string())?;
        commits.retain(|commit| commit.last_position() <= until);
        let Some(last) = commits.last() else {
            return Err(format!("the log has no position {}", position + 1));
        };
        position = last.last_position();
        let applied = store.apply(&commits).await;
        applied.map_err(|error| error.to_string())?;
        erased = erased.union(&erased_by(&commits));
        bar.set_position(position);
    }
    let forgotten = forget(store, &erased).await;
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
        let from = check_owner(&store, app, (segments, until)).await?;
        fill(&store, segments, (from, until), &bar).await
    };
    let filled = filled.await;
    bar.finish_and_clear();
    let closed = store.close().await.map_err(|error| error.to_string());
    filled.and(closed)
}

/// Makes the store anew and puts it into the place of the old one.
pub(super) async fn replace(config: &Config, database: &Database) -> Result<(), String> {
    let opened = OpenedLog::open(&config.data_dir, JournalOptions::default());
    // Open until the end: no server may start meanwhile.
    let opened = opened.map_err(|error| error.to_string())?;
    let head = opened.report().head;
    let (app, url) = (config.app.name.as_str(), database.url.reveal());
    let new = beside(app, "new");
    // What is there was made by another run, maybe from a log that was restored since.
    let failed = |error: OpenError| with_causes(&error);
    drop_store(url, &new).await.map_err(failed)?;
    fill_beside(&new, database, (&opened.segments(), head)).await?;
    let place = |app| StorePlace::Server { url, app };
    if let Err(error) = carry_over_indexes(place(app), place(&new)).await {
        complain(&format!(
            "the old store's indexes are not known any more: {}",
            with_causes(&error)
        ));
    }
    switch_schemas(url, &new, app).await.map_err(failed)?;
    say(&format!(
        "rebuilt from {head} events; the old store is kept in the schema app_{app}~old"
    ));
    Ok(())
}

/// Compares the store with one that is made for the purpose.
pub(super) async fn verify(config: &Config, database: &Database) -> Result<(), String> {
    let failed = |error: OpenError| with_causes(&error);
    let (app, url) = (config.app.name.as_str(), database.url.reveal());
    let (checkpoint, found) = digest_server(url, app).await.map_err(failed)?;
    // Behind what is compared: the log of a running server grows.
    let segments = open_log(config)?;
    let shadow = beside(app, "verify");
    drop_store(url, &shadow).await.map_err(failed)?;
    let made = async {
        fill_beside(&shadow, database, (&segments, checkpoint)).await?;
        digest_server(url, &shadow).await.map_err(failed)
    };
    let made = made.await;
    drop_store(url, &shadow).await.map_err(failed)?;
    report(checkpoint, &found, &made?.1)
}
