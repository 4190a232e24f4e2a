//! Erasures in memory: what they take, and whether they are finished.
//!
//! The log's first observer. As soon as an erasure is committed, readers of the log get blanks in
//! place of the events that it names, long before the payloads are gone from the disk. Every blank
//! is shown with who asked for the erasure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use skytrail_schema::event::{
    Blank, Commit, ErasureEnd, ErasureMark, ErasureRequest, ErasureScope, Event, EventBody, Stream,
};
use skytrail_schema::id::{AssetName, RecordId, UserId};
use skytrail_schema::positions::Positions;
use skytrail_schema::time::Timestamp;
use tokio::sync::watch;

use super::CommitObserver;

/// An erasure.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// Its stream.
    pub stream: Stream,
    /// Who asked for it, when and why.
    pub mark: Arc<ErasureMark>,
    /// What it covers.
    pub request: Arc<ErasureRequest>,
    /// The position of the event that says that it is done everywhere.
    pub finished_at: Option<u64>,
    /// What that event says.
    pub end: Option<Arc<ErasureEnd>>,
}

impl Erasure {
    /// Whether it is done everywhere.
    pub fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }
}

/// The number of low bits of a position that vary within a slice of the log, see [`Known`].
const SLICE_BITS: u32 = 6;

/// All erasures of a log.
#[derive(Debug)]
pub struct Erasures {
    known: RwLock<Known>,
    /// The files that are erased or about to be.
    files: RwLock<HashSet<AssetName>>,
    /// How many erasures are not finished.
    num_open: watch::Sender<usize>,
}

/// What is known of erasures.
#[derive(Debug, Default)]
struct Known {
    /// By the position at which each was requested.
    erasures: BTreeMap<u64, Erasure>,
    /// For each slice of the log, which erasures name events in it, in order. There can be very many
    /// erasures, and every event that is read is looked up.
    by_slice: HashMap<u64, Vec<u64>>,
    /// The erasures of users' records, by the position of the user's erasure, in order.
    parts: HashMap<u64, Vec<u64>>,
    /// For each record that was erased, the position of the last request.
    last_of_record: HashMap<RecordId, u64>,
    /// Those that are not finished.
    open: BTreeSet<u64>,
    /// Those of these that are of users and cover records.
    open_with_records: BTreeSet<u64>,
}

impl Known {
    /// Adds an erasure; returns whether it is new.
    fn add(&mut self, position: u64, erasure: Erasure) -> bool {
        let request = Arc::clone(&erasure.request);
        if self.erasures.insert(position, erasure).is_some() {
            return false;
        }
        for (first, last) in request.positions.runs() {
            // Only what was there before can be erased.
            let last = last.min(&position);
            for slice in first >> SLICE_BITS..=last >> SLICE_BITS {
                let its = self.by_slice.entry(slice).or_default();
                if its.last() != Some(&position) {
                    its.push(position);
                }
            }
        }
        if let Some(whole) = request.part_of {
            self.parts.entry(whole).or_default().push(position);
        }
        if let ErasureScope::Record(Stream::Record(id)) = &request.scope {
            self.last_of_record.insert(id.clone(), position);
        }
        if request.records.is_some() {
            self.open_with_records.insert(position);
        }
        self.open.insert(position)
    }

    /// Notes that an erasure is finished; returns whether that is new.
    fn finish(&mut self, end: &ErasureEnd, position: u64) -> bool {
        let Some(erasure) = self.erasures.get_mut(&end.request) else {
            return false;
        };
        erasure.end = Some(Arc::new(end.clone()));
        erasure.finished_at = Some(position);
        self.open_with_records.remove(&end.request);
        self.open.remove(&end.request)
    }

    /// Returns the erasures of a user's records, by the position of the user's erasure, in order.
    fn parts_of(&self, position: u64) -> impl Iterator<Item = &Erasure> {
        let parts = self.parts.get(&position).into_iter().flatten();
        parts.filter_map(|part| self.erasures.get(part))
    }

    fn open(&self) -> impl Iterator<Item = &Erasure> {
        self.open.iter().filter_map(|it| self.erasures.get(it))
    }

    /// Returns the first erasure that takes the event at a position, if one does.
    fn taker(&self, position: u64, is_blank: bool) -> Option<&Erasure> {
        if !is_blank && self.open.is_empty() {
            return None;
        }
        let its = self.by_slice.get(&(position >> SLICE_BITS))?;
        let mut its = its.iter().filter_map(|it| self.erasures.get(it));
        its.find(|erasure| {
            (is_blank || !erasure.is_finished()) && erasure.request.positions.contains(position)
        })
    }
}

