//! Finding a place in the log.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event};
use skytrail_schema::time::Timestamp;

use super::EventLog;

/// Loads the commit that holds a position.
///
/// # Errors
/// The log cannot be read.
pub async fn load_commit(log: &dyn EventLog, position: u64) -> Result<Arc<Commit>, ApiError> {
    let (commits, _) = load_page(log, position, 1).await?;
    let mut holds = commits
        .into_iter()
        .filter(|commit| commit.first_position() <= position && position <= commit.last_position());
    holds
        .next()
        .ok_or_else(|| unreadable(position, &"there is no such event"))
}

/// Loads the commits from a position on, as [`EventLog::read`] does, and returns with them the last
/// position that they hold.
///
/// # Errors
/// The log cannot be read, or ends before the position.
pub(crate) async fn load_page(
    log: &dyn EventLog,
    from: u64,
    max_events: usize,
) -> Result<(Vec<Arc<Commit>>, u64), ApiError> {
    let read = log.read(from, max_events).await;
    let commits = read.map_err(|error| unreadable(from, &error))?;
    match commits.last().map(|commit| commit.last_position()) {
        Some(last) => Ok((commits, last)),
        None => Err(unreadable(from, &"it ends before that position")),
    }
}

/// Loads the event at a position, with its commit.
///
/// # Errors
/// The log cannot be read, or ends before the position.
pub(crate) async fn load_event(
    log: &dyn EventLog,
    position: u64,
) -> Result<(Arc<Commit>, Event), ApiError> {
    let mut found = load_events(log, &[position]).await?;
    found
        .pop()
        .ok_or_else(|| unreadable(position, &"there is no such event"))
}

/// Loads the events at some positions, each with its commit.
///
/// # Errors
/// Those of [`load_event`].
pub(crate) async fn load_events(
    log: &dyn EventLog,
    positions: &[u64],
) -> Result<Vec<(Arc<Commit>, Event)>, ApiError> {
    let first = positions.first().copied().unwrap_or_default();
    let commits = log.read_each(positions).await;
    let commits = commits.map_err(|error| unreadable(first, &error))?;
    let event = |(commit, position): (Arc<Commit>, &u64)| {
        let mut events = commit.events.iter();
        let event = events.find(|event| event.position == *position)?.clone();
        Some((commit, event))
    };
    let events = commits.into_iter().zip(positions).map(event);
    let events: Option<Vec<_>> = events.collect();
    events.ok_or_else(|| unreadable(first, &"a commit without its event"))
}

/// Finds the last position that was committed before a time.
///
/// # Errors
/// The log cannot be read.
pub async fn position_before(log: &dyn EventLog, time: Timestamp) -> Result<u64, ApiError> {
    last_position(log, |committed| committed < time).await
}

/// Finds the last position that was committed at or before a time.
///
/// # Errors
/// The log cannot be read.
pub async fn position_at(log: &dyn EventLog, time: Timestamp) -> Result<u64, ApiError> {
    last_position(log, |committed| committed <= time).await
}

/// Finds the last position whose time is early; all positions after it are not.
async fn last_position(
    log: &dyn EventLog,
    is_early: impl Fn(Timestamp) -> bool,
) -> Result<u64, ApiError> {
    // Everything up to `low` is early; everything after `high` is not.
    let (mut low, mut high) = (0, log.head());
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let commit = load_commit(log, middle).await?;
        if is_early(commit.time) {
            low = commit.last_position().min(high);
        } else {
            high = commit.first_position() - 1;
        }
    }
    Ok(low)
}

/// Returns the error for a reader of a log that cannot be read.
pub(crate) fn unreadable(position: u64, cause: &dyn std::fmt::Display) -> ApiError {
    tracing::error!(position, %cause, "the log cannot be read");
    ApiError::unexpected("the log cannot be read")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::written::{Written, commit};

    proptest! {
        #[test]
        fn what_is_before_a_time_or_at_it_is_what_a_walk_finds(
            sizes in prop::collection::vec(1_u64..4, 0..30),
            time in 0_i64..100,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut log = Written(Vec::new());
            for size in sizes {
                log.0.push(commit(log.head() + 1, size));
            }
            let time = Timestamp::from_micros(time);
            let last = |is_early: &dyn Fn(Timestamp) -> bool| {
                let early = log.0.iter().filter(|commit| is_early(commit.time));
                early.map(|commit| commit.last_position()).max().unwrap_or(0)
            };
            let before = last(&|committed| committed < time);
            let at = last(&|committed| committed <= time);
            prop_assert_eq!(runtime.block_on(position_before(&log, time)), Ok(before));
            prop_assert_eq!(runtime.block_on(position_at(&log, time)), Ok(at));
        }
    }
}
