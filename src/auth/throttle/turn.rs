//! Attempts that wait for others.
//!
//! 1. An attempt takes from its buckets when it is admitted. Whether it was a guess is known only
//!    when its [`Turn`] ends: when the password has been checked, or the provider has answered.
//! 2. If a bucket of the address is empty, but would not be if all attempts in progress were given
//!    back, a new attempt waits in the address's line: for a limited time, as one of a limited number.
//! 3. Whenever a turn ends, those who wait are looked at in the order of their arrival. Who finds
//!    what they need takes it; who could not find it any more, because attempts in progress were
//!    guesses, is refused.
//!
//! Those who wait take from the same buckets as everybody, so waiting gives nobody another guess. No
//! password is checked for them meanwhile.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skytrail_schema::code::ApiError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Throttle;
use super::attempt::{Attempt, Key};
use super::bucket::Kind;
use super::memory::Memory;

/// How long an attempt waits.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How many attempts of an address wait; it is no more than can sign up there at once.
const MAX_WAITING: usize = 300;

/// An attempt in progress. If it is dropped without having been given back, it was a guess: also
/// when its client has hung up.
#[derive(Debug)]
pub struct Turn {
    throttle: Arc<Throttle>,
    attempt: Attempt,
    has_ended: bool,
}

impl Turn {
    /// Gives the attempt back, because it was not a guess.
    pub fn give_back(&mut self) {
        self.end(false, Instant::now());
    }

    /// Remembers that this attempt has signed in to the account from the address.
    pub fn welcome(&self) {
        self.throttle.welcome(&self.attempt);
    }

    fn end(&mut self, is_guess: bool, now: Instant) {
        if mem::replace(&mut self.has_ended, true) {
            return;
        }
        let mut memory = self.throttle.memory.lock();
        memory.end(&self.attempt, is_guess, now);
        let told = memory.advance(self.attempt.key_of(Kind::Address), now);
        drop(memory);
        self.throttle.tell(told);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end(true, Instant::now());
    }
}

/// An attempt that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    attempt: Attempt,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Turn, ApiError>>;

/// Answers that are sent when the memory is not locked any more: one that nobody receives ends its
/// turn.
type Told = Vec<(Answer, Result<Attempt, Duration>)>;

/// What an attempt finds.
#[derive(Debug)]
enum Entry {
    Decided(Result<Turn, ApiError>),
    Waits(oneshot::Receiver<Result<Turn, ApiError>>),
}

impl Memory {
    /// Looks at those who wait at an address, as of `now`.
    fn advance(&mut self, address: Option<Key>, now: Instant) -> Told {
        let mut told = Vec::new();
        let Some((address, line)) = address.and_then(|it| self.lines.remove_entry(&it)) else {
            return told;
        };
        let mut remaining = VecDeque::new();
        for mut waiter in line {
            if waiter.answer.is_closed() {
                continue;
            }
            match self.take(&mut waiter.attempt, now) {
                Ok(()) => told.push((waiter.answer, Ok(waiter.attempt))),
                Err(empty) if empty.is_pending => remaining.push_back(waiter),
                Err(empty) => told.push((waiter.answer, Err(empty.wait))),
            }
        }
        if !remaining.is_empty() {
            self.lines.insert(address, remaining);
        }
        told
    }

    /// Adds an attempt to its address's line, unless the line is too long.
    fn line_up(&mut self, attempt: &Attempt) -> Option<Entry> {
        let address = attempt.key_of(Kind::Address)?;
        let line = self.lines.entry(address).or_default();
        if line.len() >= MAX_WAITING {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        let attempt = attempt.clone();
        line.push_back(Waiter { attempt, answer });
        Some(Entry::Waits(receiver))
    }
}

impl Throttle {
    /// Like [`Throttle::admit`], but waits if buckets are empty only because of attempts in
    /// progress.
    ///
    /// # Errors
    /// 429 with the time to wait, if a bucket is empty, too many wait, or the wait is too long.
    pub async fn admit_in_turn(self: &Arc<Self>, attempt: Attempt) -> Result<Turn, ApiError> {
        match self.enter(attempt, Instant::now()) {
            Entry::Decided(decided) => decided,
            Entry::Waits(answer) => match timeout(MAX_WAIT, answer).await {
                Ok(Ok(decided)) => decided,
                _ => Err(self.refusal(Kind::Address.refill())),
            },
        }
    }

    fn enter(self: &Arc<Self>, attempt: Attempt, now: Instant) -> Entry {
        if !self.is_on {
            return Entry::Decided(Ok(self.turn(attempt)));
        }
        let mut memory = self.memory.lock();
        let mut attempt = self.prepared(&mut memory, attempt, now);
        if attempt.is_free {
            return Entry::Decided(Ok(self.turn(attempt)));
        }
        attempt.is_awaited = true;
        // Buckets refill with time, too: who waits already comes first.
        let told = memory.advance(attempt.key_of(Kind::Address), now);
        let entry = match memory.take(&mut attempt, now) {
            Ok(()) => Entry::Decided(Ok(self.turn(attempt))),
            Err(empty) => {
                let lined_up = empty.is_pending.then(|| memory.line_up(&attempt));
                let refused = || Entry::Decided(Err(self.refusal(empty.wait)));
                lined_up.flatten().unwrap_or_else(refused)
            }
        };
        drop(memory);
        self.tell(told);
        entry
    }