impl Default for Erasures {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            files: RwLock::default(),
            num_open: watch::Sender::new(0),
        }
    }
}

impl Erasures {
    /// Learns an event of the log.
    pub fn learn(&self, commit: &Commit, event: &Event) {
        let mut known = self.known.write();
        let is_new = match &event.body {
            EventBody::ErasureRequested(request) => {
                self.files.write().extend(request.files.iter().cloned());
                let erasure = Erasure {
                    stream: event.stream.clone(),
                    mark: mark(commit, event.position, request),
                    request: Arc::new(request.clone()),
                    finished_at: None,
                    end: None,
                };
                known.add(event.position, erasure)
            }
            EventBody::ErasureFinished(end) => known.finish(end, event.position),
            _ => false,
        };
        // A watcher that is woken reads what is known.
        drop(known);
        if is_new {
            let now = |num_open: &mut usize| *num_open = self.known.read().open.len();
            self.num_open.send_modify(now);
        }
    }

    /// Returns the erasures that are not finished, in order.
    pub fn open(&self) -> Vec<Erasure> {
        self.known.read().open().cloned().collect()
    }

    /// Returns whether an erasure that is not finished is one of those.
    pub fn has_open(&self, is_selected: impl Fn(&Erasure) -> bool) -> bool {
        self.known.read().open().any(is_selected)
    }

    /// Returns the positions of the users' erasures that are not finished and cover records.
    pub fn with_open_records(&self) -> Vec<u64> {
        let known = self.known.read();
        known.open_with_records.iter().copied().collect()
    }

    /// Returns all erasures, in order.
    pub fn all(&self) -> Vec<Erasure> {
        self.known.read().erasures.values().cloned().collect()
    }

    /// Returns the last erasures that were requested before a position, the newest first: those that
    /// are part of a user's erasure, named by its position, or those that are part of none.
    pub fn last_before(&self, before: u64, part_of: Option<u64>, limit: usize) -> Vec<Erasure> {
        let erasures = &self.known.read().erasures;
        let earlier = erasures.range(..before).rev().map(|(_, erasure)| erasure);
        let wanted = earlier.filter(|erasure| erasure.request.part_of == part_of);
        wanted.take(limit).cloned().collect()
    }

    /// Returns an erasure by the position at which it was requested.
    pub fn get(&self, position: u64) -> Option<Erasure> {
        self.known.read().erasures.get(&position).cloned()
    }

    /// Returns the erasures of a user's records that the user's erasure at a position has led to,
    /// in order.
    pub fn parts_of(&self, position: u64) -> Vec<Erasure> {
        self.known.read().parts_of(position).cloned().collect()
    }

    /// Returns how many records a user's erasure at a position has led to the erasure of.
    pub fn count_records_of(&self, position: u64) -> usize {
        let known = self.known.read();
        let of_record = |it: &&Erasure| matches!(it.request.scope, ErasureScope::Record(_));
        known.parts_of(position).filter(of_record).count()
    }

    /// Returns whether a record's erasure was requested after a position.
    pub fn is_record_erased_after(&self, id: &RecordId, position: u64) -> bool {
        let last = self.known.read().last_of_record.get(id).copied();
        last.is_some_and(|last| last > position)
    }

    /// Returns the user's erasures that are not finished and cover records.
    pub fn open_of_user(&self, user: &UserId) -> Vec<Erasure> {
        let known = self.known.read();
        let open = known.open_with_records.iter();
        let open = open.filter_map(|it| known.erasures.get(it));
        let of_user = open.filter(|erasure| match &erasure.request.scope {
            ErasureScope::User(erased) => erased == user,
            _ => false,
        });
        of_user.cloned().collect()
    }

    /// Returns whether a file was erased.
    pub fn has_file(&self, name: &AssetName) -> bool {
        self.files.read().contains(name)
    }

    /// Returns when a user was last erased.
    pub fn time_of_user(&self, user: &UserId) -> Option<Timestamp> {
        let erasures = &self.known.read().erasures;
        let is_of_user = |erasure: &&Erasure| match &erasure.request.scope {
            ErasureScope::User(erased) => erased == user,
            _ => false,
        };
        erasures
            .values()
            .rev()
            .find(is_of_user)
            .map(|it| it.mark.at)
    }

