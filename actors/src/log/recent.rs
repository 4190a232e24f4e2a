//! The latest commits, in memory for everyone who follows the log.
//!
//! An observer of the log: a follower that keeps up never reads the log itself. A follower that is
//! behind finds a gap and reads the log.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use skytrail_schema::event::{Commit, EventBody};
use tokio::sync::watch;

use super::CommitObserver;
use super::erasures::{mark, without};
use super::tail::run_length;
use super::weight::weight;

/// About how many events are kept.
const MAX_EVENTS: usize = 4096;
/// About how many bytes of events are kept.
const MAX_BYTES: usize = 32 << 20;

/// See the module.
#[derive(Debug)]
pub struct Recent {
    kept: Mutex<Kept>,
    /// The last position that was seen; 0 before the first.
    seen: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    commits: VecDeque<Arc<Commit>>,
    num_events: usize,
    num_bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            seen: watch::Sender::new(0),
        }
    }
}

impl Recent {
    /// Returns the commits after `position` and up to `until`, about `max_events` events at most;
    /// `None` when the first of them is not in memory.
    pub fn read(&self, position: u64, until: u64, max_events: usize) -> Option<Vec<Arc<Commit>>> {
        let kept = self.kept.lock();
        let first = kept
            .commits
            .partition_point(|commit| commit.first_position() <= position);
        let next = kept.commits.get(first)?;
        if next.first_position() != position + 1 {
            return None;
        }
        let behind = kept.commits.range(first..);
        let num_wanted = run_length(behind.clone(), (position, until), max_events);
        Some(behind.take(num_wanted).cloned().collect())
    }

    /// Returns the commit that holds a position, if it is in memory.
    pub fn find(&self, position: u64) -> Option<Arc<Commit>> {
        let kept = self.kept.lock();
        let index = kept
            .commits
            .partition_point(|commit| commit.last_position() < position);
        let commit = kept.commits.get(index)?;
        (commit.first_position() <= position).then(|| Arc::clone(commit))
    }

    /// Returns the last position that was seen; 0 before the first.
    pub fn seen(&self) -> u64 {
        *self.seen.borrow()
    }

    /// Waits until something beyond `position` has been seen.
    pub async fn beyond(&self, position: u64) {
        // The sender lives as long as `self`, which is borrowed here.
        let _ = self
            .seen
            .subscribe()
            .wait_for(|seen| *seen > position)
            .await;
    }
}

impl Kept {
    fn push(&mut self, commit: &Arc<Commit>) {
        self.num_events += commit.events.len();
        self.num_bytes += weight(commit);
        self.commits.push_back(Arc::clone(commit));
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.commits.pop_front() {
            self.num_events -= oldest.events.len();
            self.num_bytes -= weight(&oldest);
        }
    }

    fn is_too_much(&self) -> bool {
        self.num_events > MAX_EVENTS || self.num_bytes > MAX_BYTES
    }

    /// Forgets the events that a commit erases.
    fn erase(&mut self, by: &Commit) {
        for event in &by.events {
            let EventBody::ErasureRequested(request) = &event.body else {
                continue;
            };
            let mark = mark(by, event.position, request);
            for commit in &mut self.commits {
                if let Some(taken) = without(commit, &request.positions, &mark) {
                    self.num_bytes += weight(&taken);
                    self.num_bytes -= weight(commit);
                    *commit = taken;
                }
            }
        }
    }
}

impl CommitObserver for Recent {
    fn committed(&self, commits: &[Arc<Commit>]) {
        let mut kept = self.kept.lock();
        for commit in commits {
            kept.erase(commit);
            kept.push(commit);
        }
        // Followers always find the newest group, however large it is.
        while kept.is_too_much() && kept.commits.len() > commits.len() {
            kept.drop_oldest();
        }
        drop(kept);
        if let Some(last) = commits.last() {
            self.seen.send_replace(last.last_position());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::log::written::{commit, with_text};

    #[test]
    fn a_page_begins_right_behind_the_position_or_there_is_none() {
        let recent = Recent::default();
        recent.committed(&[commit(5, 2), commit(7, 1), commit(8, 3)]);
        let firsts = |position, until, max| {
            let page = recent.read(position, until, max)?;
            let firsts = page.iter().map(|commit| commit.first_position());
            Some(firsts.collect::<Vec<_>>())
        };
        assert_eq!(firsts(4, 99, 99), Some(vec![5, 7, 8]));
        assert_eq!(firsts(6, 7, 99), Some(vec![7]));
        assert_eq!(firsts(4, 99, 2), Some(vec![5]));
        assert_eq!(firsts(3, 99, 99), None);
        assert_eq!(firsts(5, 99, 99), None);
        assert_eq!(firsts(10, 99, 99), None);
        let holder = |position| recent.find(position).map(|commit| commit.first_position());
        assert_eq!(
            [holder(4), holder(6), holder(10), holder(11)],
            [None, Some(5), Some(8), None]
        );
    }

    #[test]
    fn old_ones_make_room() {
        let recent = Recent::default();
        for first in 1..10_000 {
            recent.committed(&[commit(first, 1)]);
        }
        assert!(recent.find(5_000).is_none());
        assert!(recent.find(9_999).is_some());
        assert_eq!(recent.kept.lock().num_events, MAX_EVENTS);
    }

    #[test]
    fn large_ones_make_room_earlier_and_the_newest_group_stays() {
        let recent = Recent::default();
        let large = |first| with_text(first, 4 << 20);
        for first in 1..=100 {
            recent.committed(&[large(first)]);
        }
        let num_kept = recent.kept.lock().commits.len();
        assert!((4..8).contains(&num_kept), "{num_kept}");
        assert!(recent.find(100).is_some());
        let group: Vec<_> = (101..=120).map(large).collect();
        recent.committed(&group);
        assert!(recent.find(100).is_none());
        assert!(recent.find(101).is_some());
        // A large group is forgotten like any other.
        recent.committed(&[commit(121, 1)]);
        assert!(recent.find(110).is_none());
        for first in 122..10_000 {
            recent.committed(&[commit(first, 1)]);
        }
        assert_eq!(recent.kept.lock().num_events, MAX_EVENTS);
        assert_eq!(
            recent.kept.lock().num_bytes,
            MAX_EVENTS * weight(&commit(1, 1))
        );
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_what_comes() {
        let recent = Recent::default();
        assert!(recent.beyond(0).now_or_never().is_none());
        recent.committed(&[commit(1, 3)]);
        recent.beyond(2).await;
        assert_eq!(recent.seen(), 3);
    }
}
