//! The log's tail in memory, for all who follow it.
//!
//! The committer pushes every commit here before it publishes the new head, so a reader that keeps
//! up never reads the files. One that is further behind does not find what it asks for, and reads
//! those. What the record store has not applied yet is kept as far as there is room.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use skytrail_schema::event::{Commit, EventBody};

use super::backlog::Backlog;
use super::erasures::{mark, without};
use super::weight::weight;

/// About how many events are kept that the record store has applied.
const MAX_EVENTS: usize = 1 << 14;

/// See the module.
#[derive(Debug)]
pub(super) struct Recent {
    tail: Mutex<Tail>,
    /// About how many bytes of events are kept.
    max_bytes: usize,
    backlog: Option<Arc<Backlog>>,
}

/// Commits that follow each other without a gap.
#[derive(Debug, Default)]
struct Tail {
    commits: VecDeque<Arc<Commit>>,
    num_events: usize,
    num_bytes: usize,
}

impl Recent {
    /// Creates an empty one, which keeps nothing when it may keep no bytes; the backlog says what
    /// the record store has not applied.
    pub(super) fn new(max_bytes: usize, backlog: Option<Arc<Backlog>>) -> Self {
        Self {
            tail: Mutex::default(),
            max_bytes,
            backlog,
        }
    }

    /// Adds the commits of a group, and forgets what they erase.
    pub(super) fn push(&self, commits: &[Arc<Commit>]) {
        if self.max_bytes == 0 {
            return;
        }
        let num_unapplied = self.backlog.as_ref().map_or(0, |it| it.num_events());
        let max_events =
            usize::try_from(num_unapplied).map_or(usize::MAX, |num| num.max(MAX_EVENTS));
        let mut tail = self.tail.lock();
        for commit in commits {
            tail.erase(commit);
            tail.push(commit);
        }
        // The newest group stays, however large it is: readers at the log's end are about to ask for
        // it.
        while tail.is_above(max_events, self.max_bytes) && tail.commits.len() > commits.len() {
            tail.drop_oldest();
        }
    }

    /// Reads as [`EventLog::read`](super::EventLog::read) does; `None` when the commit that holds
    /// `from` is not here.
    pub(super) fn read(&self, from: u64, max_events: usize) -> Option<Vec<Arc<Commit>>> {
        let tail = self.tail.lock();
        let index = tail.index_of(from);
        let first = tail.commits.get(index)?;
        if first.first_position() > from {
            return None;
        }
        let mut num_events = 0;
        let page = tail.commits.range(index..).take_while(|commit| {
            let has_room = num_events < max_events;
            num_events += commit.events.len();
            has_room
        });
        Some(page.cloned().collect())
    }

    /// Finds the commits that hold these ascending positions, each once. Returns with them how many
    /// of the positions come before what is here.
    pub(super) fn find_holders(&self, positions: &[u64]) -> (usize, Vec<Arc<Commit>>) {
        let tail = self.tail.lock();
        let Some(first) = tail.commits.front() else {
            return (positions.len(), Vec::new());
        };
        let num_older = positions.partition_point(|position| *position < first.first_position());
        let mut holders: Vec<Arc<Commit>> = Vec::new();
        for position in positions.iter().skip(num_older) {
            let has = holders.last().map_or(0, |commit| commit.last_position());
            if has < *position
                && let Some(commit) = tail.commits.get(tail.index_of(*position))
            {
                holders.push(Arc::clone(commit));
            }
        }
        (num_older, holders)
    }
}

impl Tail {
    /// Returns the index of the first commit that ends at a position or after it.
    fn index_of(&self, position: u64) -> usize {
        self.commits
            .partition_point(|commit| commit.last_position() < position)
    }

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

    fn is_above(&self, max_events: usize, max_bytes: usize) -> bool {
        self.num_events > max_events || self.num_bytes > max_bytes
    }

    /// Forgets what a commit erases.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LagBound;
    use crate::log::written::{commit, with_text};

