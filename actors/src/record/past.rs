//! A record as it was, folded from the log.
//!
//! The store knows where a record's events stand. From the last one that carries
//! a full state on they are read and folded, together with the events of the
//! type in between: what was saved under a field's old name is returned under the
//! name that it had at that position. Numbers that records got when their type got
//! a sequence field are not in the log, so they are missing here.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventBody, EventKind, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::{Head, Record};
use skytrail_schema::time::Timestamp;

use super::apply::{self, Folded};
use super::env::RecordEnv;
use crate::log::seek::position_at;

/// How many events are read at once.
pub(crate) const AT_ONCE: usize = 512;

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
            Self::Time(time) => position_at(&*env.log, time).await,
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

/// As [`record_at`], of many records together.
///
/// # Errors
/// As [`record_at`].
pub(super) async fn records_at(
    env: &RecordEnv,
    ids: &[RecordId],
    until: u64,
) -> Result<Vec<Option<Record>>, ApiError> {
    let wanted: Vec<_> = ids.iter().map(|id| (id.clone(), until)).collect();
    let walks = Walk::begin_each(env, &wanted).await?.into_iter();
    Ok(walks.map(Walk::into_record).collect())
}

/// As [`record_at`], but `None`, too, where erasures have left less than what the record was.
///
/// # Errors
/// As [`record_at`].
pub async fn whole_record_at(
    env: &RecordEnv,
    id: &RecordId,
    until: u64,
) -> Result<Option<Record>, ApiError> {
    let walk = Walk::begin(env, id, until).await?;
    Ok(walk.into_head_if_whole().map(|head| head.record))
}

/// Returns a record as the store has it, or as it was before it was deleted, under the names that its
/// fields have now; `None` when there never was one.
///
/// # Errors
/// The store or the log cannot be read.
pub async fn last_state(env: &RecordEnv, id: &RecordId) -> Result<Option<Record>, ApiError> {
    let wanted = [(id.clone(), env.applied.position())];
    let found = last_states(env, &wanted).await?;
    Ok(found.into_iter().next().flatten())
}

/// Returns what each of some records was at a position of its own, or before it was deleted.
async fn last_states(
    env: &RecordEnv,
    wanted: &[(RecordId, u64)],
) -> Result<Vec<Option<Record>>, ApiError> {
    let now = env.applied.position();
    let walks = Walk::begin_each_named(env, wanted, now).await?;
    let gone = walks.iter().filter(|walk| walk.head.is_none());
    let gone = gone.filter_map(|walk| Some((walk.id.clone(), walk.full? - 1)));
    let gone: Vec<_> = gone.collect();
    let before = Walk::begin_each_named(env, &gone, now).await?;
    let mut before = before.into_iter();
    let found = walks.into_iter().map(|walk| {
        if walk.head.is_none() && walk.full.is_some() {
            before.next().and_then(Walk::into_record)
        } else {
            walk.into_record()
        }
    });
    Ok(found.collect())
}

/// Returns the last states of the records that `then` were at a position, under the names that their
/// fields have now: who may not see that may not see what they were. What was made under the id of one
/// after it was deleted is another record.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn last_states_of(
    env: &RecordEnv,
    then: &[&Record],
    position: u64,
) -> Result<Vec<Option<Record>>, ApiError> {
    let until = env.applied.position();
    let wanted = then.iter().map(|then| (then.id.clone(), until));
    let wanted: Vec<_> = wanted.collect();
    let mut found = last_states(env, &wanted).await?;
    let pairs = then.iter().zip(&mut found);
    let others = pairs.filter(|(then, last)| last.as_ref().is_none_or(|last| !is_same(then, last)));
    let (ids, others): (Vec<_>, Vec<_>) = others
        .map(|(then, last)| (then.id.clone(), (then.created_at, last)))
        .unzip();
    let created = creations(env, &ids, until).await?.into_iter();
    let (mut wanted, mut slots) = (Vec::new(), Vec::new());
    for ((id, (made_at, last)), creations) in ids.into_iter().zip(others).zip(created) {
        // It may have been restored since, also after another was made.
        let own = creations.iter().rfind(|it| it.made_at == Some(made_at));
        let own = own.map_or(position, |it| it.position.max(position));
        if let Some(next) = creations.iter().find(|it| it.position > own) {
            wanted.push((id, next.position - 1));
            slots.push(last);
        }
    }
    for (slot, last) in slots.into_iter().zip(last_states(env, &wanted).await?) {
        *slot = last;
    }
    Ok(found)
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
    let ids = std::slice::from_ref(&last.id);
    let created = creations(env, ids, env.applied.position()).await?;
    let mut begin = None;
    for creation in created.into_iter().flatten().rev() {
        if begin.is_some() && creation.made_at != Some(last.created_at) {
            break;
        }
        begin = Some(creation.position);
    }
    Ok(begin.unwrap_or_default())
}

/// Finds where some records were created, or restored, that were there at a position.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn last_creations(
    env: &RecordEnv,
    ids: &[RecordId],
    until: u64,
) -> Result<Vec<u64>, ApiError> {
    let created = creations(env, ids, until).await?.into_iter();
    let last = created.map(|creations| creations.last().map(|it| it.position).unwrap_or_default());
    Ok(last.collect())
}

/// Where a record was created or restored.
struct Creation {
    position: u64,
    /// When the record was made, which a restored one keeps; `None` where that was erased, and where no
    /// other is told from it.
    made_at: Option<Timestamp>,
}

