//! Throttles attempts to guess passwords.
//!
//! An attempt takes from buckets that refill steadily; an empty one refuses it, with the time to
//! wait. There is one bucket for the address, one for the account as tried from that address, and a
//! wide one for the account from all addresses. It takes many addresses to empty the last one: a
//! single stranger cannot lock anyone out. A user who recently signed in from an address is not
//! limited by it there.
//!
//! A sign-up also takes from a bucket of its address for sign-ups, which is wider: a class that
//! starts using an app signs up behind one address. It is a guess only if the name is taken.
//!
//! A save that gives a user another name, such as a mail address, takes from the address as a
//! sign-up does, and from a bucket for such saves. Otherwise anyone could ask by their own record
//! which names are taken. An account's bucket is that of a name: one for the user would reveal which
//! names are of the same user.
//!
//! One repeat of a wrong password is free for a few seconds: it is no new guess, and v1's Android
//! SDK repeats each request that is answered with 401.
//!
//! A right password costs nothing, but holds an attempt until it has been checked. So if many sign in
//! at once behind one address, some wait for others: [`turn`].
//!
//! Memory is bounded, and names are kept as hashes, however long they are.

mod turn;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use skytrail_schema::code::ApiError;

pub use turn::Turn;
use turn::Waiter;

/// How many buckets are remembered, in some 30 MiB. To have an account's bucket evicted before it
/// is full, an attacker must try this many others.
const MAX_BUCKETS: usize = 300_000;
/// How many pairs of an account and an address it was signed in from are remembered.
const MAX_HOMES: usize = 100_000;
/// For how long one repeat of a guess is free.
const REPEAT_WITHIN: Duration = Duration::from_secs(10);
/// How many guesses are remembered for this.
const MAX_GUESSES: usize = 10_000;

/// What a bucket is for: how many attempts it holds, and how fast it refills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
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
    fn capacity(self) -> f64 {
        match self {
            Self::Address | Self::Pair => 10.0,
            Self::Account => 100.0,
            Self::SignUps => 300.0,
        }
    }

    /// Returns how long one attempt takes to refill.
    fn refill(self) -> Duration {
        match self {
            Self::Address | Self::Account | Self::SignUps => Duration::from_secs(3),
            Self::Pair => Duration::from_secs(30),
        }
    }

    /// Returns whether it is one address's own, so that all who wait for it are in one line.
    fn is_of_one_address(self) -> bool {
        matches!(self, Self::Address | Self::Pair)
    }
}

/// The key of a bucket; it has this size however long the name that is tried.
type Key = [u8; 32];

/// The buckets that an attempt takes from, or has taken from. The default takes from none.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    buckets: Vec<(Kind, Key)>,
    /// Identifies the password that is tried.
    guess: Option<Key>,
    /// Whether it took nothing, so that nothing can be given back.
    is_free: bool,
    /// Whether others wait for its outcome.
    is_awaited: bool,
}

impl Attempt {
    /// An attempt from an address.
    pub fn at(address: &str) -> Self {
        Self::from_buckets(vec![(Kind::Address, key_of(&["address", address]))])
    }

    /// An attempt on an account from an address, whether or not the account exists.
    pub fn on(account: &str, address: &str) -> Self {
        let mut attempt = Self::at(address);
        let pair = (Kind::Pair, key_of(&["pair", address, account]));
        let account = Self::on_from_anywhere(account);
        attempt.buckets.push(pair);
        attempt.buckets.extend(account.buckets);
        attempt
    }

    /// An attempt on an account; the address is not known.
    pub fn on_from_anywhere(account: &str) -> Self {
        Self::from_buckets(vec![(Kind::Account, key_of(&["account", account]))])
    }

    /// The same attempt, whose guess is this password.
    #[must_use]
    pub fn guessing(mut self, password: &str) -> Self {
        self.guess = Some(key_of(&["guess", password]));
        self
    }

    /// The same attempt as a sign-up. A sign-up with a name guesses which names are taken; an
    /// anonymous one guesses nothing, and starts from the default.
    #[must_use]
    pub fn signing_up(mut self, address: &str) -> Self {
        let sign_ups = (Kind::SignUps, key_of(&["sign-ups", address]));
        self.buckets.push(sign_ups);
        self
    }

    /// A save that gives a user another name. It is a guess only if the name is taken.
    pub fn renaming(address: &str) -> Self {
        let mut attempt = Self::at(address);
        let renames = (Kind::SignUps, key_of(&["renames", address]));
        attempt.buckets.push(renames);
        attempt
    }

    /// A reset of a user's password; the address is not known.
    pub fn reset_of(user: &str) -> Self {
        Self::from_buckets(vec![(Kind::Address, key_of(&["reset", user]))])
    }

