//! `skytrail rebuild`: making the record store anew from the log, or checking it against the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use skytrail_actors::clock::{Clock as _, SystemClock};
use skytrail_actors::log::OpenedLog;
use skytrail_actors::log::disk::{Disk, RealDisk};
use skytrail_actors::log::journal::{JournalOptions, Segments};
use skytrail_actors::store::RecordStore as _;

use super::{complain, say};
use crate::config::Config;
use crate::projection::carry_over_indexes;
use crate::projection::rebuild::{rebuild, switch};
use crate::projection::{SqlStore, StoreOptions, TableDigest, damage_marker, digest, remove};

/// What to do.
#[derive(Clone, Copy, Debug, Args)]
pub struct RebuildCommand {
    /// Only compares the store with one made from the log, row by row; also while the server runs.
    #[arg(long)]
    verify: bool,
}

/// Runs the command.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn run(config: &Config, command: RebuildCommand) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    if command.verify {
        runtime.block_on(verify(config))
    } else {
        runtime.block_on(replace(config))
    }
}

/// Makes the store anew and puts it into the place of the old one.
async fn replace(config: &Config) -> Result<(), String> {
    let current = config.store_path();
    let new = current.with_extension("rebuild");
    let opened = OpenedLog::open(&config.data_dir, JournalOptions::default());
    // Open until the end: no server may start meanwhile.
    let opened = opened.map_err(|error| error.to_string())?;
    let head = opened.report().head;
    fill(&new, &opened.segments(), head).await?;
    if let Err(error) = keep_indexes(&current, &new).await {
        complain(&format!(
            "the old store's indexes are not known any more: {error}"
        ));
    }
    switch(&new, &current).map_err(|error| with_causes(&error))?;
    // The new one has nothing of what was found there.
    let _ = std::fs::remove_file(damage_marker(&current));
    say(&format!(
        "rebuilt from {head} events; the old store is kept in {}",
        current.with_extension("previous").display()
    ));
    Ok(())
}

/// Makes the indexes that the old store had for its queries, or was told to have.
async fn keep_indexes(current: &Path, new: &Path) -> Result<(), String> {
    if !current.exists() {
        return Ok(());
    }
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let carried = carry_over_indexes(current, new).await;
    carried.map_err(|error| text(&error))?;
    let options = StoreOptions::default();
    let store = SqlStore::open_file(new, &options).await;
    let store = store.map_err(|error| text(&error))?;
    let tended = store.tend_indexes(SystemClock.now()).await;
    tended.map_err(|error| text(&error))?;
    store.close().await.map_err(|error| text(&error))
}

/// Compares the store with one that is made for the purpose.
async fn verify(config: &Config) -> Result<(), String> {
    let folder = config.data_dir.join("journal");
    let disk = RealDisk::new(&folder).map_err(|error| error.to_string())?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let segments = Segments::open(&disk).map_err(|error| error.to_string())?;
    let current = config.store_path();
    let failed = |error: sqlx::Error| format!("{}: {error}", current.display());
    let (checkpoint, found) = digest(&current).await.map_err(failed)?;
    let shadow = current.with_extension("verify");
    fill(&shadow, &segments, checkpoint).await?;
    let (_, wanted) = digest(&shadow).await.map_err(failed)?;
    remove(&shadow).map_err(|error| with_causes(&error))?;
    let differences = compare(&found, &wanted);
    if differences.is_empty() {
        let rows: u64 = found.values().map(|table| table.num_rows).sum();
        say(&format!(
            "the store equals the log up to {checkpoint}: {rows} rows in {} tables",
            found.len()
        ));
        return Ok(());
    }
    Err(format!(
        "the store differs from the log:\n{}",
        differences.join("\n")
    ))
}

/// Names the tables that differ.
fn compare(
    found: &BTreeMap<String, TableDigest>,
    wanted: &BTreeMap<String, TableDigest>,
) -> Vec<String> {
    let names = found.keys().chain(wanted.keys());
    let names: std::collections::BTreeSet<&String> = names.collect();
    let describe = |table: Option<&TableDigest>| match table {
        Some(table) => format!("{} rows, digest {:016x}", table.num_rows, table.sum),
        None => "nothing".to_owned(),
    };
    let differing = names
        .into_iter()
        .filter(|name| found.get(*name) != wanted.get(*name));
    differing
        .map(|name| {
            let (found, wanted) = (describe(found.get(name)), describe(wanted.get(name)));
            format!("  {name}: the store has {found}; the log makes {wanted}")
        })
        .collect()
}

async fn fill(path: &Path, segments: &Segments, until: u64) -> Result<(), String> {
    let bar = ProgressBar::new(until);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} events, {per_sec}, {eta} left");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let mut read = |from: u64, max_events: usize| {
        let commits = segments.read(from, max_events);
        commits.map_err(|error| error.to_string())
    };
    let done = rebuild(path, until, &mut read, &mut |position| {
        bar.set_position(position)
    })
    .await;
    bar.finish_and_clear();
    done.map_err(|error| with_causes(&error))
}

/// Writes an error and what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
