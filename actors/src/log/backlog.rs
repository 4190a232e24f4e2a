//! What the record store has not applied yet, and what that means for writers.
//!
//! A reader waits until the store has applied everything that was acknowledged. If writes arrived
//! faster than the store applies them, readers would wait ever longer, so writers are slowed down
//! to the store's pace before that is noticeable: from the backlog on that the store applies in
//! about a second, as its last batches were. A store that applies nothing at all delays nobody,
//! until its backlog reaches the bound.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// From this backlog on at the latest, writers go at the store's pace.
const MOST_FREE_EVENTS: u64 = 1 << 15;
/// With less than this backlog nobody waits, however slow the store is: some batches of events.
const FEWEST_FREE_EVENTS: u64 = 1 << 11;
/// A store that applies nothing for this long delays nobody, unless its last batch took as long.
const STANDSTILL: Duration = Duration::from_millis(500);
/// The longest that a writer is held up.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// How much of what was written may be kept in memory because the record store has not applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagBound {
    /// The number of events.
    pub events: u64,
    /// The approximate number of bytes, not counting those that are kept anyway.
    pub bytes: usize,
}

impl LagBound {
    /// No bound.
    pub const NONE: Self = Self {
        events: u64::MAX,
        bytes: usize::MAX,
    };
}

/// See the module's overview.
#[derive(Debug)]
pub struct Backlog {
    bound: LagBound,
    is_at_bound: AtomicBool,
    events: AtomicU64,
    /// From this backlog on writers are slowed down.
    paced_from: AtomicU64,
    store: Mutex<StorePace>,
    shrunk: Notify,
}

/// How fast the store is.
#[derive(Debug)]
struct StorePace {
    /// When it applied its last batch, and whether more was waiting then.
    last: Option<(Instant, bool)>,
    /// How long it took for that.
    batch: Duration,
    events_per_second: f64,
}

impl StorePace {
    /// Notes a batch that the store has applied.
    fn note(&mut self, num_applied: u64, num_left: u64) {
        let now = Instant::now();
        // While nothing is waiting, the time says nothing about the store.
        if let Some((last, true)) = self.last {
            self.batch = now - last;
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
            let rate = num_applied as f64 / self.batch.as_secs_f64().max(1e-6);
            // About the last four batches count.
            self.events_per_second += (rate - self.events_per_second) / 4.0;
        }
        self.last = Some((now, num_left > 0));
    }
}

impl Backlog {
    /// Returns an empty backlog.
    pub fn new(bound: LagBound) -> Self {
        Self {
            bound,
            is_at_bound: AtomicBool::new(false),
            events: AtomicU64::new(0),
            paced_from: AtomicU64::new(MOST_FREE_EVENTS),
            store: Mutex::new(StorePace {
                last: None,
                batch: Duration::ZERO,
                #[expect(clippy::cast_precision_loss, reason = "a small constant")]
                events_per_second: MOST_FREE_EVENTS as f64,
            }),
            shrunk: Notify::new(),
        }
    }

    /// Returns whether the backlog is so large that nothing more should be written.
    pub fn is_at_bound(&self) -> bool {
        self.is_at_bound.load(Ordering::Relaxed)
    }

