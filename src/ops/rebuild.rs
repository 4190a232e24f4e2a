//! `skytrail rebuild`: rebuilds the record store from the log, or checks it against the log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use skytrail_actors::clock::{Clock as _, SystemClock};
use skytrail_actors::log::journal::archive::Until;
use skytrail_actors::log::journal::{JournalOptions, Segments};
use skytrail_actors::store::RecordStore as _;
use skytrail_schema::event::Commit;

use super::backup::parse_until;
use super::partial::Partial;
use super::{
    check_user, complain, fail_with, journal_of, move_store, open_log, rebuild_server, say,
};
use crate::causes::with_causes;
use crate::config::Config;
use crate::projection::index::{StorePlace, carry_over_indexes};
use crate::projection::rebuild::{PREVIOUS, rebuild, switch};
use crate::projection::{
    OpenError, SqlStore, StoreOptions, TableDigest, damage_marker, digest, remove,
};
use crate::proof::open_signed;
use crate::record_store::erased::may_have_erased;
use crate::record_store::leftovers::{self, Filling};
use crate::record_store::moved;

/// What to do.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RebuildCommand {
    /// Only compares all rows of the store with those of one rebuilt from the log, and names the
    /// tables that differ; also while the server runs.
    #[arg(long)]
    verify: bool,
    /// Instead builds the store as it was at a position or a time, in a separate file; also while
    /// the server runs.
    #[arg(
        long,
        value_name = "POSITION|TIME",
        requires = "to",
        conflicts_with = "verify"
    )]
    until: Option<String>,
    /// Moves the store to the database at this address, or with `file` back into the data folder. A
    /// running server keeps serving, and uses the new store from then on. With `--until`, the file
    /// to create; it must not exist yet.
    #[arg(long, value_name = "URL|file|FILE", conflicts_with = "verify")]
    to: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  skytrail rebuild                               while no server runs
  skytrail rebuild --verify
  skytrail rebuild --to postgres://me:secret@db/app
  skytrail rebuild --to file
  skytrail rebuild --until 2024-06-11T09:30:00Z --to past.sqlite
  sqlite3 past.sqlite 'SELECT * FROM note'       a table per record type, as it was then";

/// The suffixes of the files of a separate store.
///
/// The pages' checksums are not among them, because no server looks after it. SQLite leaves no
/// other files when it is done, but files left by an earlier store would be taken for this one's.
const PAST_PARTS: [&str; 3] = ["-wal", "-shm", ""];

/// Runs the command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &RebuildCommand) -> Result<(), String> {
    // Without a journal, opening the log would create one.
    journal_of(config)?;
    check_user(config)?;
    let config = &moved::with_moved_store(config).map_err(|error| error.to_string())?;
    actix_web::rt::System::new().block_on(async {
        match (&command.until, &command.to, &config.database) {
            (Some(until), Some(to), _) => {
                past(config, parse_until(Some(until))?, Path::new(to)).await
            }
            (_, Some(to), _) => move_store::run(config, to).await,
            (_, None, Some(database)) if command.verify => {
                rebuild_server::verify(config, database).await
            }
            (_, None, Some(database)) => rebuild_server::replace(config, database).await,
            (_, None, None) if command.verify => verify(config).await,
            (_, None, None) => replace(config).await,
        }
    })
}

/// An unfinished store next to the one in use. It is removed when this is dropped, unless it has
/// taken the other one's place: half a store may take up all the space that a server needs to
/// start.
struct UnfinishedStore(PathBuf);

impl Drop for UnfinishedStore {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            complain(&format!(
                "an unfinished store is left: {}",
                with_causes(&error)
            ));
        }
    }
}

/// Rebuilds the store and puts it into the place of the old one.
async fn replace(config: &Config) -> Result<(), String> {
    let current = config.store_path();
    let opened = open_signed(&config.data_dir, JournalOptions::default());
    // Kept open until the end, so that no server can start meanwhile.
    let opened = opened.map_err(|error| error.to_string())?;
    let making = UnfinishedStore(current.with_extension(leftovers::REBUILD));
    let new = &making.0;
    let head = opened.report().head;
    fill((new, false), &opened.segments(), head).await?;
    if let Err(error) = keep_indexes(&current, new).await {
        complain(&format!("the old store's indexes are lost: {error}"));
    }
    // After a restore there is no old store.
    let has_old = current.exists();
    let is_kept = has_old && !has_erased(StorePlace::File(&current), &opened.segments()).await?;
    if !is_kept {
        // Before the switch, so that a crash leaves no copy.
        remove(&current).map_err(|error| with_causes(&error))?;
    }
    switch(new, &current).map_err(|error| with_causes(&error))?;
    // Damage that was found in the old store does not concern the new one.
    let _ = std::fs::remove_file(damage_marker(&current));
    let kept = current.with_extension(PREVIOUS);
    let kept = is_kept.then(|| kept.display().to_string());
    say(&describe(head, has_old, kept));
    Ok(())
}

/// Whether the store that is replaced may have what was erased since: then it is not kept.
pub(super) async fn has_erased(place: StorePlace<'_>, segments: &Segments) -> Result<bool, String> {
    let checked = may_have_erased(place, segments).await;
    checked.map_err(|error| error.to_string())
}

/// Says what became of the old store, if there was one.
pub(super) fn describe(head: u64, has_old: bool, kept: Option<String>) -> String {
    let rebuilt = format!("rebuilt from {head} events");
    match kept {
        Some(place) => format!("{rebuilt}; the old store is kept in {place}"),
        None if has_old => {
            format!("{rebuilt}; the old store is deleted: it may have what was erased since")
        }
        None => rebuilt,
    }
}

