//! Throttling of whoever tries passwords, per address and per account.
//!
//! Each has a bucket that refills steadily; an empty one refuses with the time
//! to wait. Buckets that are full again are forgotten.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use skytrail_schema::code::ApiError;

/// How many tries a bucket holds, and how long one takes to come back.
const CAPACITY: f64 = 10.0;
const REFILL: Duration = Duration::from_secs(3);
/// How long an empty bucket takes until it is full. Those that are full are dropped as often.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// See the module's overview.
#[derive(Debug)]
pub struct Throttle {
    is_on: bool,
    buckets: Mutex<Buckets>,
    num_refused: AtomicU64,
}

/// What the throttle says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ThrottleState {
    /// Buckets that were not full when that was last looked at.
    pub num_buckets: usize,
    /// Tries refused since the start.
    pub num_refused: u64,
}

/// A bucket has a name of this size, however long that of what is tried is.
type Key = [u8; 32];

#[derive(Debug, Default)]
struct Buckets {
    all: HashMap<Key, Bucket>,
    swept_at: Option<Instant>,
}

impl Buckets {
    fn sweep_if_due(&mut self, now: Instant) {
        let swept_at = *self.swept_at.get_or_insert(now);
        if now.saturating_duration_since(swept_at) < SWEEP_EVERY {
            return;
        }
        self.all.retain(|_, bucket| bucket.refilled(now) < CAPACITY);
        self.swept_at = Some(now);
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tries: f64,
    at: Instant,
}

impl Bucket {
    fn refilled(self, now: Instant) -> f64 {
        let back = now.saturating_duration_since(self.at).as_secs_f64() / REFILL.as_secs_f64();
        (self.tries + back).min(CAPACITY)
    }
}

impl Throttle {
    /// Builds a throttle; one that is off lets everything through.
    pub fn new(is_on: bool) -> Self {
        Self {
            is_on,
            buckets: Mutex::default(),
            num_refused: AtomicU64::default(),
        }
    }

    /// Returns the throttle's state.
    pub fn state(&self) -> ThrottleState {
        let buckets = self
            .buckets
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        ThrottleState {
            num_buckets: buckets.all.len(),
            num_refused: self.num_refused.load(Ordering::Relaxed),
        }
    }

    /// Takes one try from each of the buckets named.
    ///
    /// # Errors
    /// 429 with the time to wait, when one of them is empty.
    pub fn admit(&self, names: &[String], now: Instant) -> Result<(), ApiError> {
        if !self.is_on {
            return Ok(());
        }
        let mut buckets = self
            .buckets
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        buckets.sweep_if_due(now);
        let keys: Vec<Key> = names.iter().map(key_of).collect();
        let tries_of = |key: &Key| {
            let known = buckets.all.get(key);
            known.map_or(CAPACITY, |bucket| bucket.refilled(now))
        };
        // All or none: who is refused for one name fills nothing for the others.
        let tries: Vec<f64> = keys.iter().map(tries_of).collect();
        let fewest = tries.iter().copied().fold(CAPACITY, f64::min);
        if fewest < 1.0 {
            self.num_refused.fetch_add(1, Ordering::Relaxed);
            return Err(refusal(REFILL.mul_f64(1.0 - fewest)));
        }
        for (key, tries) in keys.into_iter().zip(tries) {
            let tries = tries - 1.0;
            buckets.all.insert(key, Bucket { tries, at: now });
        }
        Ok(())
    }

    /// Gives back the tries that were taken from these buckets: it was no guess.
    pub fn give_back(&self, names: &[String], now: Instant) {
        let mut buckets = self
            .buckets
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        for name in names {
            if let Some(bucket) = buckets.all.get_mut(&key_of(name)) {
                let tries = CAPACITY.min(bucket.refilled(now) + 1.0);
                *bucket = Bucket { tries, at: now };
            }
        }
    }
}

fn key_of(name: &String) -> Key {
    *blake3::hash(name.as_bytes()).as_bytes()
}

fn refusal(wait: Duration) -> ApiError {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    ApiError::unexpected("too many attempts, try again later")
        .with_status(429)
        .with_info("retry_after_ms", json!(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_bucket_refuses_until_it_refills() {
        let throttle = Throttle::new(true);
        let (start, name) = (Instant::now(), vec!["address 1".to_owned()]);
        let admitted = (0..20)
            .filter(|_| throttle.admit(&name, start).is_ok())
            .count();
        assert_eq!(admitted, 10);
        let error = throttle.admit(&name, start).unwrap_err();
        assert_eq!(error.status(), 429);
        assert!(throttle.admit(&["address 2".to_owned()], start).is_ok());
        assert!(throttle.admit(&name, start + REFILL).is_ok());
        assert!(throttle.admit(&name, start + REFILL).is_err());
    }

    #[test]
    fn who_is_refused_for_one_name_takes_nothing_from_the_others() {
        let throttle = Throttle::new(true);
        let (now, both) = (Instant::now(), ["address".to_owned(), "account".to_owned()]);
        let alone = &both[..1];
        while throttle.admit(alone, now).is_ok() {}
        assert!((0..100).all(|_| throttle.admit(&both, now).is_err()));
        assert!((0..10).all(|_| throttle.admit(&both[1..], now).is_ok()));
    }

    #[test]
    fn what_was_no_guess_takes_nothing() {
        let throttle = Throttle::new(true);
        let now = Instant::now();
        let name = ["address".to_owned()];
        for _ in 0..100 {
            throttle.admit(&name, now).unwrap();
            throttle.give_back(&name, now);
        }
        // A try that was not taken is not given.
        throttle.give_back(&name, now);
        assert!((0..10).all(|_| throttle.admit(&name, now).is_ok()));
        assert!(throttle.admit(&name, now).is_err());
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let throttle = Throttle::new(true);
        let start = Instant::now();
        for number in 0..100 {
            let name = [format!("user {number}")];
            throttle.admit(&name, start).unwrap();
        }
        assert_eq!(throttle.state().num_buckets, 100);
        let name = ["user 100".to_owned()];
        throttle.admit(&name, start + SWEEP_EVERY).unwrap();
        assert_eq!(throttle.state().num_buckets, 1);
    }

    #[test]
    fn one_that_is_off_lets_everything_through() {
        let throttle = Throttle::new(false);
        let name = vec!["address".to_owned()];
        assert!((0..1000).all(|_| throttle.admit(&name, Instant::now()).is_ok()));
    }
}
