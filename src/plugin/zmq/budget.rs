//! How much memory the messages take that are being read, of all workers of a plugin together.
//!
//! Anybody may connect, say that he is a worker and begin a message that never ends; so many may do
//! that, that the bound of one message is none for all of them. Small messages are free: they are
//! what workers live by.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much of each message is free.
pub(super) const FREE_BYTES: u64 = 64 * 1024;

/// What is left for all.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

/// What a message takes; given back with it.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    free: u64,
    taken: u64,
}

impl Budget {
    /// Returns a budget of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Begins with a message.
    pub(super) fn share(&self) -> Share<'_> {
        Share {
            budget: self,
            free: FREE_BYTES,
            taken: 0,
        }
    }
}

impl Share<'_> {
    /// Takes some more, or says that it is not there.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let paid = bytes.saturating_sub(self.free);
        let less = |left: u64| left.checked_sub(paid);
        let left = &self.budget.0;
        let is_taken = left
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
        // Small ones go on.
        assert!(budget.share().take(FREE_BYTES));
        drop(first);
        assert!(second.take(60) && !second.take(1));
    }
}
