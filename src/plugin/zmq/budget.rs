//! Limits the memory of the messages being read, of all workers of a plugin together.
//!
//! Any program can connect, claim to be a worker and start a message that never ends. With enough
//! of them, the limit of a single message does not protect the memory. Small messages are free,
//! because workers depend on them.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes of each message are free.
pub(super) const FREE_BYTES: u64 = 64 * 1024;

/// The bytes left for all.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

/// The bytes that a message has taken; returned when it is dropped.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    free: u64,
    taken: u64,
}

impl Budget {
    /// Returns a budget of this many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Starts a message.
    pub(super) fn share(&self) -> Share<'_> {
        Share {
            budget: self,
            free: FREE_BYTES,
            taken: 0,
        }
    }
}

impl Share<'_> {
    /// Takes some more bytes; returns false when there are not enough.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let paid = bytes.saturating_sub(self.free);
        let less = |remaining: u64| remaining.checked_sub(paid);
        let remaining = &self.budget.0;
        let is_taken = remaining
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok();
        if is_taken {
            self.free = self.free.saturating_sub(bytes);
            self.taken += paid;
        }
        is_taken
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_share_what_there_is() {
        let budget = Budget::new(100);
        let (mut first, mut second) = (budget.share(), budget.share());
        assert!(first.take(FREE_BYTES) && first.take(60));
        assert!(second.take(FREE_BYTES + 40) && !second.take(1));
        // Small messages still pass.
        assert!(budget.share().take(FREE_BYTES));
        drop(first);
        assert!(second.take(60) && !second.take(1));
    }
}
