//! Where readers and savers wait for what SQL has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use skytrail_schema::code::ApiError;
use tokio::sync::{Notify, watch};

/// How long a request waits for the outbox to be read.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is told of the taking in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CaptureState {
    /// Whether the outbox is read.
    pub is_active: bool,
    /// Transactions that were taken into the log since the start.
    pub num_transactions: u64,
    /// Rows that could not be, since the start.
    pub num_parked: u64,
    /// Attempts to read the outbox that failed.
    pub num_failures: u64,
    /// Whether the last one did.
    pub is_failing: bool,
}

/// See the module's overview. Cheap to clone; one that nobody serves lets everybody through.
#[derive(Clone, Debug, Default)]
pub struct CaptureGate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_active: AtomicBool,
    is_served: AtomicBool,
    begun: AtomicU64,
    done: watch::Sender<Round>,
    wanted: Notify,
    num_transactions: AtomicU64,
    num_parked: AtomicU64,
    num_failures: AtomicU64,
}

/// The last round that ended.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    number: u64,
    is_failed: bool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            is_active: AtomicBool::new(false),
            is_served: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            done: watch::Sender::new(Round::default()),
            wanted: Notify::new(),
            num_transactions: AtomicU64::new(0),
            num_parked: AtomicU64::new(0),
            num_failures: AtomicU64::new(0),
        }
    }
}

impl CaptureGate {
    /// Waits until everything that SQL had committed before is in the log. When the database is away
    /// nobody is held up: the log is what counts.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn settle(&self) -> Result<(), ApiError> {
        match self.0.is_active.load(Ordering::Acquire) {
            true => self.next_round().await.map(drop),
            false => Ok(()),
        }
    }

    /// As [`CaptureGate::settle`], for who must not go on otherwise.
    ///
    /// # Errors
    /// It takes too long, or what there is could not be taken in.
    pub async fn drain(&self) -> Result<(), ApiError> {
        if self.is_served() && self.next_round().await?.is_failed {
            return Err(late());
        }
        Ok(())
    }

    /// Waits for a round that begins from now on.
    async fn next_round(&self) -> Result<Round, ApiError> {
        // A round that has begun may have looked already.
        let round = self.0.begun.load(Ordering::Acquire) + 1;
        let mut done = self.0.done.subscribe();
        self.0.wanted.notify_one();
        let reached = done.wait_for(|done| done.number >= round);
        match tokio::time::timeout(DEADLINE, reached).await {
            Ok(Ok(done)) => Ok(*done),
            _ => Err(late()),
        }
    }

    /// Whether others may write by SQL at all.
    pub fn is_served(&self) -> bool {
        self.0.is_served.load(Ordering::Relaxed)
    }

    pub(super) fn serve(&self) {
        self.0.is_served.store(true, Ordering::Relaxed);
    }

    /// Returns what is told of it.
    pub fn state(&self) -> CaptureState {
        let shared = &self.0;
        CaptureState {
            is_active: shared.is_active.load(Ordering::Relaxed),
            num_transactions: shared.num_transactions.load(Ordering::Relaxed),
            num_parked: shared.num_parked.load(Ordering::Relaxed),
            num_failures: shared.num_failures.load(Ordering::Relaxed),
            is_failing: shared.done.borrow().is_failed,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Relaxed)
    }

    /// From here on there is something to wait for.
    pub(super) fn set_active(&self) {
        self.0.is_active.store(true, Ordering::Release);
    }

    /// Waits until somebody wants a round.
    pub(super) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// Begins a round.
    pub(super) fn begin(&self) -> u64 {
        self.0.begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Ends a round.
    pub(super) fn end(&self, number: u64, is_failed: bool) {
        self.0
            .num_failures
            .fetch_add(u64::from(is_failed), Ordering::Relaxed);
        self.0.done.send_replace(Round { number, is_failed });
    }

    pub(super) fn count(&self, num_transactions: u64, num_parked: usize) {
        let parked = u64::try_from(num_parked).unwrap_or(u64::MAX);
        let counters = &self.0;
        counters
            .num_transactions
            .fetch_add(num_transactions, Ordering::Relaxed);
        counters.num_parked.fetch_add(parked, Ordering::Relaxed);
    }
}

fn late() -> ApiError {
    ApiError::overloaded("what SQL has changed")
}
