//! A page of the log.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::value::RawValue;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventFilter, Shown};
use skytrail_schema::time::Timestamp;

use crate::log::seek::{load_commit, load_page, position_at, position_before, unreadable};
use crate::log::{EventLog, Timeline};
use crate::projector::Applied;
use crate::store::RecordStore;

/// How many events are read for a page at most.
const MAX_LOOKED_AT: usize = 5000;

/// About how many bytes of events a page has at most; its last event may exceed this.
const MAX_BYTES: usize = 4 << 20;

/// How many events of the log are read at once.
const WINDOW: u64 = 512;

/// How many events are searched at once at most when going backwards, while nothing is found.
const MAX_WIDTH: u64 = 1 << 14;

/// Searching a piece of the log costs as much as reading this many events.
const PIECE_COST: usize = 150;

/// The store's index over streams is asked for slices of this many positions.
const SLICE: u64 = 1 << 16;

/// A lookup in the index costs as much as reading this many events.
const SLICE_COST: usize = 50;

/// In which direction the log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the log's end.
    Forwards,
    /// Towards its beginning.
    Backwards,
}

/// The whole log.
pub const EVERYWHERE: RangeInclusive<u64> = 1..=u64::MAX;

/// What a reader wants.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// The events that match.
    pub filter: EventFilter,
    /// The first position that is read; without one, the range's beginning or end.
    pub from: Option<u64>,
    /// The positions that are read.
    pub range: RangeInclusive<u64>,
    /// The direction.
    pub direction: Direction,
    /// The largest number of events.
    pub limit: usize,
}

/// An event on a page.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its position in the log.
    pub position: u64,
    /// The event as it is shown.
    pub json: Box<RawValue>,
}

/// A page of the log.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events, in the order in which they were read.
    pub events: Vec<Found>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<u64>,
    /// The log's last position.
    pub head: u64,
}

/// Reads pages of the log.
pub struct EventReader {
    log: Arc<dyn EventLog>,
    store: Arc<dyn RecordStore>,
    applied: Applied,
    timeline: Timeline,
}

/// Positions that are read together.
struct Window {
    first: u64,
    last: u64,
    found: Candidates,
}

/// The candidates in a window.
enum Candidates {
    /// Events at these positions, in order.
    Positions(Vec<u64>),
    /// Events of these commits.
    Commits(Vec<Arc<Commit>>),
}

/// A page that is being filled.
struct Filling<'a> {
    request: &'a PageRequest,
    events: Vec<Found>,
    num_bytes: usize,
    num_left: usize,
    /// How many events are searched at once when going backwards.
    width: u64,
}

impl EventReader {
    /// Builds a reader.
    pub fn new(
        (log, timeline): (Arc<dyn EventLog>, Timeline),
        store: Arc<dyn RecordStore>,
        applied: Applied,
    ) -> Self {
        Self {
            log,
            store,
            applied,
            timeline,
        }
    }

    /// Returns the timeline of the positions.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Returns the log's last position.
    pub fn head(&self) -> u64 {
        self.log.head()
    }

    /// Waits until the log goes beyond a position.
    pub async fn beyond(&self, position: u64) {
        self.log.beyond(position).await;
    }

