//! Erasures in memory: what they take, and whether they are finished.
//!
//! The log's first observer. As soon as an erasure is committed, readers of the log get blanks in
//! place of the events that it names, long before the payloads are gone from the disk. Every blank
//! is shown with who asked for the erasure.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use skytrail_schema::event::{
    Blank, Commit, ErasureEnd, ErasureMark, ErasureRequest, ErasureScope, Event, EventBody, Stream,
};
use skytrail_schema::id::{AssetName, UserId};
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

/// All erasures of a log.
#[derive(Debug)]
pub struct Erasures {
    /// By the position at which each was requested.
    erasures: RwLock<BTreeMap<u64, Erasure>>,
    /// The files that are erased or about to be.
    files: RwLock<HashSet<AssetName>>,
    /// How many erasures are not finished.
    num_open: watch::Sender<usize>,
}

impl Default for Erasures {
    fn default() -> Self {
        Self {
            erasures: RwLock::default(),
            files: RwLock::default(),
            num_open: watch::Sender::new(0),
        }
    }
}

impl Erasures {
    /// Learns an event of the log.
    pub fn learn(&self, commit: &Commit, event: &Event) {
        let mut erasures = self.erasures.write();
        let (mut is_opened, mut is_closed) = (false, false);
        match &event.body {
            EventBody::ErasureRequested(request) => {
                self.files.write().extend(request.files.iter().cloned());
                let erasure = Erasure {
                    stream: event.stream.clone(),
                    mark: mark(commit, event.position, request),
                    request: Arc::new(request.clone()),
                    finished_at: None,
                    end: None,
                };
                is_opened = erasures.insert(event.position, erasure).is_none();
            }
            EventBody::ErasureFinished(end) => {
                let Some(erasure) = erasures.get_mut(&end.request) else {
                    return;
                };
                is_closed = erasure.finished_at.replace(event.position).is_none();
                erasure.end = Some(Arc::new(end.clone()));
            }
            _ => return,
        }
        // A watcher that is woken reads `erasures`.
        drop(erasures);
        self.num_open.send_modify(|num_open| {
            *num_open = (*num_open + usize::from(is_opened)).saturating_sub(usize::from(is_closed));
        });
    }

    /// Returns the erasures that are not finished, in order.
    pub fn open(&self) -> Vec<Erasure> {
        let erasures = self.erasures.read();
        let open = erasures.values().filter(|erasure| !erasure.is_finished());
        open.cloned().collect()
    }

    /// Returns whether an erasure that is not finished is one of those.
    pub fn has_open(&self, is_selected: impl Fn(&Erasure) -> bool) -> bool {
        let erasures = self.erasures.read();
        let mut open = erasures.values().filter(|erasure| !erasure.is_finished());
        open.any(is_selected)
    }

    /// Returns the positions of the users' erasures that are not finished and cover records.
    pub fn with_open_records(&self) -> Vec<u64> {
        let erasures = self.erasures.read();
        let open = erasures
            .iter()
            .filter(|(_, erasure)| !erasure.is_finished());
        let of_owners = open.filter(|(_, erasure)| erasure.request.records.is_some());
        of_owners.map(|(position, _)| *position).collect()
    }

    /// Returns the last erasures, the newest first.
    pub fn last(&self, limit: usize) -> Vec<Erasure> {
        let erasures = self.erasures.read();
        erasures.values().rev().take(limit).cloned().collect()
    }

    /// Returns an erasure by the position at which it was requested.
    pub fn get(&self, position: u64) -> Option<Erasure> {
        self.erasures.read().get(&position).cloned()
    }

    /// Returns the erasures of a user's records that the user's erasure at a position has led to,
    /// in order.
    pub fn parts_of(&self, position: u64) -> Vec<Erasure> {
        let erasures = self.erasures.read();
        let later = erasures.range(position..).map(|(_, erasure)| erasure);
        let parts = later.filter(|erasure| erasure.request.part_of == Some(position));
        parts.cloned().collect()
    }

    /// Returns whether a file was erased.
    pub fn has_file(&self, name: &AssetName) -> bool {
        self.files.read().contains(name)
    }

    /// Returns when a user was last erased.
    pub fn time_of_user(&self, user: &UserId) -> Option<Timestamp> {
        let erasures = self.erasures.read();
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
        let erasures = self.erasures.read();
        if erasures.is_empty() {
            return commit;
        }
        let has_open = erasures.values().any(|erasure| !erasure.is_finished());
        let taker = |event: &Event| {
            let is_blank = matches!(event.body, EventBody::Erased(_));
            if !is_blank && !has_open {
                return None;
            }
            let mut behind = erasures.range(event.position..).map(|(_, erasure)| erasure);
            behind.find(|erasure| {
                (is_blank || !erasure.is_finished())
                    && erasure.request.positions.contains(event.position)
            })
        };
        let takers: Vec<_> = commit.events.iter().map(taker).collect();
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