    /// Returns the turn of an attempt that is admitted.
    fn turn(self: &Arc<Self>, attempt: Attempt) -> Turn {
        Turn {
            throttle: Arc::clone(self),
            has_ended: attempt.is_free || !self.is_on,
            attempt,
        }
    }

    fn tell(self: &Arc<Self>, told: Told) {
        for (answer, decided) in told {
            let decided = match decided {
                Ok(attempt) => Ok(self.turn(attempt)),
                Err(wait) => Err(self.refusal(wait)),
            };
            if let Err(Ok(mut unheard)) = answer.send(decided) {
                unheard.give_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: &str = "192.0.2.1";
    /// What an address and an account there hold.
    const TRIES: usize = 10;

    fn attempt(user: usize) -> Attempt {
        Attempt::on(&format!("user {user}"), ADDRESS)
    }

    type Receiver = oneshot::Receiver<Result<Turn, ApiError>>;

    /// One address, and all who try there.
    struct World {
        throttle: Arc<Throttle>,
        start: Instant,
        now: Instant,
        /// Users who are being checked, and whether their passwords are right.
        turns: Vec<(usize, bool, Turn)>,
        /// Users who wait, by arrival.
        waiting: VecDeque<(usize, bool, Receiver)>,
        num_guesses: usize,
        num_refused: usize,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                throttle: Arc::new(Throttle::new(true)),
                start: now,
                now,
                turns: Vec::new(),
                waiting: VecDeque::new(),
                num_guesses: 0,
                num_refused: 0,
            }
        }

        fn enter(&mut self, user: usize, is_right: bool) {
            let entry = self.throttle.enter(attempt(user), self.now);
            self.look();
            match entry {
                Entry::Waits(receiver) => self.waiting.push_back((user, is_right, receiver)),
                Entry::Decided(decided) => {
                    let is_overtaking = self.waiting.iter().any(|(it, ..)| *it == user);
                    assert!(!(is_overtaking && decided.is_ok()), "{user} overtakes");
                    self.decided(user, is_right, decided);
                }
            }
        }

        fn decided(&mut self, user: usize, is_right: bool, decided: Result<Turn, ApiError>) {
            match decided {
                Ok(turn) => self.turns.push((user, is_right, turn)),
                Err(_) => self.num_refused += 1,
            }
        }

        fn end(&mut self, which: usize) {
            if self.turns.is_empty() {
                return;
            }
            let (_, is_right, mut turn) = self.turns.remove(which % self.turns.len());
            self.num_guesses += usize::from(!is_right);
            turn.end(!is_right, self.now);
            self.look();
        }

        /// Takes the answers of those who waited.
        fn look(&mut self) {
            let mut still_waiting: VecDeque<(usize, bool, Receiver)> = VecDeque::new();
            for (user, is_right, mut receiver) in mem::take(&mut self.waiting) {
                match receiver.try_recv() {
                    Ok(decided) => {
                        let is_overtaking = still_waiting.iter().any(|(it, ..)| *it == user);
                        assert!(!(is_overtaking && decided.is_ok()), "{user} overtakes");
                        self.decided(user, is_right, decided);
                    }
                    Err(_) => still_waiting.push_back((user, is_right, receiver)),
                }
            }
            self.waiting = still_waiting;
        }

        /// Checks what holds at any time.
        fn check(&self) {
            let refilled = (self.now - self.start).as_secs_f64() / 3.0;
            let num_taken = self.num_guesses + self.turns.len();
            assert!(
                num_taken as f64 <= TRIES as f64 + refilled + 1e-6,
                "{num_taken}"
            );
            assert!(self.waiting.len() <= MAX_WAITING);
            let is_idle = self.turns.is_empty();
            assert!(!is_idle || self.waiting.is_empty(), "they wait for nobody");
        }
    }

    proptest! {
        #[test]
        fn waiting_gives_nobody_another_guess_and_ends(
            steps in prop::collection::vec((0_u8..8, 0_usize..4, any::<bool>()), 0..200)
        ) {
            let mut world = World::new();
            for (step, number, is_right) in steps {
                match step {
                    0..=3 => world.enter(number, is_right),
                    4..=5 => world.end(number),
                    6 => world.now += Duration::from_millis(700 * number as u64),
                    _ => drop(world.waiting.remove(number)),
                }
                world.check();
            }
            while !world.turns.is_empty() {
                world.end(0);
                world.check();
            }
            let memory = world.throttle.memory.lock();
            prop_assert!(memory.lines.is_empty());
            prop_assert!(memory.buckets.iter().all(|(_, it)| it.num_pending == 0));
        }
    }

    #[test]
    fn whoever_is_right_is_never_refused_while_the_line_is_short() {
        let mut world = World::new();
        for user in 0..TRIES + MAX_WAITING {
            world.enter(user, true);
        }
        assert_eq!((world.turns.len(), world.num_refused), (TRIES, 0));
        world.enter(0, true);
        assert_eq!(world.num_refused, 1);
        let mut order = Vec::new();
        while let Some((user, ..)) = world.turns.first() {
            order.push(*user);
            world.end(0);
        }
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(order.len(), TRIES + MAX_WAITING);
        assert_eq!(world.throttle.state().num_buckets, 0);
    }

    #[test]
    fn who_hangs_up_makes_room_in_the_line() {
        let mut world = World::new();
        for user in 0..TRIES + MAX_WAITING {
            world.enter(user, true);
        }
        world.waiting.clear();
        world.enter(0, true);
        assert_eq!((world.waiting.len(), world.num_refused), (1, 0));
    }
}