    /// Finds the last position that was committed before a time.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn position_before(&self, time: Timestamp) -> Result<u64, ApiError> {
        position_before(&*self.log, time).await
    }

    /// Finds the last position that was committed at or before a time.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn position_at(&self, time: Timestamp) -> Result<u64, ApiError> {
        position_at(&*self.log, time).await
    }

    /// Reads a page.
    ///
    /// # Errors
    /// The log or the store cannot be read.
    pub async fn page(&self, request: &PageRequest) -> Result<Page, ApiError> {
        let head = self.head();
        let range = (*request.range.start()).max(1)..=(*request.range.end()).min(head);
        let mut at = match request.direction {
            Direction::Forwards => request.from.unwrap_or(1).max(*range.start()),
            Direction::Backwards => request.from.unwrap_or(head).min(*range.end()),
        };
        let mut filling = Filling {
            request,
            events: Vec::new(),
            num_bytes: 0,
            num_left: MAX_LOOKED_AT,
            width: MAX_WIDTH / 4,
        };
        while range.contains(&at) && !filling.is_over() {
            let window = self.window(at, &range, &mut filling).await?;
            at = self.read(&window, &mut filling).await?;
        }
        Ok(Page {
            events: filling.events,
            next: Some(at).filter(|at| range.contains(at)),
            head,
        })
    }

    /// Returns the next window from `at` on: a slice of the store's index, or a piece of the log.
    async fn window(
        &self,
        at: u64,
        range: &RangeInclusive<u64>,
        filling: &mut Filling<'_>,
    ) -> Result<Window, ApiError> {
        let request = filling.request;
        let applied = self.applied.position().min(*range.end());
        let is_forwards = request.direction == Direction::Forwards;
        let stream = request.filter.stream.as_ref().filter(|_| at <= applied);
        let Some(stream) = stream else {
            if request.filter.is_empty() {
                return self.plain(at, range, request.direction).await;
            }
            return match request.direction {
                Direction::Forwards => self.search(at, range, filling).await,
                Direction::Backwards => self.search_back(at, range, filling).await,
            };
        };
        let slice = at / SLICE;
        let (first, last) = if is_forwards {
            (at, ((slice + 1) * SLICE - 1).min(applied))
        } else {
            ((slice * SLICE).max(*range.start()), at)
        };
        // The filter has the stream, too: it drops another stream's events when they are read.
        let ranges = [(stream.clone(), first..=last)];
        let positions = self.store.list_candidates(&ranges).await?;
        Ok(Window {
            first,
            last,
            found: Candidates::Positions(positions),
        })
    }

    /// Returns a piece of the log, unsearched.
    async fn plain(
        &self,
        at: u64,
        range: &RangeInclusive<u64>,
        direction: Direction,
    ) -> Result<Window, ApiError> {
        let (first, last) = match direction {
            Direction::Forwards => (at, (at + WINDOW - 1).min(*range.end())),
            Direction::Backwards => (at.saturating_sub(WINDOW - 1).max(*range.start()), at),
        };
        let found = Candidates::Commits(self.load_run(first, last).await?);
        Ok(Window { first, last, found })
    }

    /// Searches a piece of the log.
    async fn search(
        &self,
        at: u64,
        range: &RangeInclusive<u64>,
        filling: &mut Filling<'_>,
    ) -> Result<Window, ApiError> {
        filling.num_left = filling.num_left.saturating_sub(PIECE_COST);
        let filter = &filling.request.filter;
        let searched = self.log.search(at, *range.end(), filter).await;
        let searched = searched.map_err(|error| unreadable(at, &error))?;
        if searched.until < at {
            return Err(unreadable(at, &"it ends before that position"));
        }
        Ok(Window {
            first: at,
            last: searched.until.min(*range.end()),
            found: Candidates::Commits(searched.found),
        })
    }

    /// Searches a piece of the log that ends at `at`. If one search does not get through it, the
    /// piece is read instead, and the next one is smaller.
    async fn search_back(
        &self,
        at: u64,
        range: &RangeInclusive<u64>,
        filling: &mut Filling<'_>,
    ) -> Result<Window, ApiError> {
        if filling.width > WINDOW {
            let first = at.saturating_sub(filling.width - 1).max(*range.start());
            let window = self.search(first, &(first..=at), filling).await?;
            if window.last == at {
                filling.width = (filling.width * 2).min(MAX_WIDTH);
                return Ok(window);
            }
            filling.width /= 2;
        }
        self.plain(at, range, Direction::Backwards).await
    }

    /// Reads a window; returns the next position to read.
    async fn read(&self, window: &Window, filling: &mut Filling<'_>) -> Result<u64, ApiError> {
        let direction = filling.request.direction;
        match &window.found {
            Candidates::Positions(positions) => {
                filling.num_left = filling.num_left.saturating_sub(SLICE_COST);
                for position in direction.sort(positions) {
                    let commit = load_commit(&*self.log, *position).await?;
                    filling.look_at(&commit, of(&commit, *position));
                    if filling.is_over() {
                        return Ok(direction.next(*position));
                    }
                }
            }
            Candidates::Commits(commits) => {
                for commit in direction.sort(commits) {
                    let events = direction.sort(&commit.events).into_iter();
                    for event in events.filter(|event| window.has(event)) {
                        filling.look_at(commit, Some(event));
                        if filling.is_over() {
                            return Ok(direction.next(event.position));
                        }
                    }
                }
            }
        }
        Ok(direction.next(match direction {
            Direction::Forwards => window.last,
            Direction::Backwards => window.first,
        }))
    }

    /// Loads all commits of a piece of the log.
    async fn load_run(&self, first: u64, last: u64) -> Result<Vec<Arc<Commit>>, ApiError> {
        let mut run: Vec<Arc<Commit>> = Vec::new();
        let mut behind = first - 1;
        while behind < last {
            let num_events = usize::try_from(last - behind).unwrap_or(usize::MAX);
            // The last commit may extend beyond the window.
            let more;
            (more, behind) = load_page(&*self.log, behind + 1, num_events).await?;
            run.extend(more);
        }
        Ok(run)
    }
}

impl Direction {
    /// Puts what is in the order of the log into the order in which it is read.
    fn sort<T>(self, items: &[T]) -> Vec<&T> {
        match self {
            Self::Forwards => items.iter().collect(),
            Self::Backwards => items.iter().rev().collect(),
        }
    }

    /// Returns the position that is read after this one.
    fn next(self, position: u64) -> u64 {
        match self {
            Self::Forwards => position + 1,
            Self::Backwards => position - 1,
        }
    }
}

impl Window {
    fn has(&self, event: &Event) -> bool {
        (self.first..=self.last).contains(&event.position)
    }
}

impl Filling<'_> {
    fn is_over(&self) -> bool {
        let is_full = self.events.len() >= self.request.limit || self.num_bytes >= MAX_BYTES;
        is_full || self.num_left == 0
    }

    fn look_at(&mut self, commit: &Commit, event: Option<&Event>) {
        self.num_left = self.num_left.saturating_sub(1);
        let is_match = |event: &&Event| self.request.filter.matches(commit, event);
        let Some(event) = event.filter(is_match) else {
            return;
        };
        match serde_json::value::to_raw_value(&Shown { commit, event }) {
            Ok(json) => {
                self.num_bytes += json.get().len();
                self.events.push(Found {
                    position: event.position,
                    json,
                });
            }
            Err(error) => {
                let position = event.position;
                tracing::error!(position, %error, "an event cannot be shown");
            }
        }
    }
}

fn of(commit: &Commit, position: u64) -> Option<&Event> {
    let mut events = commit.events.iter();
    events.find(|event| event.position == position)
}