    /// Returns a watch on the number of erasures that are not finished.
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.num_open.subscribe()
    }

    /// Wakes those who watch: what they can do has changed, although the number has not.
    pub fn wake(&self) {
        self.num_open.send_modify(|_| ());
    }

    /// Returns a commit as readers get it: events that are still to be erased are blank already,
    /// and each blank names its erasure.
    pub fn shown(&self, commit: Arc<Commit>) -> Arc<Commit> {
        let known = self.known.read();
        if known.erasures.is_empty() {
            return commit;
        }
        let takers = commit.events.iter().map(|event| {
            let is_blank = matches!(event.body, EventBody::Erased(_));
            known.taker(event.position, is_blank)
        });
        let takers: Vec<_> = takers.collect();
        if takers.iter().all(Option::is_none) {
            return Arc::clone(&commit);
        }
        let mut shown = Commit::clone(&commit);
        for (event, taker) in shown.events.iter_mut().zip(takers) {
            if let Some(erasure) = taker {
                blank(event, &erasure.mark);
            }
        }
        Arc::new(shown)
    }
}

/// Returns how an erasure is shown on the events that it took.
pub(super) fn mark(commit: &Commit, position: u64, request: &ErasureRequest) -> Arc<ErasureMark> {
    Arc::new(ErasureMark {
        position,
        at: commit.time,
        by: commit.actor.clone(),
        why: request.why.clone(),
    })
}

fn blank(event: &mut Event, mark: &Arc<ErasureMark>) {
    event.body = EventBody::Erased(Blank {
        kind: event.body.kind(),
        by: Some(Arc::clone(mark)),
    });
}

/// Blanks the events at some positions in a commit that is in memory; `None` if it has none of
/// them.
pub(super) fn without(
    commit: &Arc<Commit>,
    positions: &Positions,
    mark: &Arc<ErasureMark>,
) -> Option<Arc<Commit>> {
    if !positions.meets(commit.first_position(), commit.last_position()) {
        return None;
    }
    let mut taken = Commit::clone(commit);
    for event in &mut taken.events {
        // The first erasure of an event is the one that is shown, here as in the files.
        if positions.contains(event.position) && event.body.erased().is_none() {
            blank(event, mark);
        }
    }
    Some(Arc::new(taken))
}

impl CommitObserver for Erasures {
    fn committed(&self, commits: &[Arc<Commit>]) {
        for commit in commits {
            for event in &commit.events {
                if let Stream::Erasure(_) = event.stream {
                    self.learn(commit, event);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use skytrail_schema::event::Actor;
    use uuid::Uuid;

    use super::*;

    /// The log that is erased from; erasures are requested behind it.
    const LOG: Range<u64> = 1..400;

    fn erasure(position: u64, positions: &BTreeSet<u64>) -> Erasure {
        let scope = ErasureScope::User(UserId::from("ada"));
        let positions = positions.iter().copied().collect();
        let mark = ErasureMark {
            position,
            at: Timestamp::from_micros(0),
            by: Actor::default(),
            why: String::new(),
        };
        Erasure {
            stream: Stream::Erasure(Uuid::nil()),
            mark: Arc::new(mark),
            request: Arc::new(ErasureRequest::new(scope, String::new(), positions)),
            finished_at: None,
            end: None,
        }
    }

    proptest! {
        /// The first erasure that names an event takes it, unless it is finished and the event is
        /// not blank.
        #[test]
        fn an_event_is_taken_by_the_first_erasure_that_names_it(
            named in vec((btree_set(LOG, 1..40), any::<bool>()), 0..12),
            is_blank: bool,
        ) {
            let mut known = Known::default();
            let named: Vec<(u64, _)> = (LOG.end..).zip(named).collect();
            for (position, (positions, _)) in &named {
                known.add(*position, erasure(*position, positions));
            }
            for (position, _) in named.iter().filter(|(_, (_, is_finished))| *is_finished) {
                known.finish(&ErasureEnd { request: *position, ..ErasureEnd::default() }, 1000);
            }
            for position in LOG {
                let taker = known.taker(position, is_blank).map(|it| it.mark.position);
                let first = named.iter().find(|(_, (positions, is_finished))| {
                    (is_blank || !is_finished) && positions.contains(&position)
                });
                prop_assert_eq!(taker, first.map(|(position, _)| *position));
            }
        }
    }
}
