//! What a listener missed, from the log.
//!
//! The log has more than the user may read, so it is read twice. The first time shows to which
//! records something happened. Those that the user may read as they are at the end are then told
//! event by event, with their state at each event. Of the others it is only told that they left, if
//! the user may have had them. Whether the query found one of those is not asked: a predicate could
//! be used to find out what they were. In the same way, of a past state only those fields are told
//! that the user was allowed to see then and is allowed to see now: rules may depend on whom the
//! record names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Event, EventBody, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;
use skytrail_schema::time::Timestamp;

use super::frame::Frame;
use super::lens::{Audience, disturbs, moves};
use super::load::Renderer;
use super::query::LiveQuery;
use super::service::LiveSettings;
use super::view::Missed;
use crate::budget::MAX_COST;
use crate::log::seek::{load_events, load_page};
use crate::record::apply::{self, Folded};
use crate::record::env::RecordEnv;
use crate::record::page_bytes::BatchSize;
use crate::record::past::Walk;
use crate::record::weighed::WeighedCache;
use crate::yield_budget::YieldBudget;

/// About how many events are read at once.
const PAGE_EVENTS: usize = 1024;

/// How many records are looked up together.
const MAX_BATCH: usize = 512;

/// How many events of its type are looked at for each record of the result.
///
/// Looking at an event costs about four times as much CPU as sending a record of the result. If
/// every event is about the result, twice as many events as records are about twice as many bytes,
/// too.
const EVENTS_PER_RECORD: usize = 2;

/// Why the listener has to start anew.
pub(super) const CHANGED_MEANWHILE: &str =
    "access rights, fields or records that the query reads have changed; start again";
pub(super) const TOO_OLD: &str = "too old: too much has happened since; start again";
const TOO_MANY: &str = "more has happened since than the result has records; start again";
const ERASED: &str = "some of the missed events were erased; start again";
/// It took too long to find out what was missed.
pub(super) const TOO_LONG: &str = "finding the missed events takes too long; start again";

pub(super) const PUT_BACK: &str = "the log was restored to an earlier state; start again";
const TOO_COSTLY: &str = "the query would have to read too much for that; start again";
const UNREADABLE: &str = "the missed events cannot be read; start again";

/// The outcome of a replay.
#[derive(Debug)]
pub(super) enum Replayed {
    /// Everything that the listener missed.
    Told(Vec<Frame>),
    /// The listener gets the result anew, for this reason.
    Reset(&'static str),
}

/// Why what was missed cannot be told.
enum CannotReplay {
    /// It cannot be told exactly, for this reason.
    Because(&'static str),
    /// It cannot be read.
    Failed(ApiError),
}

impl From<ApiError> for CannotReplay {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// Finds out what members missed. If that is more than the settings allow, none of it is told.
pub(super) async fn replay(
    env: &RecordEnv,
    whose: (&LiveQuery, &Audience),
    missed: &Missed,
    settings: LiveSettings,
) -> Replayed {
    let Missed { from, until, .. } = *missed;
    if from > env.log.head() {
        return Replayed::Reset(PUT_BACK);
    }
    if until.saturating_sub(from) > settings.max_missed {
        return Replayed::Reset(TOO_OLD);
    }
    let mut replay = Replay {
        env,
        whose,
        missed,
        renderer: Renderer::new(env),
        open: HashMap::new(),
        heads: Heads::new(),
        ends: Heads::new(),
        frames: Vec::new(),
        num_bytes: 0,
        max_bytes: settings.max_queue_bytes,
        max_events: missed
            .num_records
            .saturating_mul(EVENTS_PER_RECORD)
            .max(settings.always_told),
        yield_budget: YieldBudget::default(),
    };
    // The follower is ahead of the store, which knows where a record's events are.
    if let Err(error) = env.applied.wait_for(until).await {
        tracing::warn!(%error, from, "events that a live query missed cannot be looked up");
        return Replayed::Reset(UNREADABLE);
    }
    match replay.run().await {
        Ok(()) => Replayed::Told(replay.frames),
        Err(CannotReplay::Because(reason)) => Replayed::Reset(reason),
        Err(CannotReplay::Failed(error)) => {
            tracing::warn!(%error, from, "events that a live query missed cannot be read");
            Replayed::Reset(UNREADABLE)
        }
    }
}

type Heads = WeighedCache<RecordId, Option<Arc<Head>>>;

struct Replay<'a> {
    env: &'a RecordEnv,
    whose: (&'a LiveQuery, &'a Audience),
    missed: &'a Missed,
    renderer: Renderer<'a>,
    /// The records that the user may read as they are at the end, and when those were created.
    /// Whatever had the same id before is a different record.
    open: HashMap<RecordId, Timestamp>,
    /// The records that are told of, as the last event left them.
    heads: Heads,
    /// The same records as they are at the end, where that affects which of their fields are told.
    ends: Heads,
    frames: Vec<Frame>,
    /// The bytes of the frames, and how many are allowed.
    num_bytes: usize,
    max_bytes: usize,
    /// How many events can be about records of the type.
    max_events: usize,
    yield_budget: YieldBudget,
}

/// What happened to a record.
struct Met {
    positions: Vec<u64>,
    /// Whether it did not exist before.
    is_new: bool,
    /// Whether it does not exist at the end.
    is_gone: bool,
}

impl Replay<'_> {
    async fn run(&mut self) -> Result<(), CannotReplay> {
        let met = self.meet().await?;
        let mut positions = self.sort_out(met).await?;
        positions.sort_unstable();
        for some in positions.chunks(PAGE_EVENTS) {
            for (_, event) in load_events(&*self.env.log, some).await? {
                self.tell(&event).await?;
            }
        }
        Ok(())
    }

