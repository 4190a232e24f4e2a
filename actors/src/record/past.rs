//! A record as it was, folded from the log.
//!
//! The store knows the positions of a record's events. They are read and folded from the last one
//! with a full state on, together with the events of the type in between: what was saved under a
//! field's old name is returned under the name that the field had at the wanted position. Numbers
//! that records got when their type got a sequence field are not in the log: the store has them
//! ([`super::numbered`]).

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::vec;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventBody, EventKind, Stream};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::{Head, Record};
use skytrail_schema::time::Timestamp;

use super::apply::{self, Folded};
use super::env::RecordEnv;
use super::numbered::{self, Numbers, Span};
use crate::log::seek::{load_events, position_at, unreadable};

/// How many events are read at once.
pub(crate) const BATCH_SIZE: usize = 512;

/// A point in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Right after this position of the log.
    Position(u64),
    /// Right after everything that was committed at or before this time.
    Time(Timestamp),
}

impl Moment {
    /// Finds the moment's position. The store has then applied it, and everything acknowledged
    /// before.
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

/// Returns a record's state right after position `until`, which the store must have applied; `None`
/// if there was none.
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

/// Like [`record_at`], for many records together.
///
/// # Errors
/// Those of [`record_at`].
pub(super) async fn records_at(
    env: &RecordEnv,
    ids: &[RecordId],
    until: u64,
) -> Result<Vec<Option<Record>>, ApiError> {
    let at: Vec<_> = ids.iter().map(|id| (id.clone(), until)).collect();
    let walks = Walk::begin_each(env, &at).await?.into_iter();
    Ok(walks.map(Walk::into_record).collect())
}

/// Like [`record_at`], but also `None` if erasures have left less than the record was.
///
/// # Errors
/// Those of [`record_at`].
pub async fn whole_record_at(
    env: &RecordEnv,
    id: &RecordId,
    until: u64,
) -> Result<Option<Record>, ApiError> {
    let walk = Walk::begin(env, id, until).await?;
    Ok(walk.into_head_if_whole().map(|head| head.record))
}

/// Returns a record as the store has it, or as it was before it was deleted, under the present
/// names of its fields; `None` if there never was one.
///
/// # Errors
/// The store or the log cannot be read.
pub async fn last_state(env: &RecordEnv, id: &RecordId) -> Result<Option<Record>, ApiError> {
    let at = [(id.clone(), env.applied.position())];
    let found = last_states(env, &at).await?;
    Ok(found.into_iter().next().flatten())
}

/// Returns the state of each record at its own position, or before it was deleted.
async fn last_states(
    env: &RecordEnv,
    at: &[(RecordId, u64)],
) -> Result<Vec<Option<Record>>, ApiError> {
    let now = env.applied.position();
    let walks = Walk::begin_each_named(env, at, now).await?;
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

/// Returns the last state of each record in `then`, which are states at `position`. Fields have
/// their present names.
///
/// A caller who may not see the last state may not see the earlier one. A record that was created
/// under the same id after a deletion is another record.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn last_states_of(
    env: &RecordEnv,
    then: &[&Record],
    position: u64,
) -> Result<Vec<Option<Record>>, ApiError> {
    let until = env.applied.position();
    let at = then.iter().map(|then| (then.id.clone(), until));
    let at: Vec<_> = at.collect();
    let mut found = last_states(env, &at).await?;
    let pairs = then.iter().zip(&mut found);
    let others = pairs.filter(|(then, last)| last.as_ref().is_none_or(|last| !is_same(then, last)));
    let (ids, others): (Vec<_>, Vec<_>) = others
        .map(|(then, last)| (then.id.clone(), (then.created_at, last)))
        .unzip();
    let created = creations(env, &ids, until).await?.into_iter();
    let (mut at, mut slots) = (Vec::new(), Vec::new());
    for ((id, (made_at, last)), creations) in ids.into_iter().zip(others).zip(created) {
        // It may have been restored since, even after another record was created.
        let own = creations.iter().rfind(|it| it.made_at == Some(made_at));
        let own = own.map_or(position, |it| it.position.max(position));
        if let Some(next) = creations.iter().find(|it| it.position > own) {
            at.push((id, next.position - 1));
            slots.push(last);
        }
    }
    for (slot, last) in slots.into_iter().zip(last_states(env, &at).await?) {
        *slot = last;
    }
    Ok(found)
}

/// Whether two states of one id belong to the same record, and not to another that was created
/// after the first was deleted. A restored record is still the same.
pub(super) fn is_same(then: &Record, last: &Record) -> bool {
    then.created_at == last.created_at
}

/// Finds the position at which the record with the last state `last` was created. A record that was
/// restored right after it was deleted began before the deletion.
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

/// Finds where records that existed at a position were created or restored.
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

/// Lists where records were created or restored under each id, up to a position by which one was.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn places(
    env: &RecordEnv,
    ids: &[RecordId],
    until: u64,
) -> Result<Vec<Vec<u64>>, ApiError> {
    let created = creations(env, ids, until).await?.into_iter();
    let places = created.map(|its| its.into_iter().map(|it| it.position).collect());
    Ok(places.collect())
}