    const MAX_BYTES: usize = 32 << 20;

    fn empty() -> Recent {
        Recent::new(MAX_BYTES, None)
    }

    fn has(recent: &Recent, position: u64) -> bool {
        recent.read(position, 1).is_some()
    }

    #[test]
    fn a_page_begins_with_the_commit_that_holds_the_position_or_there_is_none() {
        let recent = empty();
        recent.push(&[commit(5, 2), commit(7, 1), commit(8, 3)]);
        let firsts = |from, max| {
            let page = recent.read(from, max)?;
            let firsts = page.iter().map(|commit| commit.first_position());
            Some(firsts.collect::<Vec<_>>())
        };
        assert_eq!(firsts(5, 99), Some(vec![5, 7, 8]));
        assert_eq!(firsts(6, 99), Some(vec![5, 7, 8]));
        assert_eq!(firsts(5, 2), Some(vec![5]));
        assert_eq!(firsts(5, 3), Some(vec![5, 7]));
        assert_eq!(firsts(10, 1), Some(vec![8]));
        assert_eq!(firsts(4, 99), None);
        assert_eq!(firsts(11, 99), None);
    }

    #[test]
    fn holders_are_found_once_each_and_what_is_older_is_counted() {
        let recent = empty();
        assert_eq!(recent.find_holders(&[1, 2]).0, 2);
        recent.push(&[commit(5, 2), commit(7, 1), commit(8, 3)]);
        let found = |positions: &[u64]| {
            let (num_older, holders) = recent.find_holders(positions);
            let firsts = holders.iter().map(|commit| commit.first_position());
            (num_older, firsts.collect::<Vec<_>>())
        };
        assert_eq!(found(&[3, 4, 5, 6, 9, 10]), (2, vec![5, 8]));
        assert_eq!(found(&[10, 11]), (0, vec![8]));
        assert_eq!(found(&[1]), (1, vec![]));
        assert_eq!(found(&[]), (0, vec![]));
    }

    #[test]
    fn old_ones_make_room() {
        let recent = empty();
        for first in 1..20_000 {
            recent.push(&[commit(first, 1)]);
        }
        assert!(!has(&recent, 3_000));
        assert!(has(&recent, 19_999));
        assert_eq!(recent.tail.lock().num_events, MAX_EVENTS);
    }

    #[test]
    fn what_the_store_has_not_applied_stays() {
        let backlog = Arc::new(Backlog::new(LagBound::NONE));
        let recent = Recent::new(MAX_BYTES, Some(Arc::clone(&backlog)));
        for first in 1..20_000_u64 {
            backlog.note(first.saturating_sub(101), 0);
            recent.push(&[commit(first, 1)]);
        }
        assert!(has(&recent, 102));
        assert!(!has(&recent, 101));
        backlog.note(0, 0);
        recent.push(&[commit(20_000, 1)]);
        assert_eq!(recent.tail.lock().num_events, MAX_EVENTS);
    }

    #[test]
    fn large_ones_make_room_earlier_and_the_newest_group_stays() {
        let recent = empty();
        let large = |first| with_text(first, 4 << 20);
        for first in 1..=100 {
            recent.push(&[large(first)]);
        }
        let num_kept = recent.tail.lock().commits.len();
        assert!((4..8).contains(&num_kept), "{num_kept}");
        assert!(has(&recent, 100));
        let group: Vec<_> = (101..=120).map(large).collect();
        recent.push(&group);
        assert!(!has(&recent, 100));
        assert!(has(&recent, 101));
        // They are forgotten like any others.
        recent.push(&[commit(121, 1)]);
        assert!(!has(&recent, 110));
        for first in 122..20_000 {
            recent.push(&[commit(first, 1)]);
        }
        assert_eq!(recent.tail.lock().num_events, MAX_EVENTS);
        assert_eq!(
            recent.tail.lock().num_bytes,
            MAX_EVENTS * weight(&commit(1, 1))
        );
    }
}