/// Lists where records were created under each of some ids, up to a position by which one was, in
/// order.
async fn creations(
    env: &RecordEnv,
    ids: &[RecordId],
    until: u64,
) -> Result<Vec<Vec<Creation>>, ApiError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let streams: Vec<Stream> = ids.iter().cloned().map(Stream::Record).collect();
    let found = env.streams().creations(&streams, until).await?;
    let creation = |(position, event): (u64, Option<Event>)| Creation {
        position,
        made_at: event.and_then(|event| match event.body {
            EventBody::RecordCreated(state) => Some(state.creation().at),
            _ => None,
        }),
    };
    let found = found.into_iter();
    let found = found.map(|its| its.into_iter().map(creation).collect());
    Ok(found.collect())
}

/// Goes through a record's past, event by event.
#[derive(Debug)]
pub struct Walk {
    id: RecordId,
    stream: Stream,
    of_type: Stream,
    position: u64,
    /// Where it found the last event that does not build on earlier ones.
    full: Option<u64>,
    head: Option<Head>,
    /// Whether an erasure took a change that the record as it is here rests on.
    has_gap: bool,
}

impl Walk {
    /// Begins with the state right after a position, which the store must have applied.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub async fn begin(env: &RecordEnv, id: &RecordId, until: u64) -> Result<Self, ApiError> {
        let begun = Self::begin_each(env, &[(id.clone(), until)]).await?;
        begun
            .into_iter()
            .next()
            .ok_or_else(|| unreadable(&"no walk"))
    }

    /// As [`Walk::begin`], for many records, in their order, each at a position of its own: what they
    /// need is read together.
    ///
    /// # Errors
    /// As [`Walk::begin`].
    pub async fn begin_each(
        env: &RecordEnv,
        wanted: &[(RecordId, u64)],
    ) -> Result<Vec<Self>, ApiError> {
        Self::begin_each_named(env, wanted, 0).await
    }

    /// As [`Walk::begin_each`], under the names that fields had at a later position.
    async fn begin_each_named(
        env: &RecordEnv,
        wanted: &[(RecordId, u64)],
        named: u64,
    ) -> Result<Vec<Self>, ApiError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let streams = wanted.iter();
        let streams = streams.map(|(id, until)| (Stream::Record(id.clone()), *until));
        let streams: Vec<_> = streams.collect();
        let full = env.streams().full_states(&streams).await?;
        let walks = wanted.iter().zip(full);
        let mut walks: Vec<Self> = walks
            .map(|((id, _), full)| Self::from(id, full.as_ref()))
            .collect();
        // Between which positions a stream's events are wanted, and by whom.
        let mut takers: HashMap<Stream, (RangeInclusive<u64>, Vec<usize>)> = HashMap::new();
        for (number, (walk, (_, until))) in walks.iter().zip(wanted).enumerate() {
            if walk.full.is_some() {
                let from = walk.position + 1;
                for (stream, until) in [(&walk.stream, *until), (&walk.of_type, named.max(*until))]
                {
                    let taker = takers.entry(stream.clone());
                    let (range, numbers) = taker.or_insert((from..=until, Vec::new()));
                    *range = from.min(*range.start())..=until.max(*range.end());
                    numbers.push(number);
                }
            }
        }
        let ranges = takers.iter();
        let ranges: Vec<_> = ranges
            .map(|(stream, (range, _))| (stream.clone(), range.clone()))
            .collect();
        let see = |_, event: Event| {
            let numbers = takers.get(&event.stream).into_iter();
            for number in numbers.flat_map(|(_, numbers)| numbers) {
                if let Some((walk, (_, until))) = walks.get_mut(*number).zip(wanted.get(*number))
                    && event.position > walk.position
                    && (event.position <= *until
                        || (event.position <= named && event.stream == walk.of_type))
                {
                    walk.take(&event);
                }
            }
        };
        env.streams().each(&ranges, see).await?;
        Ok(walks)
    }

    /// Starts with an event that does not build on earlier ones.
    fn from(id: &RecordId, full: Option<&Event>) -> Self {
        let mut walk = Self {
            id: id.clone(),
            stream: Stream::Record(id.clone()),
            of_type: Stream::Type(id.record_type.clone()),
            position: 0,
            full: full.map(|event| event.position),
            head: None,
            has_gap: false,
        };
        if let Some(event) = full {
            walk.take(event);
        }
        walk
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
        let range = self.position + 1..=until;
        let wanted = [&self.stream, &self.of_type].map(|it| (it.clone(), range.clone()));
        env.streams().read_all(&wanted).await
    }

    /// Folds the next event.
    pub fn take(&mut self, event: &Event) {
        self.position = event.position;
        if event.stream == self.stream {
            match event.body {
                // A deletion says all with its kind.
                _ if event.body.kind() == EventKind::RecordDeleted => self.has_gap = false,
                EventBody::Erased(_) => self.has_gap = true,
                EventBody::RecordCreated(_) | EventBody::RecordReplaced(_) => self.has_gap = false,
                _ => {}
            }
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
        let range = self.position + 1..=until;
        for (_, event) in env.streams().read(&self.of_type, range).await? {
            self.take(&event);
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

    /// Whether all is left that made the record what it is here. If not, and where nothing is left to
    /// begin with, erasures may have taken what it was.
    pub fn is_whole(&self) -> bool {
        self.full.is_some() && !self.has_gap
    }

    /// As [`Self::into_head`], but `None`, too, when not all of it is left.
    pub fn into_head_if_whole(self) -> Option<Head> {
        let is_whole = self.is_whole();
        self.into_head().filter(|_| is_whole)
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