    /// Returns how many events wait for the record store.
    pub(super) fn num_events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Notes the size of the backlog. After it was at the bound, it has to shrink by an eighth
    /// before writes are accepted again.
    pub(crate) fn note(&self, num_events: u64, num_bytes: usize) {
        let before = self.events.swap(num_events, Ordering::Relaxed);
        if num_events < before {
            let mut store = self.store.lock();
            store.note(before - num_events, num_events);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positive, and limited next"
            )]
            let in_a_second = store.events_per_second as u64;
            let paced_from = in_a_second.clamp(FEWEST_FREE_EVENTS, MOST_FREE_EVENTS);
            self.paced_from.store(paced_from, Ordering::Relaxed);
            drop(store);
            self.shrunk.notify_waiters();
        }
        let LagBound { events, bytes } = self.bound;
        let was_at_bound = self.is_at_bound();
        let is_at_bound = match was_at_bound {
            true => num_events >= events - events / 8 || num_bytes >= bytes - bytes / 8,
            false => num_events >= events || num_bytes >= bytes,
        };
        self.is_at_bound.store(is_at_bound, Ordering::Relaxed);
        if is_at_bound != was_at_bound {
            match is_at_bound {
                true => tracing::error!(
                    num_events,
                    "the record store is too far behind: writes are refused until it has caught up"
                ),
                false => tracing::info!(num_events, "writes are accepted again"),
            }
        }
    }

    /// Holds up a writer while the store is busy with earlier writes.
    pub(super) async fn pace(&self) {
        let give_up = Instant::now() + MAX_DELAY;
        while self.is_paced() && Instant::now() < give_up {
            let shrunk = self.shrunk.notified();
            let standstill = STANDSTILL.max(self.store.lock().batch * 2).min(MAX_DELAY);
            if self.is_paced() && timeout(standstill, shrunk).await.is_err() {
                return;
            }
        }
    }

    fn is_paced(&self) -> bool {
        self.num_events() >= self.paced_from.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ALL: LagBound = LagBound::NONE;

    /// Returns how long a writer is held up while `step` runs every tenth of a second.
    async fn held_up(backlog: Arc<Backlog>, mut step: impl FnMut(&Backlog)) -> Duration {
        let begun = Instant::now();
        let writer = async {
            backlog.pace().await;
            begun.elapsed()
        };
        let store = async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                step(&backlog);
            }
        };
        tokio::select! {
            biased;
            held = writer => held,
            () = store => unreachable!("it goes on for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_waits_for_a_store_that_works() {
        let backlog = Arc::new(Backlog::new(ALL));
        let mut waiting = MOST_FREE_EVENTS + 13_999;
        backlog.note(waiting, 0);
        let held = held_up(Arc::clone(&backlog), |backlog| {
            // At this pace the limit stays where it is.
            waiting -= 3500;
            backlog.note(waiting, 0);
        });
        let held = held.await;
        assert!(held >= Duration::from_millis(400), "{held:?}");
        assert!(held < Duration::from_millis(500), "{held:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_before_it_is_much() {
        let backlog = Arc::new(Backlog::new(ALL));
        backlog.note(MOST_FREE_EVENTS - 1, 0);
        assert_eq!(held_up(backlog, |_| ()).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stands_still_holds_nobody_up_for_long() {
        let backlog = Arc::new(Backlog::new(ALL));
        backlog.note(MOST_FREE_EVENTS, 0);
        let mut waiting = MOST_FREE_EVENTS;
        let held = held_up(backlog, |backlog| {
            // Others write meanwhile.
            waiting += 1;
            backlog.note(waiting, 0);
        });
        let held = held.await;
        assert!(held >= STANDSTILL, "{held:?}");
        assert!(held < STANDSTILL * 2, "{held:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_store_is_waited_for_earlier_and_through_its_long_batches() {
        let backlog = Arc::new(Backlog::new(ALL));
        // Batches of 3200 events, each of which takes 800 ms: 4000 events per second.
        let mut waiting = 72_000;
        for _ in 0..20 {
            backlog.note(waiting, 0);
            tokio::time::sleep(Duration::from_millis(800)).await;
            waiting -= 3200;
            backlog.note(waiting, 0);
        }
        assert_eq!(waiting, 8000);
        let mut turn = 0;
        let held = held_up(backlog, |backlog| {
            turn += 1;
            if turn % 8 == 0 {
                waiting -= 3200;
                backlog.note(waiting, 0);
            }
        });
        let held = held.await;
        assert!(held >= Duration::from_millis(1600), "{held:?}");
        assert!(waiting < 4500, "{waiting}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let backlog = Arc::new(Backlog::new(ALL));
        backlog.note(MOST_FREE_EVENTS * 9, 0);
        let mut turn = 0;
        let held = held_up(backlog, |backlog| {
            turn += 1;
            backlog.note(MOST_FREE_EVENTS * 9 - turn % 2, 0);
        });
        let held = held.await;
        assert!(held >= MAX_DELAY, "{held:?}");
        assert!(held <= MAX_DELAY + STANDSTILL, "{held:?}");
    }

    #[test]
    fn at_the_bound_until_it_is_clearly_less() {
        let backlog = Backlog::new(LagBound {
            events: 800,
            bytes: 8000,
        });
        let at_bound = |events, bytes| {
            backlog.note(events, bytes);
            backlog.is_at_bound()
        };
        assert!(!at_bound(799, 7999));
        assert!(at_bound(800, 0));
        assert!(at_bound(700, 0));
        assert!(!at_bound(699, 6999));
        assert!(at_bound(0, 8000));
        assert!(at_bound(0, 7000));
        assert!(!at_bound(0, 6999));
    }
}
