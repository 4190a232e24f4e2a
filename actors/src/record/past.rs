//! A record as it was, folded from the log.
//!
//! The store knows where a record's events stand. From the last one that carries
//! a full state on they are read and folded, together with the events of the
//! type in between: what was saved under a field's old name is returned under the
//! name that it had at that position. Numbers that records got when their type got
//! a sequence field are not in the log, so they are missing here.

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Event, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::{Head, Record};

use super::apply::{self, Folded};
use super::env::RecordEnv;

/// Returns the state of a record right after position `until`, which the store must have applied;
/// `None` when there was none.
///
/// # Errors
/// The store or the log cannot be read.
pub async fn record_at(
    env: &RecordEnv,
    id: &RecordId,
    until: u64,
) -> Result<Option<Record>, ApiError> {
    let stream = Stream::Record(id.clone());
    let Some(from) = env.store.find_full_state(&stream, until).await? else {
        return Ok(None);
    };
    let of_type = Stream::Type(id.record_type.clone());
    let mut positions = env.store.list_positions(&stream, from, until).await?;
    positions.extend(env.store.list_positions(&of_type, from, until).await?);
    positions.sort_unstable();
    let mut head: Option<Head> = None;
    for position in positions {
        let event = read(env, position).await?;
        if event.stream == stream {
            head = match apply::record(head.as_ref(), id, &event) {
                Folded::Known(head) => head,
                Folded::Unknown => None,
            };
        } else if event.stream == of_type
            && let Some(head) = &mut head
        {
            apply::reshape(&mut head.record, &event.body);
        }
    }
    Ok(head.map(|head| head.record))
}

async fn read(env: &RecordEnv, position: u64) -> Result<Event, ApiError> {
    let missing = |cause: &dyn std::fmt::Display| {
        tracing::error!(position, %cause, "the log cannot be read");
        ApiError::unexpected("the log cannot be read")
    };
    let commits = env.log.read(position, 1).await;
    let commits = commits.map_err(|error| missing(&error))?;
    let events = commits.iter().flat_map(|commit| &commit.events);
    let mut events = events.filter(|event| event.position == position);
    events
        .next()
        .cloned()
        .ok_or_else(|| missing(&"it ends before"))
}
