//! Decides which indexes to create and to drop, from what was observed. Pure.

use std::time::Duration;

use skytrail_schema::time::Timestamp;

use super::shape::{IndexColumn, Shape};
use super::table::{IndexEntry, IndexState, IndexWish};

/// Limits on what the store does by itself.
#[derive(Clone, Copy, Debug)]
pub struct IndexLimits {
    /// The maximum number of indexes that nobody asked for; 32 by default.
    pub max_indexes: usize,
    /// Their maximum total size in bytes; 512 MiB by default.
    pub max_bytes: u64,
    /// Queries of one shape that take less than this in total are ignored; 20 ms by default.
    pub min_spent: Duration,
    /// Tables with fewer rows are read quickly anyway; 1,000 by default.
    pub min_rows: u64,
    /// Creating an index blocks writes for about a second per million rows. So larger tables get
    /// indexes only by declaration; 2 million by default.
    pub max_rows: u64,
    /// An index that no query has used for this long is dropped; 7 days by default.
    pub unused_after: Duration,
    /// When there is no room, an index that no query has used for this long is dropped; 1 hour by
    /// default.
    pub idle_after: Duration,
}

impl Default for IndexLimits {
    fn default() -> Self {
        const HOUR: u64 = 60 * 60;
        Self {
            max_indexes: 32,
            max_bytes: 512 << 20,
            min_spent: Duration::from_millis(20),
            min_rows: 1_000,
            max_rows: 2_000_000,
            unused_after: Duration::from_secs(7 * 24 * HOUR),
            idle_after: Duration::from_secs(HOUR),
        }
    }
}

impl IndexLimits {
    /// Returns the limits for a process that has run since a time. No queries arrive while the
    /// server is off, so no index counts as unused or idle in the first `idle_after`.
    pub(crate) fn of_process(self, since: Timestamp, now: Timestamp) -> Self {
        if time_between(since, now) >= self.idle_after {
            return self;
        }
        Self {
            unused_after: Duration::MAX,
            idle_after: Duration::MAX,
            ..self
        }
    }
}