/// Builds the indexes that the old store had for its queries, or was asked to have.
async fn keep_indexes(current: &Path, new: &Path) -> Result<(), String> {
    if !current.exists() {
        return Ok(());
    }
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let carried = carry_over_indexes(StorePlace::File(current), StorePlace::File(new)).await;
    carried.map_err(|error| text(&error))?;
    let options = StoreOptions::default();
    let store = SqlStore::open_file(new, &options).await;
    let store = store.map_err(|error| text(&error))?;
    let tended = store.tend_indexes(SystemClock.now()).await;
    tended.map_err(|error| text(&error))?;
    store.close().await.map_err(|error| text(&error))
}

/// Builds the store as it was at a position or a time.
async fn past(config: &Config, until: Until, to: &Path) -> Result<(), String> {
    let partial = Partial::begin(to, &PAST_PARTS)?;
    let segments = open_log(config)?;
    let commit = last_commit(&segments, until)?;
    // The file has password hashes and lies where others may look, so only its owner may read it.
    let place = (&*partial.path(), true);
    fill(place, &segments, commit.last_position()).await?;
    partial.finish()?;
    say(&format!(
        "{} has the records as of position {}, {}",
        to.display(),
        commit.last_position(),
        commit.time
    ));
    Ok(())
}

/// Finds the last commit that is not later than a moment.
fn last_commit(segments: &Segments, until: Until) -> Result<Arc<Commit>, String> {
    let head = segments.head();
    if let Until::Position(position) = until
        && position > head
    {
        return Err(format!("the log ends at {head}, before {position}"));
    }
    // Everything up to `low` belongs to it; nothing after `high` does.
    let (mut low, mut high, mut last) = (0, head, None);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let read = segments
            .read(middle, 1)
            .map_err(|error| error.to_string())?;
        let commit = read.into_iter().next();
        let commit = commit.ok_or_else(|| format!("the log has no position {middle}"))?;
        let is_in_range = match until {
            Until::End => true,
            Until::Position(position) => commit.last_position() <= position,
            Until::Time(time) => commit.time <= time,
        };
        if is_in_range {
            low = commit.last_position();
            last = Some(commit);
        } else {
            high = commit.first_position() - 1;
        }
    }
    last.ok_or_else(|| "the log has nothing before that".to_owned())
}

/// Compares the store with one that is rebuilt for this purpose.
async fn verify(config: &Config) -> Result<(), String> {
    let current = config.store_path();
    if !current.exists() {
        let place = format!("at {}", current.display());
        return Err(OpenError::Missing(place).to_string());
    }
    // First, because SQLite does not say why it cannot read on a disk that takes no writes.
    let filling = Filling::begin(&config.data_dir);
    let filling = filling.map_err(|error| no_room(&config.data_dir, &error))?;
    let failed = |error: OpenError| format!("{}: {}", current.display(), with_causes(&error));
    let (checkpoint, found) = digest(&current).await.map_err(failed)?;
    // The log is opened after the store was read, so it reaches at least as far: a running server's
    // log grows.
    let segments = open_log(config)?;
    let shadow = UnfinishedStore(current.with_extension(leftovers::VERIFY));
    fill((&shadow.0, false), &segments, checkpoint).await?;
    let (_, expected) = digest(&shadow.0).await.map_err(failed)?;
    remove(&shadow.0).map_err(|error| with_causes(&error))?;
    drop(filling);
    report(checkpoint, &found, &expected)
}

/// Says that no store can be filled in a folder.
pub(super) fn no_room(folder: &Path, error: &std::io::Error) -> String {
    let folder = folder.display();
    format!("no store can be filled in {folder}: {error}")
}

/// Reports whether a store is the same as one rebuilt from the log.
pub(super) fn report(
    checkpoint: u64,
    found: &BTreeMap<String, TableDigest>,
    expected: &BTreeMap<String, TableDigest>,
) -> Result<(), String> {
    let mut differences = compare(found, expected);
    if differences.is_empty() {
        let rows: u64 = found.values().map(|table| table.num_rows).sum();
        say(&format!(
            "the store equals the log up to {checkpoint}: {rows} rows in {} tables",
            found.len()
        ));
        return Ok(());
    }
    differences.insert(0, "the store differs from the log:".to_owned());
    fail_with(differences)
}

/// Describes the tables that differ.
fn compare(
    found: &BTreeMap<String, TableDigest>,
    expected: &BTreeMap<String, TableDigest>,
) -> Vec<String> {
    let names = found.keys().chain(expected.keys());
    let names: std::collections::BTreeSet<&String> = names.collect();
    let describe = |table: Option<&TableDigest>| match table {
        Some(table) => format!("{} rows, digest {:016x}", table.num_rows, table.sum),
        None => "nothing".to_owned(),
    };
    let differing = names
        .into_iter()
        .filter(|name| found.get(*name) != expected.get(*name));
    differing
        .map(|name| {
            let (found, expected) = (describe(found.get(name)), describe(expected.get(name)));
            format!("  {name}: the store has {found}; the log gives {expected}")
        })
        .collect()
}

async fn fill(place: (&Path, bool), segments: &Segments, until: u64) -> Result<(), String> {
    let bar = progress_bar(until)?;
    let mut read = |from: u64, max_events: usize| {
        let commits = segments.read(from, max_events);
        commits.map_err(|error| error.to_string())
    };
    let done = rebuild(place, until, &mut read, &mut |position| {
        bar.set_position(position)
    })
    .await;
    bar.finish_and_clear();
    done.map_err(|error| with_causes(&error))
}

/// Creates a progress bar for filling a store.
pub(super) fn progress_bar(until: u64) -> Result<ProgressBar, String> {
    let bar = ProgressBar::new(until);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} events, {per_sec}, {eta} left");
    bar.set_style(style.map_err(|error| error.to_string())?);
    Ok(bar)
}