    /// Reads the events, and finds which records they are about.
    async fn meet(&self) -> Result<BTreeMap<RecordId, Met>, CannotReplay> {
        let (mut met, mut num_events) = (BTreeMap::new(), 0);
        let mut position = self.missed.from;
        while position < self.missed.until {
            let (commits, last) = load_page(&*self.env.log, position + 1, PAGE_EVENTS).await?;
            let events = commits.iter().flat_map(|commit| &commit.events);
            let missed_range = position + 1..=self.missed.until;
            for event in events.filter(|event| missed_range.contains(&event.position)) {
                num_events += usize::from(self.note(event, &mut met)?);
                if num_events > self.max_events {
                    return Err(CannotReplay::Because(TOO_MANY));
                }
            }
            position = last;
        }
        Ok(met)
    }

    /// Notes an event; returns whether it is about a record of the type.
    fn note(&self, event: &Event, met: &mut BTreeMap<RecordId, Met>) -> Result<bool, CannotReplay> {
        let (query, lens) = (self.whose.0, &self.missed.lens);
        let has_moved = query.is_wide && moves(event, self.whose, Some(lens));
        if has_moved || disturbs(event, self.whose, Some(lens)) {
            return Err(CannotReplay::Because(CHANGED_MEANWHILE));
        }
        let Stream::Record(id) = &event.stream else {
            return Ok(false);
        };
        if query.is_wide || id.record_type != query.query.record_type {
            return Ok(false);
        }
        if let EventBody::Erased(_) = event.body {
            return Err(CannotReplay::Because(ERASED));
        }
        let met = met.entry(id.clone()).or_insert_with(|| Met {
            positions: Vec::new(),
            is_new: matches!(event.body, EventBody::RecordCreated(_)),
            is_gone: false,
        });
        met.positions.push(event.position);
        met.is_gone = matches!(event.body, EventBody::RecordDeleted(_));
        Ok(true)
    }

    /// Tells which records the user may not have any more, and returns the events of those that
    /// they may read.
    async fn sort_out(&mut self, met: BTreeMap<RecordId, Met>) -> Result<Vec<u64>, CannotReplay> {
        let (query, lens) = (self.whose.0, Arc::clone(&self.missed.lens));
        let may_find = |head: &Head| lens.may_find(query, &head.record);
        let (from, until) = (self.missed.from, self.missed.until);
        let met: Vec<(RecordId, Met)> = met.into_iter().collect();
        let (mut remaining, mut positions) = (met.as_slice(), Vec::new());
        let mut size = BatchSize::at_most(MAX_BATCH);
        while !remaining.is_empty() {
            let some;
            (some, remaining) = remaining.split_at(size.size().min(remaining.len()));
            let old = some.iter().filter(|(_, met)| !met.is_new);
            let mut then = self.states(old.map(|(id, _)| id), from).await?;
            let there = some.iter().filter(|(_, met)| !met.is_gone);
            let mut last = self.states(there.map(|(id, _)| id), until).await?;
            size.adapt_to(then.values().chain(last.values()).map(|head| &head.record));
            for (id, met) in some {
                if let Some(last) = last.remove(id).filter(&may_find) {
                    self.open.insert(id.clone(), last.record.created_at);
                    positions.extend(&met.positions);
                    if lens.may_hide {
                        keep(&mut self.ends, id, Some(Arc::new(last)), self.max_bytes);
                    }
                }
                let Some(then) = then.remove(id) else {
                    continue;
                };
                if may_find(&then) && !self.is_open(&then) {
                    self.put(self.missed.label.leave(None, id))?;
                }
                if self.open.contains_key(id) {
                    keep(&mut self.heads, id, Some(Arc::new(then)), self.max_bytes);
                }
            }
        }
        Ok(positions)
    }

