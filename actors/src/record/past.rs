//! A record as it was, folded from the log.
//!
//! The store knows where a record's events stand. From the last one that carries
//! a full state on they are read and folded, together with the events of the
//! type in between: what was saved under a field's old name is returned under the
//! name that it had at that position. Numbers that records got when their type got
//! a sequence field are not in the log, so they are missing here.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::{Head, Record};
use skytrail_schema::time::Timestamp;

use super::apply::{self, Folded};
use super::env::RecordEnv;
use crate::log::seek::position_before;

/// A place in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Right after this position of the log.
    Position(u64),
    /// Right after everything that was committed at this time or before.
    Time(Timestamp),
}

impl Moment {
    /// Finds the moment's position; the store has applied it, and everything that was acknowledged.
    ///
    /// # Errors
    /// 108 for a position beyond the log's end; the log cannot be read.
    pub async fn find(self, env: &RecordEnv, argument: &str) -> Result<u64, ApiError> {
        let head = env.log.head();
        env.applied.wait_for(head).await?;
        match self {
            Self::Position(position) if position <= head => Ok(position),
            Self::Position(_) => {
                let message = format!("the log ends at {head}");
                Err(ApiError::invalid_argument(message, &[argument]))
            }
            Self::Time(time) => {
                let next = Timestamp::from_micros(time.micros().saturating_add(1));
                position_before(&*env.log, next).await
            }
        }
    }
}

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
    let walk = Walk::begin(env, id, until).await?;
    Ok(walk.into_record())
}

/// Returns a record as the store has it, or as it was before it was deleted; `None` when there never
/// was one.
///
/// # Errors
/// The store or the log cannot be read.
pub async fn last_state(env: &RecordEnv, id: &RecordId) -> Result<Option<Record>, ApiError> {
    last_state_at(env, id, env.applied.position()).await
}

async fn last_state_at(
    env: &RecordEnv,
    id: &RecordId,
    until: u64,
) -> Result<Option<Record>, ApiError> {
    let walk = Walk::begin(env, id, until).await?;
    if walk.record().is_some() {
        return Ok(walk.into_record());
    }
    match env.store.find_full_state(&walk.stream, until).await? {
        Some(deletion) => record_at(env, id, deletion - 1).await,
        None => Ok(None),
    }
}

/// Returns the last state of the record that `then` was at a position: who may see that may see what it
/// was. What was made under its id after it was deleted is another record.
///
/// # Errors
/// The store or the log cannot be read.
pub async fn last_state_of(
    env: &RecordEnv,
    then: &Record,
    position: u64,
) -> Result<Option<Record>, ApiError> {
    let last = last_state(env, &then.id).await?;
    if last.as_ref().is_some_and(|last| is_same(then, last)) {
        return Ok(last);
    }
    let creations = creations(env, &then.id).await?;
    match creations.into_iter().find(|creation| *creation > position) {
        Some(next) => last_state_at(env, &then.id, next - 1).await,
        None => Ok(last),
    }
}

/// Whether two records of one id are one record at two times, and not another made when the first was
/// gone. One that was restored is what it was.
pub(super) fn is_same(then: &Record, last: &Record) -> bool {
    then.created_at == last.created_at
}

/// Finds where the record was created that `last` is the last state of; one that was restored right
/// after it was deleted began before that.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn begin_of(env: &RecordEnv, last: &Record) -> Result<u64, ApiError> {
    let mut begin = None;
    for creation in creations(env, &last.id).await?.into_iter().rev() {
        let created = record_at(env, &last.id, creation).await?;
        if begin.is_some() && !created.is_some_and(|created| is_same(&created, last)) {
            break;
        }
        begin = Some(creation);
    }
    Ok(begin.unwrap_or_default())
}

/// Lists where records were created under an id, in order.
///
/// # Errors
/// The store or the log cannot be read.
async fn creations(env: &RecordEnv, id: &RecordId) -> Result<Vec<u64>, ApiError> {
    let stream = Stream::Record(id.clone());
    let until = env.applied.position();
    let positions = env.store.list_creations(&stream, until).await?;
    let events = read_all(env, &positions).await?.into_iter();
    let its = events.filter(|(_, event)| event.stream == stream);
    Ok(its.map(|(_, event)| event.position).collect())
}

