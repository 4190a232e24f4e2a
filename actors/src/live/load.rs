//! Looking up a result, and writing records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;
use skytrail_schema::query::Query;
use skytrail_schema::record::{Head, Record};

use super::frame::{Frame, Label};
use super::lens::{Audience, Lens};
use super::matcher::too_costly;
use super::query::LiveQuery;
use super::view::Change;
use crate::budget::{MAX_COST, TooCostly};
use crate::record::env::RecordEnv;
use crate::record::included::Included;
use crate::record::messages::Found;
use crate::record::page_bytes::{BatchSize, PageBytes};
use crate::store::SnapshotAnswer;
use crate::yield_budget::YieldBudget;

/// How many records go into a frame.
const PAGE_RECORDS: usize = 100;

/// How often a result is looked up again because the lens changed meanwhile, and how often because
/// the log was behind what SQL has done.
pub(super) const MAX_ATTEMPTS: u32 = 20;

/// How many records are read from the log because SQL has changed their rows. If there are more, the
/// result is looked up again when the log has the changes.
const MAX_CAPTURED: usize = 512;

/// The pause before that, in addition to the wait for the log, which failures end at once.
const CAPTURED_PAUSE: Duration = Duration::from_millis(50);

/// Computes hashes that nobody outside can aim at.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A record as a user sees it.
#[derive(Clone, Debug)]
pub(super) struct Body {
    /// As JSON.
    pub(super) text: Arc<str>,
    /// A hash of what it says. It does not cover addresses of files, which are always new.
    pub(super) hash: u64,
}

/// A result.
#[derive(Debug)]
pub(super) struct Loaded {
    /// How the user sees; it was true at `position`.
    pub(super) lens: Arc<Lens>,
    /// The position that the result is of.
    pub(super) position: u64,
    /// The records.
    pub(super) records: Vec<(RecordId, Body)>,
    /// The same as JSON arrays; at least one.
    pub(super) pages: Vec<String>,
}

/// Looks up a result. If it is too long, it has more records than may be told. Returns `None` if the
/// log has to [catch up](caught_up) with SQL before.
///
/// It is what the log says at its position, also of records that SQL has changed since: everybody
/// is told of that by its events, whether they have this result or come back with an older one. What
/// the log refuses never has an event.
///
/// # Errors
/// Those of [`Lens::take`]; the lens kept changing.
pub(super) async fn load(
    env: &RecordEnv,
    query: &LiveQuery,
    audience: &Audience,
    max_records: usize,
) -> Result<Option<Loaded>, ApiError> {
    let bounded = Query {
        // Those that SQL has changed may not be in the result.
        limit: Some((max_records.saturating_add(MAX_CAPTURED + 1)) as u64),
        ..query.query.clone()
    };
    let mut lens = Lens::take(env, query, audience).await?;
    for _ in 0..MAX_ATTEMPTS {
        let look = lens.look(query);
        let captured = (&*lens.names(query), MAX_CAPTURED + 1);
        let answer = env.store.query_at(&bounded, &look.viewer, captured);
        let answer = answer.await?;
        let position = answer.position;
        let Some(records) = as_in_the_log(env, (query, &lens), answer).await? else {
            return Ok(None);
        };
        let found = look.bring_as_of(env, records, position).await?;
        // The store may have been ahead of the lens. Nothing may be shown by rules that were not
        // valid at its position, nor by its names of fields.
        let after = Lens::take(env, query, audience).await?;
        if lens.is_same(&after) {
            return Ok(Some(loaded(env, (after, position), found)));
        }
        lens = after;
    }
    Err(busy())
}

/// Waits until the log has what SQL has done so far of what the query looks at.
///
/// # Errors
/// It takes too long.
pub(super) async fn caught_up(env: &RecordEnv, query: &LiveQuery) -> Result<(), ApiError> {
    env.await_captured([&query.query.record_type]).await?;
    tokio::time::sleep(CAPTURED_PAUSE).await;
    Ok(())
}

/// The result cannot be looked up at present.
pub(super) fn busy() -> ApiError {
    ApiError::overloaded("the live query")
}

/// Returns a snapshot's result as the log has it at the snapshot's position; `None` if that cannot be
/// told, because SQL has changed too many rows, or others that the query looks at.
async fn as_in_the_log(
    env: &RecordEnv,
    (query, lens): (&LiveQuery, &Lens),
    snapshot: SnapshotAnswer,
) -> Result<Option<Vec<Arc<Head>>>, ApiError> {
    let SnapshotAnswer {
        position,
        answer,
        captured,
    } = snapshot;
    let mut records = answer.records;
    if captured.is_empty() {
        return Ok(Some(records));
    }
    if query.looks_beyond || captured.len() > MAX_CAPTURED {
        return Ok(None);
    }
    let untrusted: HashSet<&RecordId> = captured.iter().collect();
    records.retain(|head| !untrusted.contains(&head.record.id));
    let mut room = PageBytes::new(env.max_page_bytes, "predicate");
    let mut size = BatchSize::at_most(MAX_CAPTURED);
    let mut yield_budget = YieldBudget::default();
    let mut remaining = captured.as_slice();
    while !remaining.is_empty() {
        let some;
        (some, remaining) = remaining.split_at(size.size().min(remaining.len()));
        let heads = env.load_each_from_log(some, position).await?;
        size.adapt_to(heads.iter().flatten().map(|head| &head.record));
        for head in heads.into_iter().flatten() {
            let cost = lens.cost(query, &head.record, MAX_COST);
            if cost > MAX_COST {
                return Err(too_costly(TooCostly::Alone));
            }
            if lens.finds(query, &head.record) {
                room.take(&head.record)?;
                records.push(Arc::new(head));
            }
            yield_budget.after(cost).await;
        }
    }
    Ok(Some(records))
}

