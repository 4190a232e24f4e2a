//! Following the log: what the committer hands over, and after a gap what is read from the log.
//!
//! The committer never waits for a follower: what does not fit in the queue is read from the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use skytrail_schema::event::Commit;
use tokio::sync::{Notify, mpsc};

use super::weight::weight;
use super::{CommitObserver, EventLog};

/// How many groups can wait for a follower; any more are read from the log.
const QUEUED_GROUPS: usize = 1024;

/// How many bytes can wait for a follower; any more are read from the log.
const HELD_BYTES: usize = 32 << 20;

/// A follower takes about this many events at once.
const BATCH_EVENTS: usize = 1024;

/// The committer's side; it never blocks.
pub struct TailFeed {
    groups: mpsc::Sender<Vec<Held>>,
    wake: Arc<Notify>,
    is_followed: Arc<AtomicBool>,
    num_bytes: Arc<AtomicUsize>,
}

/// The follower's side.
pub struct Tail {
    groups: mpsc::Receiver<Vec<Held>>,
    wake: Arc<Notify>,
    is_followed: Arc<AtomicBool>,
    /// Taken from the queue but not asked for yet, in order.
    ahead: Vec<Held>,
}

/// A commit that waits for a follower, and counts towards the waiting bytes.
struct Held {
    commit: Arc<Commit>,
    weight: usize,
    num_bytes: Arc<AtomicUsize>,
}