/// Goes through a record's past, event by event.
#[derive(Debug)]
pub struct Walk {
    id: RecordId,
    stream: Stream,
    of_type: Stream,
    position: u64,
    head: Option<Head>,
}

impl Walk {
    /// Begins with the state right after a position, which the store must have applied.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub async fn begin(env: &RecordEnv, id: &RecordId, until: u64) -> Result<Self, ApiError> {
        let stream = Stream::Record(id.clone());
        let from = env.store.find_full_state(&stream, until).await?;
        let mut walk = Self {
            id: id.clone(),
            stream,
            of_type: Stream::Type(id.record_type.clone()),
            position: from.map_or(until, |from| from.saturating_sub(1)),
            head: None,
        };
        for (_, event) in walk.ahead(env, until).await? {
            walk.take(&event);
        }
        Ok(walk)
    }

    /// Reads the events of the record and its type from here to a position, in order.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub async fn ahead(
        &self,
        env: &RecordEnv,
        until: u64,
    ) -> Result<Vec<(Arc<Commit>, Event)>, ApiError> {
        let from = self.position + 1;
        let mut positions = env.store.list_positions(&self.stream, from, until).await?;
        positions.extend(env.store.list_positions(&self.of_type, from, until).await?);
        positions.sort_unstable();
        let mut events = read_all(env, &positions).await?;
        // The store's places are those of hashes: another stream may have the same.
        events.retain(|(_, event)| event.stream == self.stream || event.stream == self.of_type);
        Ok(events)
    }

    /// Folds the next event.
    pub fn take(&mut self, event: &Event) {
        self.position = event.position;
        if event.stream == self.stream {
            self.head = match apply::record(self.head.as_ref(), &self.id, event) {
                Folded::Known(head) => head,
                Folded::Unknown => None,
            };
        } else if let Some(head) = &mut self.head {
            apply::reshape(&mut head.record, &event.body);
        }
    }

    /// Follows the names of fields to a position, and nothing else: what the record was here, told
    /// in the words of then.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub async fn keep_up(&mut self, env: &RecordEnv, until: u64) -> Result<(), ApiError> {
        let events = self.ahead(env, until).await?;
        for (_, event) in events {
            if event.stream == self.of_type {
                self.take(&event);
            }
        }
        Ok(())
    }

    /// Returns the record's stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Returns the record as it is here; `None` when there is none.
    pub fn record(&self) -> Option<&Record> {
        self.head.as_ref().map(|head| &head.record)
    }

    /// Returns the record with its version and position as they are here; `None` when there is none.
    pub fn into_head(self) -> Option<Head> {
        self.head
    }

    /// Returns the record as it is here; `None` when there is none.
    pub fn into_record(self) -> Option<Record> {
        self.head.map(|head| head.record)
    }
}

/// Reads an event and the commit that it is of.
///
/// # Errors
/// The log cannot be read, or ends before.
pub(crate) async fn read(env: &RecordEnv, position: u64) -> Result<(Arc<Commit>, Event), ApiError> {
    let mut found = read_all(env, &[position]).await?;
    found.pop().ok_or_else(|| unreadable(&"nothing is there"))
}

/// Reads the events at some positions, each with the commit that it is of.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_all(
    env: &RecordEnv,
    positions: &[u64],
) -> Result<Vec<(Arc<Commit>, Event)>, ApiError> {
    let commits = env.log.read_each(positions).await;
    let commits = commits.map_err(|error| unreadable(&error))?;
    let event = |(commit, position): (Arc<Commit>, &u64)| {
        let mut events = commit.events.iter();
        let event = events.find(|event| event.position == *position)?.clone();
        Some((commit, event))
    };
    let events = commits.into_iter().zip(positions).map(event);
    let events: Option<Vec<_>> = events.collect();
    events.ok_or_else(|| unreadable(&"a commit without its event"))
}

fn unreadable(cause: &dyn std::fmt::Display) -> ApiError {
    tracing::error!(%cause, "the log cannot be read");
    ApiError::unexpected("the log cannot be read")
}