    fn from_buckets(buckets: Vec<(Kind, Key)>) -> Self {
        Self {
            buckets,
            ..Self::default()
        }
    }

    fn pair(&self) -> Option<Key> {
        self.key_of(Kind::Pair)
    }

    fn key_of(&self, kind: Kind) -> Option<Key> {
        let found = self.buckets.iter().find(|(it, _)| *it == kind);
        found.map(|(_, key)| *key)
    }
}

/// See the module's overview.
#[derive(Debug)]
pub struct Throttle {
    is_on: bool,
    memory: Mutex<Memory>,
    /// What remembered guesses are hashed with, so that nobody can find them out from memory.
    secret: [u8; 32],
    num_refused: AtomicU64,
}

/// The throttle's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ThrottleState {
    /// Buckets that were not full when last checked.
    pub num_buckets: usize,
    /// Attempts refused since the start.
    pub num_refused: u64,
}

#[derive(Debug)]
struct Memory {
    /// The buckets that changed longest ago are evicted first.
    buckets: LruCache<Key, Bucket>,
    /// Accounts with the addresses from which they were signed in to.
    homes: LruCache<Key, ()>,
    /// The last guess of each account and address that may be repeated, with its time.
    guesses: LruCache<Key, (Key, Instant)>,
    /// Those who wait at each address, in the order of their arrival.
    lines: HashMap<Key, VecDeque<Waiter>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    kind: Kind,
    tries: f64,
    at: Instant,
    /// How many attempts have been taken whose outcome is not known yet.
    num_pending: u32,
}

/// Why an attempt cannot be taken: a bucket is empty.
#[derive(Clone, Copy, Debug)]
struct Empty {
    /// How long it takes to refill.
    wait: Duration,
    /// Whether attempts in progress would refill it if they were given back.
    is_pending: bool,
}

impl Bucket {
    fn full(kind: Kind, now: Instant) -> Self {
        let tries = kind.capacity();
        Self {
            kind,
            tries,
            at: now,
            num_pending: 0,
        }
    }

    /// Returns the bucket in its state at `now`.
    fn refilled(self, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.with(passed / self.kind.refill().as_secs_f64(), now)
    }

    fn with(self, more: f64, now: Instant) -> Self {
        let tries = (self.tries + more).min(self.kind.capacity());
        Self {
            tries,
            at: now,
            ..self
        }
    }

    /// Returns whether it is as good as new.
    fn is_full(self) -> bool {
        self.tries >= self.kind.capacity() && self.num_pending == 0
    }

    /// Returns how long to wait for the next attempt; zero if one is available.
    fn wait(self) -> Duration {
        self.kind.refill().mul_f64((1.0 - self.tries).max(0.0))
    }

    /// Returns whether it is empty only because of attempts in progress.
    fn is_pending(self) -> bool {
        self.tries + f64::from(self.num_pending) >= 1.0
    }
}