/// The creation or restoration of a record.
struct Creation {
    position: u64,
    /// When the record was created, which a restored one keeps; `None` if that was erased, or if
    /// this is the only creation.
    made_at: Option<Timestamp>,
}

/// Lists, for each id, the creations up to a position at which the record existed, in order.
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

/// Lists the records of some types that were deleted within a range, which the store must have
/// applied.
///
/// # Errors
/// The store or the log cannot be read.
pub(crate) async fn deleted(
    env: &RecordEnv,
    range: RangeInclusive<u64>,
    is_selected: impl Fn(&TypeName) -> bool,
) -> Result<BTreeSet<RecordId>, ApiError> {
    let mut found = BTreeSet::new();
    let mut deletions = Deletions::within(range);
    let is_selected = |_, id: &RecordId| is_selected(&id.record_type);
    while let Some(ids) = deletions.next(env, is_selected).await? {
        found.extend(ids);
    }
    Ok(found)
}

/// Shows the last states of records that were deleted within a range, if they are selected by the
/// positions of their deletions: the state before the deletion, or that of the record which has
/// the id today.
///
/// # Errors
/// The store or the log cannot be read.
pub(crate) async fn each_deleted(
    env: &RecordEnv,
    range: RangeInclusive<u64>,
    is_selected: impl Fn(u64, &RecordId) -> bool,
    mut see: impl FnMut(Record),
) -> Result<(), ApiError> {
    let mut deletions = Deletions::within(range);
    while let Some(ids) = deletions.next(env, &is_selected).await? {
        let now = env.applied.position();
        let at: Vec<_> = ids.into_iter().map(|id| (id, now)).collect();
        let last = last_states(env, &at).await?;
        last.into_iter().flatten().for_each(&mut see);
    }
    Ok(())
}

/// Goes through the deletions of records within a range, in order.
struct Deletions {
    /// What is not looked at yet.
    rest: RangeInclusive<u64>,
    positions: vec::IntoIter<u64>,
}

impl Deletions {
    /// How many positions of the log are looked at together: a long log can have very many
    /// deletions.
    const SPAN: u64 = 1 << 18;

    fn within(range: RangeInclusive<u64>) -> Self {
        Self {
            rest: range,
            positions: Vec::new().into_iter(),
        }
    }

    /// Returns the ids of some more, of which none may be selected; `None` at the end.
    async fn next(
        &mut self,
        env: &RecordEnv,
        is_selected: impl Fn(u64, &RecordId) -> bool,
    ) -> Result<Option<BTreeSet<RecordId>>, ApiError> {
        while self.positions.as_slice().is_empty() {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let (from, end) = (*self.rest.start(), *self.rest.end());
            let until = end.min(from.saturating_add(Self::SPAN - 1));
            let kind = EventKind::RecordDeleted;
            let positions = env.store.list_positions_of_kind(kind, from, until).await?;
            self.positions = positions.into_iter();
            self.rest = until + 1..=end;
        }
        let some: Vec<u64> = self.positions.by_ref().take(BATCH_SIZE).collect();
        let events = load_events(&*env.log, &some).await?.into_iter();
        let ids = events.filter_map(|(_, event)| match event.stream {
            Stream::Record(id) if is_selected(event.position, &id) => Some(id),
            _ => None,
        });
        Ok(Some(ids.collect()))
    }
}

