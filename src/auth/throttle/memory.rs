//! What is remembered: buckets that are not full, and who has signed in where.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::attempt::{Attempt, Key};
use super::bucket::{Bucket, Kind};
use super::turn::Waiter;

/// How many buckets are remembered, in some 30 MiB. To have an account's bucket evicted before it
/// is full, an attacker must try this many others.
pub(super) const MAX_BUCKETS: usize = 300_000;
/// How many pairs of an account and an address it was signed in from are remembered.
pub(super) const MAX_HOMES: usize = 100_000;
/// For how long one repeat of a guess is free.
const REPEAT_WITHIN: Duration = Duration::from_secs(10);
/// How many guesses are remembered for this.
const MAX_GUESSES: usize = 10_000;

/// See the module's overview.
#[derive(Debug)]
pub(super) struct Memory {
    /// The buckets that changed longest ago are evicted first.
    pub(super) buckets: LruCache<Key, Bucket>,
    /// Accounts with the addresses from which they were signed in to.
    pub(super) homes: LruCache<Key, ()>,
    /// The last guess of each account and address that may be repeated, with its time.
    pub(super) guesses: LruCache<Key, (Key, Instant)>,
    /// Those who wait at each address, in the order of their arrival.
    pub(super) lines: HashMap<Key, VecDeque<Waiter>>,
}

/// Why an attempt cannot be taken: a bucket is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Empty {
    /// How long it takes to refill.
    pub(super) wait: Duration,
    /// Whether attempts in progress would refill it if they were given back.
    pub(super) is_pending: bool,
}

impl Memory {
    /// Remembers nothing.
    pub(super) fn empty() -> Self {
        Self {
            buckets: LruCache::unbounded(),
            homes: LruCache::unbounded(),
            guesses: LruCache::unbounded(),
            lines: HashMap::new(),
        }
    }

    /// Returns buckets in their state at `now`.
    fn look_up(&self, buckets: &[(Kind, Key)], now: Instant) -> Vec<(Key, Bucket)> {
        let states = buckets.iter().map(|(kind, key)| {
            let cached = self.buckets.peek(key).copied();
            let bucket = cached.unwrap_or_else(|| Bucket::full(*kind, now));
            (*key, bucket.refilled(now))
        });
        states.collect()
    }

    /// Takes one try from each bucket of an attempt; from none if one of them is empty.
    pub(super) fn take(&mut self, attempt: &mut Attempt, now: Instant) -> Result<(), Empty> {
        let is_home = attempt.pair().is_some_and(|it| self.homes.contains(&it));
        let mut held = attempt.buckets.clone();
        held.retain(|(kind, _)| !is_home || *kind != Kind::Account);
        let buckets = self.look_up(&held, now);
        let empty = buckets.iter().filter(|(_, it)| !it.wait().is_zero());
        let empty: Vec<_> = empty.map(|(_, bucket)| *bucket).collect();
        if let Some(wait) = empty.iter().map(|it| it.wait()).max() {
            let is_pending = empty.iter().all(|it| it.is_pending());
            return Err(Empty { wait, is_pending });
        }
        for (key, bucket) in buckets {
            let is_awaited = attempt.is_awaited && bucket.kind.is_of_one_address();
            let mut taken = bucket.with(-1.0, now);
            taken.num_pending += u32::from(is_awaited);
            self.put(key, taken);
        }
        // The address may become the account's home before the attempt ends.
        attempt.buckets = held;
        if let Some((pair, guess)) = attempt.pair().zip(attempt.guess) {
            self.remember_guess(pair, guess, now);
        }
        Ok(())
    }

    /// Ends an attempt that was taken. Unless it was a guess, it is given back; it still counts as a
    /// sign-up.
    pub(super) fn end(&mut self, attempt: &Attempt, is_guess: bool, now: Instant) {
        for (key, bucket) in self.look_up(&attempt.buckets, now) {
            let is_awaited = attempt.is_awaited && bucket.kind.is_of_one_address();
            let is_kept = is_guess || bucket.kind == Kind::SignUps;
            let mut ended = bucket.with(if is_kept { 0.0 } else { 1.0 }, now);
            // A bucket that was evicted meanwhile has forgotten them.
            ended.num_pending = ended.num_pending.saturating_sub(u32::from(is_awaited));
            self.put(key, ended);
        }
    }

    fn put(&mut self, key: Key, bucket: Bucket) {
        if bucket.is_full() {
            self.buckets.pop(&key);
        } else {
            self.buckets.put(key, bucket);
        }
    }

    /// Returns whether an attempt repeats the last guess; this uses up the repeat.
    pub(super) fn is_repeat(&mut self, attempt: &Attempt, now: Instant) -> bool {
        let Some((pair, guess)) = attempt.pair().zip(attempt.guess) else {
            return false;
        };
        let last = self.guesses.pop(&pair);
        last.is_some_and(|(last, at)| last == guess && now.duration_since(at) <= REPEAT_WITHIN)
    }

    fn remember_guess(&mut self, pair: Key, guess: Key, now: Instant) {
        self.guesses.put(pair, (guess, now));
        if self.guesses.len() > MAX_GUESSES {
            self.guesses.pop_lru();
        }
    }

    /// Evicts buckets that are full again, and the oldest ones when there are too many; and guesses
    /// whose repeat is not free any more.
    pub(super) fn forget_old(&mut self, now: Instant) {
        while let Some((_, (_, at))) = self.guesses.peek_lru()
            && now.duration_since(*at) > REPEAT_WITHIN
        {
            self.guesses.pop_lru();
        }
        while let Some((_, oldest)) = self.buckets.peek_lru()
            && (oldest.refilled(now).is_full() || self.buckets.len() > MAX_BUCKETS)
        {
            self.buckets.pop_lru();
        }
    }

    /// Remembers that the account of a pair was signed in to from its address.
    pub(super) fn add_home(&mut self, pair: Key) {
        self.homes.put(pair, ());
        if self.homes.len() > MAX_HOMES {
            self.homes.pop_lru();
        }
    }
}
