//! The proof that the log's past was not rewritten: its key, its checkpoints, and exported parts
//! that can be checked elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value as Json, json};
use skytrail_actors::log::journal::Segments;
use skytrail_schema::chain::{self, ChainHash};
use skytrail_schema::codec::{CommitParts, split_commit};

use super::show_json;
use crate::config::Config;
use crate::hex;
use crate::proof::{LogKey, Notes, parse_public};

/// How many events are read at once.
const READ_EVENTS: usize = 4096;
/// The format version of an export.
const FORMAT: u32 = 1;

/// How to check the log.
#[derive(Clone, Debug, Default, Args)]
pub struct VerifyCommand {
    /// The public key, as printed by `skytrail log key`; defaults to the one in the data folder,
    /// which anyone who could rewrite the log could have replaced.
    #[arg(long)]
    key: Option<String>,
    /// A file of checkpoints that was kept elsewhere; checked in addition to those of the data
    /// folder.
    #[arg(long, value_name = "FILE")]
    pub(super) checkpoints: Option<PathBuf>,
    /// Also reads every stored file and compares it with its hash in the log. A file that is being
    /// replaced with the master key at that time may be reported although it is right.
    #[arg(long)]
    pub(super) files: bool,
}

/// The part to export.
#[derive(Clone, Copy, Debug, Args)]
pub struct ExportCommand {
    /// The first position; its whole commit is exported.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// The last position; its whole commit is exported. Defaults to the log's end.
    #[arg(long)]
    to: Option<u64>,
}

/// Reads the log's key.
pub(super) fn key(config: &Config) -> Result<LogKey, String> {
    let key = LogKey::load(&config.data_dir).map_err(|error| error.to_string())?;
    let folder = config.data_dir.display();
    key.ok_or_else(|| format!("no key in {folder}: a server creates one at its first start"))
}

/// The chain hashes that the log must have.
#[derive(Default)]
pub(super) struct Marks {
    /// The chain hash by position.
    pub(super) chains: BTreeMap<u64, ChainHash>,
    /// The number of checkpoints in the file that was named, if any.
    pub(super) num_elsewhere: Option<usize>,
}

/// Checks the signatures of all checkpoints, and returns their chain hashes.
pub(super) fn marks(
    config: &Config,
    segments: &Segments,
    command: &VerifyCommand,
) -> Result<Marks, String> {
    let mut marks = Marks::default();
    let own = Notes::of(&config.data_dir);
    let elsewhere = command.checkpoints.clone().map(Notes::at);
    let has_none = own.read().is_ok_and(|notes| notes.is_empty());
    if elsewhere.is_none() && has_none {
        if command.key.is_none() {
            return Ok(marks);
        }
        return Err(format!(
            "{} has no checkpoint that the key could check: a server signs once an hour and when \
             it stops, and without checkpoints the log could be forged; name those kept elsewhere \
             with --checkpoints",
            own.path().display()
        ));
    }
    let public = match &command.key {
        Some(text) => parse_public(text).ok_or_else(|| format!("{text:?} is not a public key"))?,
        None => key(config)?.public(),
    };
    marks.chains = own.check(&public, segments.store_id())?;
    if let Some(elsewhere) = elsewhere {
        let found = elsewhere.check(&public, segments.store_id())?;
        marks.num_elsewhere = Some(found.len());
        for (position, chain) in found {
            let earlier = marks.chains.insert(position, chain);
            if earlier.is_some_and(|earlier| earlier != chain) {
                return Err(format!(
                    "two checkpoints at position {position} contradict each other"
                ));
            }
        }
    }
    Ok(marks)
}

/// Prints a part of the log: a header, the commits, and the checkpoints among them.
pub(super) fn export(
    config: &Config,
    segments: &Segments,
    command: &ExportCommand,
) -> Result<(), String> {
    let to = command.to.unwrap_or(segments.head());
    let from = command.from.max(1);
    if from > to || to > segments.head() {
        let head = segments.head();
        return Err(format!(
            "positions {from} to {to} are not in a log that ends at {head}"
        ));
    }
    let (first, previous) = before(segments, from)?;
    show_json(
        &json!({
            "skytrail_log": FORMAT,
            "store_id": segments.store_id(),
            "previous_chain": hex::encode(&previous),
        })
        .to_string(),
    );
    let last = for_each_raw(segments, first, to, &mut |parts| {
        show_json(&to_json(&parts).to_string())
    })?;
    let notes = Notes::of(&config.data_dir).read();
    for note in notes.map_err(|error| error.to_string())? {
        if note.position >= first.saturating_sub(1) && note.position <= last {
            show_json(&json!({"checkpoint": note}).to_string());
        }
    }
    Ok(())
}

/// Finds the start of the commit that holds a position, and the chain hash before it.
fn before(segments: &Segments, position: u64) -> Result<(u64, ChainHash), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let own = segments
        .read_raw(position, 1)
        .map_err(|error| text(&error))?;
    let (first, _) = own.first().ok_or("the log ends before")?;
    if *first == 1 {
        return Ok((1, chain::GENESIS));
    }
    let before = segments
        .read_raw(first - 1, 1)
        .map_err(|error| text(&error))?;
    let (_, bytes) = before.first().ok_or("the log ends before")?;
    let parts = split_commit(bytes).map_err(|error| text(&error))?;
    Ok((*first, parts.chain))
}

/// Visits the commits in a range of positions; returns the last position of the last commit.
fn for_each_raw(
    segments: &Segments,
    from: u64,
    to: u64,
    visit: &mut dyn FnMut(CommitParts<'_>),
) -> Result<u64, String> {
    let mut next = from;
    while next <= to {
        let commits = segments.read_raw(next, READ_EVENTS);
        let commits = commits.map_err(|error| error.to_string())?;
        if commits.is_empty() {
            return Err(format!("the log has no position {next}"));
        }
        for (first, bytes) in commits.iter().filter(|(first, _)| *first <= to) {
            let parts =
                split_commit(bytes).map_err(|error| format!("position {first}: {error}"))?;
            next = first + parts.events.len() as u64;
            visit(parts);
        }
    }
    Ok(next - 1)
}

/// Formats a commit: bytes as hexadecimal digits, payloads as their text.
fn to_json(parts: &CommitParts<'_>) -> Json {
    let events = parts.events.iter().map(|event| match event.content {
        Some((salt, payload)) => json!({
            "head": hex::encode(event.head),
            "salt": hex::encode(&salt),
            "payload": String::from_utf8_lossy(payload),
        }),
        None => json!({
            "head": hex::encode(event.head),
            "payload_hash": hex::encode(&event.hash),
        }),
    });
    json!({
        "header": hex::encode(parts.header),
        "events": events.collect::<Vec<Json>>(),
        "chain": hex::encode(&parts.chain),
    })
}
