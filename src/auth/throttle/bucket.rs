//! Buckets, which hold attempts and refill steadily.

use std::time::{Duration, Instant};

/// What a bucket is for: how many attempts it holds, and how fast it refills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An address, whatever is tried from it: 28,800 attempts a day.
    Address,
    /// An account as tried from one address: 2,880 a day.
    Pair,
    /// An account: 28,800 a day, of which one address gets a tenth.
    Account,
    /// An address that signs up users: 28,800 a day. The same for giving users other names.
    SignUps,
}

impl Kind {
    pub(super) fn capacity(self) -> f64 {
        match self {
            Self::Address | Self::Pair => 10.0,
            Self::Account => 100.0,
            Self::SignUps => 300.0,
        }
    }

    /// Returns how long one attempt takes to refill.
    pub(super) fn refill(self) -> Duration {
        match self {
            Self::Address | Self::Account | Self::SignUps => Duration::from_secs(3),
            Self::Pair => Duration::from_secs(30),
        }
    }

    /// Returns whether it is one address's own, so that all who wait for it are in one line.
    pub(super) fn is_of_one_address(self) -> bool {
        matches!(self, Self::Address | Self::Pair)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub(super) kind: Kind,
    tries: f64,
    at: Instant,
    /// How many attempts have been taken whose outcome is not known yet.
    pub(super) num_pending: u32,
}

impl Bucket {
    pub(super) fn full(kind: Kind, now: Instant) -> Self {
        let tries = kind.capacity();
        Self {
            kind,
            tries,
            at: now,
            num_pending: 0,
        }
    }

    /// Returns the bucket in its state at `now`.
    pub(super) fn refilled(self, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.with(passed / self.kind.refill().as_secs_f64(), now)
    }

    pub(super) fn with(self, more: f64, now: Instant) -> Self {
        let tries = (self.tries + more).min(self.kind.capacity());
        Self {
            tries,
            at: now,
            ..self
        }
    }

    /// Returns whether it is as good as new.
    pub(super) fn is_full(self) -> bool {
        self.tries >= self.kind.capacity() && self.num_pending == 0
    }

    /// Returns how long to wait for the next attempt; zero if one is available.
    pub(super) fn wait(self) -> Duration {
        self.kind.refill().mul_f64((1.0 - self.tries).max(0.0))
    }

    /// Returns whether it is empty only because of attempts in progress.
    pub(super) fn is_pending(self) -> bool {
        self.tries + f64::from(self.num_pending) >= 1.0
    }
}
