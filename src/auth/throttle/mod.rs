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

mod attempt;
mod bucket;
mod memory;
mod turn;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use skytrail_schema::code::ApiError;

pub use attempt::Attempt;
use memory::Memory;
pub use turn::Turn;

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

impl Throttle {
    /// Builds a throttle; one that is off admits everything.
    pub fn new(is_on: bool) -> Self {
        Self {
            is_on,
            memory: Mutex::new(Memory::empty()),
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
        self.memory.lock().add_home(pair);
    }
}

fn refusal(wait: Duration) -> ApiError {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    ApiError::unexpected("too many attempts, try again later")
        .with_status(429)
        .with_info("retry_after_ms", json!(millis))
}

#[cfg(test)]
mod tests;
