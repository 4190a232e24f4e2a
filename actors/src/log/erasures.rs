//! Erasures in memory: what they take, and whether they are finished.
//!
//! The log's first observer. As soon as an erasure is committed, readers of the log get blanks in
//! place of the events that it names, long before the payloads are gone from the disk. Every blank
//! is shown with who asked for the erasure.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use skytrail_schema::event::{
    Blank, Commit, ErasureMark, ErasureRequest, ErasureScope, Event, EventBody, Stream,
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
        match &event.body {
            EventBody::ErasureRequested(request) => {
                self.files.write().extend(request.files.iter().cloned());
                let erasure = Erasure {
                    stream: event.stream.clone(),
                    mark: mark(commit, event.position, request),
                    request: Arc::new(request.clone()),
                    finished_at: None,
                };
                erasures.insert(event.position, erasure);
            }
            EventBody::ErasureFinished(end) => {
                if let Some(erasure) = erasures.get_mut(&end.request) {
                    erasure.finished_at = Some(event.position);
                }
            }
            _ => return,
        }
        let num_open = erasures.values().filter(|erasure| !erasure.is_finished());
        let num_open = num_open.count();
        // A watcher that is woken reads `erasures`.
        drop(erasures);
        self.num_open.send_replace(num_open);
    }

    /// Returns the erasures that are not finished, in order.
    pub fn open(&self) -> Vec<Erasure> {
        let erasures = self.erasures.read();
        let open = erasures.values().filter(|erasure| !erasure.is_finished());
        open.cloned().collect()
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