fn loaded(env: &RecordEnv, (lens, position): (Lens, u64), found: Vec<Found>) -> Loaded {
    let records = found.into_iter().map(|found| {
        let id = found.head.record.id.clone();
        (id, write(env, found))
    });
    let records: Vec<(RecordId, Body)> = records.collect();
    let page = |records: &[(RecordId, Body)]| {
        let texts: Vec<&str> = records.iter().map(|(_, body)| &*body.text).collect();
        format!("[{}]", texts.join(","))
    };
    let mut pages: Vec<String> = records.chunks(PAGE_RECORDS).map(page).collect();
    if pages.is_empty() {
        pages.push("[]".to_owned());
    }
    Loaded {
        lens: Arc::new(lens),
        position,
        records,
        pages,
    }
}

/// Writes a record.
fn write(env: &RecordEnv, found: Found) -> Body {
    // Writing into memory cannot fail.
    let text = serde_json::to_string(&found).unwrap_or_default();
    let hash = HASHES.hash_one(&text);
    let before = Arc::clone(&found.head);
    let has_more = !found.transient.is_empty();
    let signed = found.signed(env, &mut Included::new());
    let is_as_written = Arc::ptr_eq(&before, &signed.head) && !has_more;
    let text = if is_as_written {
        text
    } else {
        serde_json::to_string(&signed).unwrap_or_default()
    };
    Body {
        text: text.into(),
        hash,
    }
}

/// Writes what is told of a change, each text once.
pub(super) struct Renderer<'a> {
    env: &'a RecordEnv,
    /// The record as different users see it.
    bodies: Vec<Body>,
    /// Which of the bodies is seen by those from whom nothing is hidden, by what they ask.
    unhidden: HashMap<Arc<str>, usize>,
    /// By event, label, and the body that it is about.
    frames: HashMap<(&'static str, Label, Option<usize>), Frame>,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(env: &'a RecordEnv) -> Self {
        Self {
            env,
            bodies: Vec::new(),
            unhidden: HashMap::new(),
            frames: HashMap::new(),
        }
    }

    /// Returns the length of the record at a place.
    pub(super) fn num_bytes(&self, place: usize) -> u64 {
        self.bodies
            .get(place)
            .map_or(0, |body| body.text.len() as u64)
    }

    /// Goes on to another change.
    pub(super) fn begin(&mut self) {
        self.bodies.clear();
        self.unhidden.clear();
        self.frames.clear();
    }

    /// Writes the record as a user sees it, and returns its place and its hash. A past state is
    /// judged by what the record is `today`, too. Users from whom nothing is hidden share the text.
    pub(super) fn render(
        &mut self,
        query: &LiveQuery,
        lens: &Lens,
        (head, today): (&Arc<Head>, Option<&Record>),
    ) -> (usize, u64) {
        let shared = self.unhidden.get(&query.text).filter(|_| !lens.may_hide);
        if let Some(place) = shared
            && let Some(body) = self.bodies.get(*place)
        {
            return (*place, body.hash);
        }
        let head = lens.look(query).cut(Arc::clone(head), today);
        let transient = BTreeMap::new();
        let body = write(self.env, Found { head, transient });
        let (place, hash) = (self.bodies.len(), body.hash);
        self.bodies.push(body);
        if !lens.may_hide {
            self.unhidden.insert(Arc::clone(&query.text), place);
        }
        (place, hash)
    }

    /// Writes that the record at a place is new or has changed.
    pub(super) fn record(
        &mut self,
        label: &Label,
        event: &'static str,
        (position, place): (u64, usize),
    ) -> Frame {
        let body = self.bodies.get(place).map(|body| Arc::clone(&body.text));
        let write = || label.record(event, Some(position), &body.unwrap_or_default());
        self.shared((event, label.clone(), Some(place)), write)
    }

    /// Writes that the record is no longer in the result.
    pub(super) fn leave(&mut self, label: &Label, change: &Change) -> Frame {
        let write = || label.leave(Some(change.position), &change.id);
        self.shared(("leave", label.clone(), None), write)
    }

    fn shared(
        &mut self,
        key: (&'static str, Label, Option<usize>),
        write: impl FnOnce() -> Frame,
    ) -> Frame {
        self.frames.entry(key).or_insert_with(write).clone()
    }
}