impl Memory {
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
    fn take(&mut self, attempt: &mut Attempt, now: Instant) -> Result<(), Empty> {
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
    fn end(&mut self, attempt: &Attempt, is_guess: bool, now: Instant) {
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
    fn is_repeat(&mut self, attempt: &Attempt, now: Instant) -> bool {
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
    fn forget_old(&mut self, now: Instant) {
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
}

impl Throttle {
    /// Builds a throttle; one that is off admits everything.
    pub fn new(is_on: bool) -> Self {
        let memory = Memory {
            buckets: LruCache::unbounded(),
            homes: LruCache::unbounded(),
            guesses: LruCache::unbounded(),
            lines: HashMap::new(),
        };
        Self {
            is_on,
            memory: Mutex::new(memory),
            secret: rand::random(),
            num_refused: AtomicU64::default(),
        }
    }

    /// Returns the throttle's state.
    pub fn state(&self) -> ThrottleState {
        ThrottleState {
            num_buckets: self.memory.lock().buckets.len(),
            num_refused: self.num_refused.load(Ordering::Relaxed),
        }
    }

    /// Takes one attempt from each of an attempt's buckets, or none for a repeat that is free. Returns
    /// the attempt as what can be given back.
    ///
    /// # Errors
    /// 429 with the time to wait, if one of them is empty.
    pub fn admit(&self, attempt: Attempt, now: Instant) -> Result<Attempt, ApiError> {
        if !self.is_on {
            return Ok(attempt);
        }
        let mut memory = self.memory.lock();
        let mut attempt = self.prepared(&mut memory, attempt, now);
        if !attempt.is_free {
            let taken = memory.take(&mut attempt, now);
            taken.map_err(|empty| self.refusal(empty.wait))?;
        }
        Ok(attempt)
    }

    /// Returns an attempt with its guess hidden, and free if it repeats the last guess.
    fn prepared(&self, memory: &mut Memory, attempt: Attempt, now: Instant) -> Attempt {
        memory.forget_old(now);
        let guess = attempt.guess;
        let guess = guess.map(|it| *blake3::keyed_hash(&self.secret, &it).as_bytes());
        let mut attempt = Attempt { guess, ..attempt };
        attempt.is_free = memory.is_repeat(&attempt, now);
        attempt
    }

    fn refusal(&self, wait: Duration) -> ApiError {
        self.num_refused.fetch_add(1, Ordering::Relaxed);
        refusal(wait)
    }

    /// Remembers that this attempt has signed in to the account from the address.
    pub fn welcome(&self, attempt: &Attempt) {
        let Some(pair) = attempt.pair().filter(|_| self.is_on) else {
            return;
        };
        let mut memory = self.memory.lock();
        memory.homes.put(pair, ());
        if memory.homes.len() > MAX_HOMES {
            memory.homes.pop_lru();
        }
    }
}

/// Returns the key of a bucket; the parts are separated unambiguously.
fn key_of(parts: &[&str]) -> Key {
    *blake3::hash(json!(parts).to_string().as_bytes()).as_bytes()
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

    const OWNER: &str = "192.0.2.1";

    fn give_back(throttle: &Throttle, attempt: &Attempt, now: Instant) {
        if !attempt.is_free {
            throttle.memory.lock().end(attempt, false, now);
        }
    }

    fn num_admitted(throttle: &Throttle, attempt: &Attempt, now: Instant) -> usize {
        let admitted = (0..200).filter(|_| throttle.admit(attempt.clone(), now).is_ok());
        admitted.count()
    }

    fn stranger(number: usize) -> Attempt {
        Attempt::on("ada", &format!("stranger {number}"))
    }

    #[test]
    fn an_empty_bucket_refuses_until_it_refills() {
        let throttle = Throttle::new(true);
        let (start, attempt) = (Instant::now(), Attempt::at("address 1"));
        assert_eq!(num_admitted(&throttle, &attempt, start), 10);
        let error = throttle.admit(attempt.clone(), start).unwrap_err();
        assert_eq!(error.status(), 429);
        assert!(throttle.admit(Attempt::at("address 2"), start).is_ok());
        let later = start + Kind::Address.refill();
        assert_eq!(num_admitted(&throttle, &attempt, later), 1);
    }

    #[test]
    fn a_stranger_locks_nobody_out_however_long_he_tries() {
        let (throttle, start) = (Throttle::new(true), Instant::now());
        let mut num_guesses = 0;
        for second in 0..86_400 {
            let now = start + Duration::from_secs(second);
            num_guesses += usize::from(throttle.admit(stranger(0), now).is_ok());
        }
        assert!((2_880..=2_890).contains(&num_guesses), "{num_guesses}");
        let now = start + Duration::from_secs(86_400);
        let owner = Attempt::on("ada", OWNER);
        assert!(throttle.admit(owner.clone(), now).is_ok());
    }

    #[test]
    fn many_strangers_together_have_so_many_guesses_and_no_more() {
        let (throttle, start) = (Throttle::new(true), Instant::now());
        let home = Attempt::on("ada", OWNER);
        throttle.welcome(&home);
        let all = |now| {
            let strangers = (0..100).map(stranger);
            strangers
                .filter(|it| throttle.admit(it.clone(), now).is_ok())
                .count()
        };
        let seconds = (0..3600).step_by(4);
        let num_guesses: usize = seconds.map(|it| all(start + Duration::from_secs(it))).sum();
        assert!((1_290..=1_300).contains(&num_guesses), "{num_guesses}");
        let now = start + Duration::from_secs(3596);
        let elsewhere = Attempt::on("ada", "192.0.2.2");
        assert!(throttle.admit(elsewhere.clone(), now).is_err());
        // Where she signs in she has the attempts of one address.
        assert_eq!(num_admitted(&throttle, &home, now), 10);
        assert!(throttle.admit(Attempt::on("ben", OWNER), now).is_err());
    }

    #[test]
    fn who_is_refused_for_one_name_takes_nothing_from_the_others() {
        let (throttle, now) = (Throttle::new(true), Instant::now());
        let there = Attempt::at("stranger 0");
        assert_eq!(num_admitted(&throttle, &there, now), 10);
        assert_eq!(num_admitted(&throttle, &stranger(0), now), 0);
        let others = (1..20).map(|it| num_admitted(&throttle, &stranger(it), now));
        assert_eq!(others.sum::<usize>(), 100);
    }

    #[test]
    fn one_repeat_of_a_guess_is_free_for_some_seconds() {
        let (throttle, start) = (Throttle::new(true), Instant::now());
        let guess = |text: &str| Attempt::on("ada", OWNER).guessing(text);
        for number in 0..9 {
            for _ in 0..2 {
                throttle.admit(guess(&number.to_string()), start).unwrap();
            }
        }
        // The third is a guess again, and so is a repeat of an older one.
        assert!(throttle.admit(guess("8"), start).is_ok());
        assert!(throttle.admit(guess("7"), start).is_err());
        let late = start + Kind::Address.refill() * 4;
        assert!(throttle.admit(Attempt::at(OWNER), late).is_ok());
        assert!(throttle.admit(guess("8"), late).is_err());
        assert_eq!(throttle.memory.lock().guesses.len(), 0);
    }

    #[test]
    fn a_free_repeat_of_the_right_password_gives_nothing_back() {
        let (throttle, now) = (Throttle::new(true), Instant::now());
        let own = Attempt::on("eve", OWNER).guessing("her own");
        throttle.admit(Attempt::on("ada", OWNER), now).unwrap();
        for _ in 0..20 {
            let admitted = throttle.admit(own.clone(), now).unwrap();
            give_back(&throttle, &admitted, now);
        }
        let at_address = Attempt::at(OWNER);
        assert_eq!(num_admitted(&throttle, &at_address, now), 9);
    }

    #[test]
    fn what_was_taken_is_given_back_though_the_address_is_a_home_by_then() {
        let (throttle, now) = (Throttle::new(true), Instant::now());
        let own = Attempt::on("ada", OWNER);
        let devices: Vec<_> = (0..5)
            .map(|_| throttle.admit(own.clone(), now).unwrap())
            .collect();
        for device in &devices {
            give_back(&throttle, device, now);
            throttle.welcome(device);
        }
        assert_eq!(throttle.state().num_buckets, 0);
    }

    #[test]
    fn what_was_no_guess_takes_nothing() {
        let (throttle, now) = (Throttle::new(true), Instant::now());
        for _ in 0..200 {
            throttle.admit(stranger(0), now).unwrap();
            give_back(&throttle, &stranger(0), now);
        }
        assert_eq!(throttle.state().num_buckets, 0);
        // An attempt that was not taken is not given back.
        give_back(&throttle, &stranger(0), now);
        assert_eq!(num_admitted(&throttle, &stranger(0), now), 10);
    }

    #[test]
    fn sign_ups_that_succeed_have_a_bucket_of_their_own() {
        let (throttle, start) = (Throttle::new(true), Instant::now());
        let anonymous = Attempt::default().signing_up(OWNER);
        let named = |it: usize| Attempt::on(&format!("new {it}"), OWNER).signing_up(OWNER);
        for number in 0..100 {
            throttle.admit(anonymous.clone(), start).unwrap();
            throttle.admit(named(number), start).unwrap();
            give_back(&throttle, &named(number), start);
        }
        // 100 of 300 are left, and none of the address's ten attempts has been taken.
        assert_eq!(num_admitted(&throttle, &anonymous, start), 100);
        assert!(throttle.admit(named(100), start).is_err());
        let owner = Attempt::on("ada", OWNER);
        assert_eq!(num_admitted(&throttle, &owner, start), 10);
        let later = start + Kind::SignUps.refill();
        assert_eq!(num_admitted(&throttle, &anonymous, later), 1);
    }

    #[test]
    fn who_asks_which_names_are_taken_guesses() {
        let (throttle, now) = (Throttle::new(true), Instant::now());
        let taken = Attempt::on("ada", OWNER).signing_up(OWNER);
        assert_eq!(num_admitted(&throttle, &taken, now), 10);
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let (throttle, start) = (Throttle::new(true), Instant::now());
        for number in 0..100 {
            throttle.admit(stranger(number), start).unwrap();
        }
        assert_eq!(throttle.state().num_buckets, 201);
        let later = start + Duration::from_secs(300);
        throttle.admit(Attempt::at(OWNER), later).unwrap();
        assert_eq!(throttle.state().num_buckets, 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (throttle, now) = (Throttle::new(true), Instant::now());
        for number in 0..MAX_HOMES + 10 {
            let attempt = Attempt::on(&format!("user {number}"), &format!("address {number}"));
            throttle.admit(attempt.clone(), now).unwrap();
            throttle.welcome(&attempt);
        }
        // The excess is evicted at the next attempt.
        throttle.admit(stranger(0), now).unwrap();
        assert_eq!(throttle.state().num_buckets, MAX_BUCKETS + 3);
        assert_eq!(throttle.memory.lock().homes.len(), MAX_HOMES);
    }

    #[test]
    fn one_that_is_off_lets_everything_through() {
        let throttle = Throttle::new(false);
        assert_eq!(num_admitted(&throttle, &stranger(0), Instant::now()), 200);
    }
}