    /// Whether a past state of the record may be told.
    fn is_open(&self, head: &Head) -> bool {
        self.open.get(&head.record.id) == Some(&head.record.created_at)
    }

    async fn tell(&mut self, event: &Event) -> Result<(), CannotReplay> {
        let Stream::Record(id) = &event.stream else {
            return Ok(());
        };
        let before = match self.heads.pop(id) {
            Some(cached) => cached,
            None => self.load(id, event).await?.map(Arc::new),
        };
        let Folded::Known(after) = apply::record(before.as_deref(), id, event) else {
            return Err(CannotReplay::Because(ERASED));
        };
        let after = after.map(Arc::new);
        let (was_there, spent) = self.finds(before.as_deref())?;
        let (is_there, of_after) = self.finds(after.as_deref())?;
        self.yield_budget
            .after(spent.saturating_add(of_after))
            .await;
        let end = self.end_of(id).await?;
        let Missed { label, lens, .. } = self.missed;
        self.renderer.begin();
        match after.as_ref().filter(|_| is_there) {
            Some(head) => {
                let name = if was_there { "change" } else { "enter" };
                let today = end.as_ref().map(|end| &end.record);
                let (place, _) = self.renderer.render(self.whose.0, lens, (head, today));
                let place = (event.position, place);
                let frame = self.renderer.record(label, name, place);
                self.put(frame)?;
            }
            None if was_there => self.put(label.leave(Some(event.position), id))?,
            None => {}
        }
        keep(&mut self.heads, id, after, self.max_bytes);
        Ok(())
    }

    /// Whether the query finds a record that may be told, and what it cost to find out.
    fn finds(&self, head: Option<&Head>) -> Result<(bool, u64), CannotReplay> {
        let Some(head) = head.filter(|head| self.is_open(head)) else {
            return Ok((false, 0));
        };
        let (query, lens) = (self.whose.0, &self.missed.lens);
        let cost = lens.cost(query, &head.record, MAX_COST);
        if cost > MAX_COST {
            return Err(CannotReplay::Because(TOO_COSTLY));
        }
        Ok((lens.finds(query, &head.record), cost))
    }

    fn put(&mut self, frame: Frame) -> Result<(), CannotReplay> {
        self.num_bytes += frame.num_bytes();
        if self.num_bytes > self.max_bytes {
            return Err(CannotReplay::Because(TOO_OLD));
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Returns a record as it is at the end, if some rule may hide fields of it.
    async fn end_of(&mut self, id: &RecordId) -> Result<Option<Arc<Head>>, CannotReplay> {
        if !self.missed.lens.may_hide {
            return Ok(None);
        }
        if let Some(cached) = self.ends.get(id) {
            return Ok(cached.clone());
        }
        let mut found = self.states([id], self.missed.until).await?;
        let end = found.remove(id).map(Arc::new);
        keep(&mut self.ends, id, end.clone(), self.max_bytes);
        Ok(end)
    }

    /// Loads a record as it was before an event.
    async fn load(&self, id: &RecordId, event: &Event) -> Result<Option<Head>, CannotReplay> {
        if matches!(event.body, EventBody::RecordCreated(_)) {
            return Ok(None);
        }
        let before = event.position.saturating_sub(1);
        let mut found = self.states([id], before).await?;
        Ok(found.remove(id))
    }

    /// Loads records as they were at a position.
    async fn states<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i RecordId>,
        position: u64,
    ) -> Result<HashMap<RecordId, Head>, CannotReplay> {
        let at = ids.into_iter().map(|id| (id.clone(), position));
        let at: Vec<_> = at.collect();
        let mut found = HashMap::new();
        for walk in Walk::begin_each(self.env, &at).await? {
            // The records existed then, so a missing state means that it was erased, not that it
            // was unknown to the listener.
            let head = walk.into_head_if_whole();
            let head = head.ok_or(CannotReplay::Because(ERASED))?;
            found.insert(head.record.id.clone(), head);
        }
        Ok(found)
    }
}

/// Keeps a record. If there are too many bytes, the least recently used records are dropped.
fn keep(heads: &mut Heads, id: &RecordId, head: Option<Arc<Head>>, max_bytes: usize) {
    heads.put(id.clone(), head);
    while heads.bytes() > max_bytes {
        heads.pop_lru();
    }
}