impl Held {
    fn new(commit: &Arc<Commit>, num_bytes: &Arc<AtomicUsize>) -> Self {
        let weight = weight(commit);
        num_bytes.fetch_add(weight, Ordering::Relaxed);
        Self {
            commit: Arc::clone(commit),
            weight,
            num_bytes: Arc::clone(num_bytes),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.num_bytes.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

/// Creates the two sides.
pub fn tail() -> (TailFeed, Tail) {
    let (sender, groups) = mpsc::channel(QUEUED_GROUPS);
    let wake = Arc::new(Notify::new());
    let is_followed = Arc::new(AtomicBool::new(true));
    let feed = TailFeed {
        groups: sender,
        wake: Arc::clone(&wake),
        is_followed: Arc::clone(&is_followed),
        num_bytes: Arc::default(),
    };
    let tail = Tail {
        groups,
        wake,
        is_followed,
        ahead: Vec::new(),
    };
    (feed, tail)
}

impl CommitObserver for TailFeed {
    fn committed(&self, commits: &[Arc<Commit>]) {
        if !self.is_followed.load(Ordering::Acquire) {
            return;
        }
        let held = |commit| Held::new(commit, &self.num_bytes);
        let group: Vec<Held> = commits.iter().map(held).collect();
        // A full queue loses nothing: the follower finds the gap and reads the log.
        if self.num_bytes.load(Ordering::Relaxed) <= HELD_BYTES {
            let _ = self.groups.try_send(group);
        }
        self.wake.notify_one();
    }
}

impl Tail {
    /// Waits until something has been committed since the last call.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the commits after `position` and up to `until`, at most a batch. Returns none when
    /// there are none, or when the log cannot be read at present.
    pub async fn take(
        &mut self,
        log: &dyn EventLog,
        position: u64,
        until: u64,
    ) -> Vec<Arc<Commit>> {
        self.fill(position);
        let follows = |held: &Held| held.commit.first_position() == position + 1;
        if self.ahead.first().is_some_and(follows) {
            return self.contiguous(position, until);
        }
        if log.head().min(until) <= position {
            return Vec::new();
        }
        match log.read(position + 1, BATCH_EVENTS).await {
            Ok(mut commits) => {
                commits.retain(|commit| commit.last_position() <= until);
                commits
            }
            Err(error) => {
                tracing::error!(%error, "the log cannot be read");
                Vec::new()
            }
        }
    }

    /// Discards what is in memory up to `position`.
    pub fn skip(&mut self, position: u64) {
        while let Ok(group) = self.groups.try_recv() {
            self.ahead.extend(group);
            self.forget_until(position);
        }
        self.forget_until(position);
    }

    /// Stops being handed commits, until it joins again.
    pub fn leave(&mut self) {
        self.is_followed.store(false, Ordering::Release);
        while self.groups.try_recv().is_ok() {}
        self.forget();
    }

    /// Is handed everything that is committed from now on.
    pub fn join(&mut self) {
        self.is_followed.store(true, Ordering::Release);
    }

    /// Forgets what it has in memory; that is read from the log again.
    pub fn forget(&mut self) {
        self.ahead.clear();
    }

    fn fill(&mut self, position: u64) {
        let mut num_events: usize = self.ahead.iter().map(|held| held.commit.events.len()).sum();
        while num_events < BATCH_EVENTS {
            let Ok(group) = self.groups.try_recv() else {
                break;
            };
            num_events += group
                .iter()
                .map(|held| held.commit.events.len())
                .sum::<usize>();
            self.ahead.extend(group);
        }
        self.forget_until(position);
    }

    fn forget_until(&mut self, position: u64) {
        self.ahead
            .retain(|held| held.commit.last_position() > position);
    }

    /// Takes commits off the front as long as they are consecutive, up to a batch.
    fn contiguous(&mut self, position: u64, until: u64) -> Vec<Arc<Commit>> {
        let commits = self.ahead.iter().map(|held| &held.commit);
        let count = run_length(commits, (position, until), BATCH_EVENTS);
        let taken = self.ahead.drain(..count);
        taken.map(|held| Arc::clone(&held.commit)).collect()
    }
}

/// Counts how many commits follow each other right after a position and up to `until`, until there
/// are `max_events` events.
pub(super) fn run_length<'a>(
    commits: impl Iterator<Item = &'a Arc<Commit>>,
    (mut position, until): (u64, u64),
    max_events: usize,
) -> usize {
    let mut num_events = 0;
    let fits = commits.take_while(|commit| {
        let follows = commit.first_position() == position + 1 && num_events < max_events;
        position = commit.last_position();
        num_events += commit.events.len();
        follows && position <= until
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::written::{Written, commit, with_text};

    #[tokio::test]
    async fn what_waits_for_a_follower_is_bounded_in_bytes() {
        let (feed, mut tail) = tail();
        let log = Written((1..=100).map(|first| with_text(first, 4 << 20)).collect());
        for commit in &log.0 {
            feed.committed(std::slice::from_ref(commit));
        }
        let num_queued = tail.groups.len();
        assert!((4..8).contains(&num_queued), "{num_queued}");
        let mut position = 0;
        while position < 100 {
            for commit in tail.take(&log, position, 100).await {
                assert_eq!(commit.first_position(), position + 1);
                position = commit.last_position();
            }
        }
        assert_eq!(feed.num_bytes.load(Ordering::Relaxed), 0);
        // There is room again.
        feed.committed(&[commit(101, 1)]);
        assert_eq!(tail.groups.len(), 1);
        tail.leave();
        assert_eq!(feed.num_bytes.load(Ordering::Relaxed), 0);
    }

    proptest! {
        /// Whichever commits are handed over, and however far the follower can go each time, it
        /// gets every commit once and in order.
        #[test]
        fn every_commit_comes_once_and_in_order(
            sizes in prop::collection::vec((1_u64..4, any::<bool>()), 1..40),
            steps in prop::collection::vec((1_u64..12, any::<bool>()), 1..40),
            is_away in prop::collection::vec(any::<bool>(), 40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (feed, mut tail) = tail();
            let mut log = Written(Vec::new());
            for ((size, is_fed), is_away) in sizes.into_iter().zip(is_away) {
                if is_away {
                    tail.leave();
                } else {
                    tail.join();
                }
                let next = commit(log.head() + 1, size);
                if is_fed {
                    feed.committed(std::slice::from_ref(&next));
                }
                log.0.push(next);
            }
            let (mut position, mut until) = (0, 0);
            for (step, skips) in steps {
                // Only the ends of commits are ever applied.
                until = (until + step).min(log.head());
                until = log.0.iter().map(|commit| commit.last_position()).find(|end| *end >= until).unwrap();
                if skips {
                    tail.skip(until);
                    position = until;
                }
                while position < until {
                    let taken = runtime.block_on(tail.take(&log, position, until));
                    prop_assert!(!taken.is_empty());
                    for commit in taken {
                        prop_assert_eq!(commit.first_position(), position + 1);
                        position = commit.last_position();
                    }
                    prop_assert!(position <= until);
                }
            }
        }
    }
}