fn time_between(since: Timestamp, now: Timestamp) -> Duration {
    let micros = now.micros().saturating_sub(since.micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// Queries of one shape that read more than they should.
#[derive(Clone, Debug)]
pub(crate) struct Scanning {
    /// Their shape.
    pub(crate) shape: Shape,
    /// How many there were recently.
    pub(crate) num_queries: f64,
    /// How long they took, in microseconds.
    pub(crate) micros: f64,
    /// Whether the table has too many rows for an index that nobody asked for.
    pub(crate) is_too_large: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Advice {
    /// Create the index of this entry.
    Build(IndexEntry),
    /// Create its counterpart over the table of what the type's records were.
    BuildPast(IndexEntry),
    /// Drop the index of this entry, which has the reason.
    Drop(IndexEntry),
    /// Only record that the index of this entry is needed; the entry says why it is not created.
    Decline(IndexEntry),
}

/// Decides what to do, most useful first. What people want has priority over what queries need.
pub(crate) fn advise(
    entries: &[IndexEntry],
    scanning: &[Scanning],
    limits: &IndexLimits,
    now: Timestamp,
) -> Vec<Advice> {
    let mut advice = wishes(entries);
    advice.extend(unused(entries, limits, now));
    if advice.is_empty() {
        advice.extend(needed(entries, scanning, limits, now));
    }
    advice
}

fn wishes(entries: &[IndexEntry]) -> Vec<Advice> {
    let wish = |entry: &IndexEntry| match (entry.wish, entry.state) {
        (IndexWish::Forbidden, IndexState::Built) => Some(Advice::Drop(IndexEntry {
            why: "forbidden".to_owned(),
            ..entry.clone()
        })),
        (IndexWish::Declared, IndexState::None | IndexState::Wanted)
        | (IndexWish::Auto, IndexState::Wanted) => Some(Advice::Build(entry.clone())),
        _ => None,
    };
    entries.iter().filter_map(wish).collect()
}

fn unused(entries: &[IndexEntry], limits: &IndexLimits, now: Timestamp) -> Vec<Advice> {
    let is_unused = |entry: &&IndexEntry| idle_time(entry, now) >= limits.unused_after;
    let drop = |entry: &IndexEntry| {
        Advice::Drop(IndexEntry {
            why: "no query used it any longer".to_owned(),
            ..entry.clone()
        })
    };
    loose(entries).filter(is_unused).map(drop).collect()
}

/// Returns the indexes that the store has created by itself.
fn loose(entries: &[IndexEntry]) -> impl Iterator<Item = &IndexEntry> {
    let entries = entries.iter();
    entries.filter(|entry| entry.is_loose() && entry.state == IndexState::Built)
}

fn idle_time(entry: &IndexEntry, now: Timestamp) -> Duration {
    let last = entry.last_used_at.max(entry.built_at).unwrap_or_default();
    time_between(last, now)
}

fn needed(
    entries: &[IndexEntry],
    scanning: &[Scanning],
    limits: &IndexLimits,
    now: Timestamp,
) -> Vec<Advice> {
    let is_costly = |it: &&Scanning| Duration::from_secs_f64(it.micros / 1e6) >= limits.min_spent;
    let mut scanning: Vec<&Scanning> = scanning.iter().filter(is_costly).collect();
    scanning.sort_by(|left, right| right.micros.total_cmp(&left.micros));
    let candidates = scanning.into_iter().filter_map(|it| {
        let columns = it.shape.best_index();
        let is_new = !columns.is_empty() && !is_covered(entries, &it.shape, &columns);
        is_new.then_some((it, columns))
    });
    let (too_large, candidates): (Vec<_>, Vec<_>) = candidates.partition(|(it, _)| it.is_too_large);
    let mut advice = declined(entries, too_large, limits);
    let Some((it, columns)) = candidates.into_iter().next() else {
        return advice;
    };
    let num_loose = loose(entries).count();
    let num_bytes: u64 = loose(entries).map(|entry| entry.num_bytes).sum();
    if num_loose >= limits.max_indexes || num_bytes >= limits.max_bytes {
        let idlest = loose(entries).max_by_key(|entry| idle_time(entry, now));
        match idlest.filter(|entry| idle_time(entry, now) >= limits.idle_after) {
            Some(idlest) => advice.push(Advice::Drop(IndexEntry {
                why: "made room for one that is needed more".to_owned(),
                ..idlest.clone()
            })),
            None => return advice,
        }
    }
    let mut entry = IndexEntry::new(it.shape.record_type.clone(), columns);
    entry.why = format!(
        "about {:.0} queries took {:.0} ms without it",
        it.num_queries.max(1.0),
        it.micros / 1e3
    );
    advice.push(Advice::Build(entry));
    advice
}

/// Returns the entries of indexes that too large tables need, unless they say so already. There are
/// at most as many as indexes, since anybody can send queries that need others.
fn declined(
    entries: &[IndexEntry],
    too_large: Vec<(&Scanning, Vec<IndexColumn>)>,
    limits: &IndexLimits,
) -> Vec<Advice> {
    let is_unbuilt = |entry: &&IndexEntry| entry.is_loose() && entry.state == IndexState::None;
    let num_unbuilt = entries.iter().filter(is_unbuilt).count();
    let mut declined: Vec<Advice> = Vec::new();
    for (it, columns) in too_large {
        let record_type = &it.shape.record_type;
        let known = entries
            .iter()
            .find(|entry| entry.is_on(record_type, &columns));
        let mut entry = match known {
            Some(known) => known.clone(),
            None => IndexEntry::new(record_type.clone(), columns),
        };
        entry.why = format!(
            "queries need it, but the type has {} records or more: skytrail index declare {} {}",
            limits.max_rows,
            entry.record_type,
            entry.column_list()
        );
        let advice = Advice::Decline(entry.clone());
        let has_room = known.is_some() || num_unbuilt + declined.len() < limits.max_indexes;
        if has_room && known != Some(&entry) && !declined.contains(&advice) {
            declined.push(advice);
        }
    }
    declined
}

/// Returns whether an index that begins with these columns exists or is wanted, or one on exactly
/// these columns is forbidden.
fn is_covered(entries: &[IndexEntry], shape: &Shape, columns: &[IndexColumn]) -> bool {
    entries.iter().any(|entry| {
        let is_here = entry.state != IndexState::None && entry.columns.starts_with(columns);
        let is_forbidden = entry.wish == IndexWish::Forbidden && entry.columns == columns;
        entry.record_type == shape.record_type && (is_here || is_forbidden)
    })
}
