//! What was committed a moment ago, at hand for every consumer.
//!
//! An observer of the log: a consumer that keeps up never reads the log itself. One that is behind
//! finds a gap and reads the log.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use skytrail_schema::event::Commit;

use crate::log::CommitObserver;

/// About how many events are kept.
const MAX_EVENTS: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Recent {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    commits: VecDeque<Arc<Commit>>,
    num_events: usize,
}

impl Recent {
    /// Returns the commits behind `position` and not beyond `until`, some `max_events` at most;
    /// `None` when the first of them is not at hand.
    pub(super) fn read(
        &self,
        position: u64,
        until: u64,
        max_events: usize,
    ) -> Option<Vec<Arc<Commit>>> {
        let kept = self.kept.lock();
        let first = kept
            .commits
            .partition_point(|commit| commit.first_position() <= position);
        let next = kept.commits.get(first)?;
        if next.first_position() != position + 1 {
            return None;
        }
        let mut num_events = 0;
        let wanted = kept.commits.iter().skip(first).take_while(|commit| {
            let is_wanted = num_events < max_events && commit.last_position() <= until;
            num_events += commit.events.len();
            is_wanted
        });
        Some(wanted.cloned().collect())
    }

    /// Returns the commit that holds a position, if it is at hand.
    pub(super) fn find(&self, position: u64) -> Option<Arc<Commit>> {
        let kept = self.kept.lock();
        let index = kept
            .commits
            .partition_point(|commit| commit.last_position() < position);
        let commit = kept.commits.get(index)?;
        (commit.first_position() <= position).then(|| Arc::clone(commit))
    }
}

impl CommitObserver for Recent {
    fn committed(&self, commits: &[Arc<Commit>]) {
        let mut kept = self.kept.lock();
        for commit in commits {
            kept.num_events += commit.events.len();
            kept.commits.push_back(Arc::clone(commit));
        }
        while kept.num_events > MAX_EVENTS {
            let Some(oldest) = kept.commits.pop_front() else {
                break;
            };
            kept.num_events -= oldest.events.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use skytrail_schema::event::{Actor, Event, EventBody, Stream, Touch};
    use skytrail_schema::id::RecordId;
    use skytrail_schema::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn commit(first: u64, num_events: u64) -> Arc<Commit> {
        let event = |position| Event {
            position,
            stream: Stream::Record(RecordId::new("t", "1")),
            version: 1,
            body: EventBody::RecordDeleted(Touch::default()),
            provenance: Vec::new(),
            payload_hash: [0; 32],
        };
        Arc::new(Commit {
            id: Uuid::from_u128(first.into()),
            time: Timestamp::from_micros(0),
            epoch: 1,
            actor: Actor::default(),
            request_id: None,
            causation: None,
            events: (first..first + num_events).map(event).collect(),
            chain: [0; 32],
        })
    }

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
}