/// Walks through a record's past, event by event.
#[derive(Debug)]
pub struct Walk {
    id: RecordId,
    stream: Stream,
    of_type: Stream,
    position: u64,
    /// The position of the last event that does not build on earlier ones.
    full: Option<u64>,
    head: Option<Head>,
    /// Where the record was created, if the walk began there.
    place: Option<u64>,
    /// The numbers that the record got on the way.
    numbers: Numbers,
    /// Whether an erasure took a change that the present state of the walk rests on.
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
            .ok_or_else(|| unreadable(until, &"no walk"))
    }

    /// Like [`Walk::begin`], for many records, in their order, each at its own position: what they
    /// need is read together.
    ///
    /// # Errors
    /// Those of [`Walk::begin`].
    pub async fn begin_each(
        env: &RecordEnv,
        at: &[(RecordId, u64)],
    ) -> Result<Vec<Self>, ApiError> {
        Self::begin_each_named(env, at, 0).await
    }

    /// Like [`Walk::begin_each`], but with the names that fields had at the later position `named`.
    async fn begin_each_named(
        env: &RecordEnv,
        at: &[(RecordId, u64)],
        named: u64,
    ) -> Result<Vec<Self>, ApiError> {
        if at.is_empty() {
            return Ok(Vec::new());
        }
        let streams = at.iter();
        let streams = streams.map(|(id, until)| (Stream::Record(id.clone()), *until));
        let streams: Vec<_> = streams.collect();
        let full = env.streams().full_states(&streams).await?;
        let walks = at.iter().zip(full);
        let mut walks: Vec<Self> = walks
            .map(|((id, _), full)| Self::from(id, full.as_ref()))
            .collect();
        let on_the_way = walks.iter().zip(at);
        let on_the_way = on_the_way.map(|(walk, (_, until))| walk.span(*until));
        let on_the_way: Vec<_> = on_the_way.collect();
        let numbers = numbered::load(env, &on_the_way).await?;
        for (walk, numbers) in walks.iter_mut().zip(numbers) {
            walk.numbers = numbers;
        }
        // For each stream: the wanted range of positions, and the walks that want its events.
        let mut takers: HashMap<Stream, (RangeInclusive<u64>, Vec<usize>)> = HashMap::new();
        for (number, (walk, (_, until))) in walks.iter().zip(at).enumerate() {
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
                if let Some((walk, (_, until))) = walks.get_mut(*number).zip(at.get(*number))
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
            place: None,
            numbers: Numbers::new(),
            has_gap: false,
        };
        if let Some(event) = full {
            let is_creation = matches!(event.body, EventBody::RecordCreated(_));
            walk.place = is_creation.then_some(event.position);
            walk.take(event);
        }
        walk
    }

    /// Returns the part of the record's past from here to a position.
    fn span(&self, until: u64) -> Span<'_> {
        Span {
            id: &self.id,
            after: self.position,
            // No record, no number.
            until: self.head.as_ref().map_or(self.position, |_| until),
            place: self.place,
        }
    }

    /// Reads the events of the record and its type from here to a position, in order.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub async fn ahead(
        &mut self,
        env: &RecordEnv,
        until: u64,
    ) -> Result<Vec<(Arc<Commit>, Event)>, ApiError> {
        // Several records can be created under the id on the way.
        let span = Span {
            id: &self.id,
            after: self.position,
            until,
            place: None,
        };
        let numbers = numbered::load(env, &[span]).await?;
        self.numbers.extend(numbers.into_iter().flatten());
        let range = self.position + 1..=until;
        let ranges = [&self.stream, &self.of_type].map(|it| (it.clone(), range.clone()));
        env.streams().read_all(&ranges).await
    }

    /// Folds the next event.
    pub fn take(&mut self, event: &Event) {
        self.position = event.position;
        if event.stream == self.stream {
            match event.body {
                // The kind of a deletion says everything, even if it was erased.
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
            if let Some(number) = self.numbers.get(&event.position) {
                numbered::give(&mut head.record, &event.body, *number);
            }
        }
    }

    /// Follows only the names of fields to a position: the record stays as it is here, but its
    /// fields get the names of then. It gets no numbers.
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

    /// Returns the record as it is here; `None` if there is none.
    pub fn record(&self) -> Option<&Record> {
        self.head.as_ref().map(|head| &head.record)
    }

    /// Returns the record as it is here, with its version and position; `None` if there is none.
    pub fn into_head(self) -> Option<Head> {
        self.head
    }

    /// Whether everything is left that made the record what it is here.
    ///
    /// If not, or if no full state is left, erasures may have removed what it was.
    pub fn is_whole(&self) -> bool {
        self.full.is_some() && !self.has_gap
    }

    /// Like [`Self::into_head`], but also `None` if not everything of it is left.
    pub fn into_head_if_whole(self) -> Option<Head> {
        let is_whole = self.is_whole();
        self.into_head().filter(|_| is_whole)
    }

    /// Returns the record as it is here; `None` if there is none.
    pub fn into_record(self) -> Option<Record> {
        self.head.map(|head| head.record)
    }
}
